"""What kernels of a CPU take for as long as they run, which no trace of fake tensors sees.

Convolutions and products in half precision reorder their arguments, an FFT copies them. How much is the library's
affair and depends on the processor, so each kernel is run once on real tensors of the shapes that were traced, under
the profiler that sees the CPU's allocator.
"""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

MOST_BYTES = 64 * 2**20  # of the tensors of one kernel: larger ones take seconds, their scratch stays unknown


class Scratch:
    """Bytes of scratch of an operator; each is run once."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def __call__(self, operator: Any, args: Any, kwargs: Any) -> int:
        leaves, spec = tree_flatten((args, kwargs))
        key = (operator, str(spec), *(_signature(leaf) for leaf in leaves))
        if key not in self._known:
            self._known[key] = _measured(operator, args, kwargs)
        return self._known[key]


def _signature(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return (leaf.shape, leaf.stride(), leaf.dtype, leaf.is_conj(), leaf.is_neg())
    return repr(leaf)


def _measured(operator: Any, args: Any, kwargs: Any) -> int:
    """Most bytes alive while the operator runs, less those that are left when it is done."""
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    if sum(tensor.untyped_storage().nbytes() for tensor in tensors) > MOST_BYTES:
        return 0
    with _disable_current_modes(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            real_args, real_kwargs = tree_map(_real, (args, kwargs))
            with torch.autograd.profiler.profile(use_device=None, profile_memory=True) as profiled:
                kept = operator(*real_args, **real_kwargs)
        except RuntimeError:  # zeros are no legal arguments of it
            return 0
        del kept
    profiler: Any = profiled
    live = most = 0
    for event in sorted(profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most - max(live, 0)


def _real(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    elements = leaf.untyped_storage().nbytes() // leaf.element_size()
    real = torch.zeros(elements, dtype=leaf.dtype).as_strided(leaf.shape, leaf.stride(), leaf.storage_offset())
    real = real.conj() if leaf.is_conj() else real  # it is resolved in the kernel, which takes a copy
    return torch._neg_view(real) if leaf.is_neg() else real
