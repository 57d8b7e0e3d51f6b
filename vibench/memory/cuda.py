"""What operators do on a GPU, done by fake tensors on the CPU, so that a trace needs no GPU.

Fake tensors of a GPU do not work where there is none. What differs in memory is few: dropout keeps a mask of one byte,
attention has kernels that do not keep its weights, and autocast has other lists of operators. Those of a GPU are read
from the header that PyTorch ships, those of a CPU from its dispatcher, so that they are those of this version.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

aten = torch.ops.aten
HEADER = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
HALF = (torch.float16, torch.bfloat16)


@contextmanager
def as_on_gpu(compute_capability: float) -> Iterator[None]:
    """Operators on fake CPU tensors behave as on a GPU of that compute capability."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="[^$]*Overriding a previously registered kernel")  # that is the aim
        library.impl("dropout", _dropout, "AutogradCPU")
        library.impl("scaled_dot_product_attention", partial(_attention, compute_capability), "AutogradCPU")
        for name, how in _autocast().items():
            library.impl(name, how, "AutocastCPU")
    try:
        yield
    finally:
        library._destroy()


@cache
def _autocast() -> dict[str, Callable[..., Any]]:
    """Operator -> what autocast does with it on a GPU, where it does something else on a CPU."""
    text = HEADER.read_text()
    lists = {
        name: {".".join(found) if found[1] else found[0] for found in re.findall(r"_\((\w+)(?:, (\w+))?\)", body)}
        for name, body in re.findall(r"define AT_FORALL_(\w+)\(_\)((?:.*\\\n)+.*)", text)
    }
    on_cpu = {
        name.removeprefix("aten::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCPU")
    }
    known = lists["LOWER_PRECISION_FP"] | lists["PROMOTE"]
    different = dict.fromkeys(on_cpu - known, torch.library.fallthrough_kernel)
    different |= {name: _in_fp32(name, by_dtype=False) for name in lists["FP32"]}
    return different | {name: _in_fp32(name, by_dtype=True) for name in lists["FP32_SET_OPT_DTYPE"]}


def _in_fp32(name: str, *, by_dtype: bool) -> Callable[..., Any]:
    """Calculate in fp32: by a copy of the arguments, or where the operator can, as it reads them."""
    operator, _, overload = name.partition(".")
    call = getattr(getattr(aten, operator), overload or "default")

    def cast(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
            if not by_dtype:
                return call(*tree_map(cast, args), **tree_map(cast, kwargs))
            if args[0].dtype in HALF and kwargs.get("dtype") is None and len(args) < _place_of_dtype(call):
                kwargs["dtype"] = torch.float32
            return call(*args, **kwargs)

    return kernel


def _place_of_dtype(operator: Any) -> int:
    """How many arguments, by place, leave the dtype unsaid."""
    names = [argument.name for argument in operator._schema.arguments]
    return names.index("dtype") + 1


def _dropout(tensor: Tensor, p: float, train: bool) -> Tensor:
    return torch.native_dropout(tensor, p, train)[0] if train and p > 0 else tensor


def _attention(
    capability: float,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel that PyTorch would choose: flash in half precision from Ampere on, else the memory-efficient one."""
    half = query.dtype in HALF
    if half and capability >= 8 and attn_mask is None and query.shape[-1] <= 256:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
