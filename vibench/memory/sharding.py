"""The memory of a card that holds a part of the weights, from a trace in which one card holds them all."""

import dataclasses

from torch import nn

from vibench.memory.tracker import Block


def sharded(
    blocks: list[Block], events: list[tuple[int, bool]], model: nn.Module, devices: int
) -> tuple[list[Block], list[tuple[int, bool]]]:
    """Weights, gradients and optimizer state are cut into ``devices`` parts; beside them lie whole the weights that are
    at work: those outside of the blocks, those of one block and of the next, which is asked for while the one runs,
    and the gradients of the same."""
    kept = set()
    for number, comes in events:
        (kept.add if comes else kept.discard)(number)
    cut = [_part(block, number in kept, devices) for number, block in enumerate(blocks)]
    inside = [_bytes(block) for block in getattr(model.backbone, "blocks", ())]
    outside = _bytes(model) - sum(inside)
    gathered = 2 * (outside + min(2 * max(inside, default=0), sum(inside)))
    number = len(cut)
    return [*cut, Block(gathered, "gathered", "", 0)], [(number, True), *events]


def _part(block: Block, kept: bool, devices: int) -> Block:
    state = block.phase == "weights" or block.gradient or (block.phase == "optimizer" and kept)
    return dataclasses.replace(block, nbytes=-(-block.nbytes // devices)) if state else block


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * 4 for parameter in module.parameters())
