"""Activation checkpointing: what a block of the backbone keeps for its backward pass.

Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174.
"""

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

aten = torch.ops.aten
DEAR = {  # to compute again: the results of these are kept by selective checkpointing
    aten.mm.default,
    aten.bmm.default,
    aten.addmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def checkpoint_blocks(backbone: nn.Module, how: str) -> None:
    """Let the blocks of a backbone keep less.

    Args:
        how: none: everything is kept; selective: products and attention are, the rest is computed again; full: only
            what goes into a block is. A backbone without blocks is left as it is.
    """
    if how == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in getattr(backbone, "blocks", ()):
        block.forward = _recomputing(weakref.ref(block), options)


def _recomputing(block: weakref.ref[nn.Module], options: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """A forward pass that does not hold its block: a circle would keep the weights until garbage is collected."""

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        module = block()
        forward = type(module).forward
        if not torch.is_grad_enabled():
            return forward(module, *tensors)
        return checkpoint(forward, module, *tensors, **options)

    return call


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in DEAR else CheckpointPolicy.PREFER_RECOMPUTE
