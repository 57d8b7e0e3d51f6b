"""The memory of one card of several, from a trace in which it is alone."""

import dataclasses

from torch import nn

from vibench.memory.tracker import Block
from vibench.step.ranks import BUCKET_BYTES

AT_WORK = ("input", "forward", "backward", "score")  # when weights are put together


def sharded(
    blocks: list[Block], events: list[tuple[int, bool]], model: nn.Module, devices: int
) -> tuple[list[Block], list[tuple[int, bool]]]:
    """Weights, gradients and optimizer state are cut into ``devices`` parts.

    Beside them lie whole, at most: weights and gradients outside of the blocks; the weights of one block and of the
    next, which is asked for while the one runs; those just received; the gradients of a block, and those being sent.
    """
    kept = set()
    for number, comes in events:
        (kept.add if comes else kept.discard)(number)
    cut = [_part(block, number in kept, devices) for number, block in enumerate(blocks)]
    inside = [_bytes(block) for block in getattr(model.backbone, "blocks", ())]
    outside = _bytes(model) - sum(inside)
    gathered = 2 * outside + 5 * max(inside, default=0)
    number, found, there = len(cut), [], False
    for event in events:
        if event[1] and there != (cut[event[0]].phase in AT_WORK):
            there = not there
            found.append((number, there))
        found.append(event)
    return [*cut, Block(gathered, "gathered", "", 0)], found


def replicated(blocks: list[Block], events: list[tuple[int, bool]]) -> tuple[list[Block], list[tuple[int, bool]]]:
    """Every card holds everything, and a bucket of gradients while they are summed: when a step has gone backward."""
    number, found, forward = len(blocks), [], False
    for event in events:
        block = blocks[event[0]]
        if event[1] and forward and block.phase == "optimizer":
            found += [(number, True), (number, False)]
        if event[1]:
            forward = block.phase != "optimizer"
        found.append(event)
    gradients = sum(block.nbytes for block in blocks if block.gradient) // 2  # of two steps
    return [*blocks, Block(min(gradients, BUCKET_BYTES), "gathered", "", 0)], found


def _part(block: Block, kept: bool, devices: int) -> Block:
    state = block.phase == "weights" or block.gradient or (block.phase == "optimizer" and kept)
    return dataclasses.replace(block, nbytes=-(-block.nbytes // devices)) if state else block


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * 4 for parameter in module.parameters())
