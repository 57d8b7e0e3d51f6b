"""Activation checkpointing: what a block of the embedding or the backbone keeps for its backward pass.

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


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The units of checkpointing of a model, those of its embedding first."""
    return [block for part in (model.embedding, model.backbone) for block in getattr(part, "blocks", ())]


def levels(model: nn.Module) -> list[str]:
    """What checkpointing there is for a model, from what costs nothing to what keeps least."""
    blocks = blocks_of(model)
    if not blocks:
        return ["none"]
    return ["none", "selective", "full"] + ["sliced"] * any(slices_of(block) > 1 for block in blocks)


def slices_of(block: nn.Module) -> int:
    """Parts that a block can be given one after another: its sequences do not know of each other."""
    return getattr(block, "slices", 1)


def checkpoint_blocks(model: nn.Module, how: str) -> None:
    """Let the blocks of a model keep less.

    Args:
        how: none: everything is kept; selective: products and attention are, the rest is computed again; full: only
            what goes into a block is; sliced: as full, and the sequences of a block that has ``slices`` go through it
            in so many parts, so that what it holds while it works is that much less, also in evaluation.
    """
    if how == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    for block in blocks_of(model):
        block.forward = _recomputing(weakref.ref(block), options, slices_of(block) if how == "sliced" else 1)


def _recomputing(block: weakref.ref[nn.Module], options: dict[str, Any], slices: int) -> Callable[..., torch.Tensor]:
    """A forward pass that does not hold its block: a circle would keep the weights until garbage is collected."""

    def once(*tensors: torch.Tensor) -> torch.Tensor:
        module = block()
        forward = type(module).forward
        if not torch.is_grad_enabled():
            return forward(module, *tensors)
        return checkpoint(forward, module, *tensors, **options)

    def call(*tensors: torch.Tensor) -> torch.Tensor:
        if slices == 1:
            return once(*tensors)
        return torch.cat([once(*part) for part in zip(*(t.tensor_split(slices) for t in tensors), strict=True)])

    return call


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in DEAR else CheckpointPolicy.PREFER_RECOMPUTE
