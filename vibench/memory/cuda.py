"""What operators do on a GPU, done by fake tensors on the CPU, so that a trace needs no GPU.

Fake tensors of a GPU do not work where there is none. What differs in memory is few: dropout keeps a mask of one byte,
attention has kernels that do not keep its weights, and autocast has other lists of operators.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

aten = torch.ops.aten
IN_FP32 = (  # on a GPU, and not on a CPU (ATen/autocast_mode.h)
    "cumsum",
    "exp",
    "layer_norm",
    "log_softmax.int",
    "logsumexp",
    "pow.Tensor_Scalar",
    "rsqrt",
    "softmax.int",
    "softplus",
    "sum",
    "sum.dim_IntList",
)


@contextmanager
def as_on_gpu(compute_capability: float) -> Iterator[None]:
    """Operators on fake CPU tensors behave as on a GPU of that compute capability."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("dropout", _dropout, "AutogradCPU")
    library.impl("scaled_dot_product_attention", partial(_attention, compute_capability), "AutogradCPU")
    for name in IN_FP32:
        library.impl(name, _in_fp32(name), "AutocastCPU")
    try:
        yield
    finally:
        library._destroy()


def _in_fp32(name: str) -> Callable[..., Any]:
    operator, _, overload = name.partition(".")
    call = getattr(getattr(aten, operator), overload or "default")

    def cast(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if half else value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
            return call(*tree_map(cast, args), **tree_map(cast, kwargs))

    return kernel


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
    half = query.dtype in (torch.float16, torch.bfloat16)
    if half and capability >= 8 and attn_mask is None and query.shape[-1] <= 256:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
