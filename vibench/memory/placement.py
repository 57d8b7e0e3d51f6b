"""What a card holds where it does not hold everything in fp32: from a trace in which it does.

The optimizer's state may be of 8 bits or on the host, and weights and state may be spread over several cards.
"""

import dataclasses

from torch import nn

from vibench.memory.tracker import Block, lasting
from vibench.step.ranks import BUCKET_BYTES

INT8_GROUP, INT8_LEAST = 256, 4096  # weights that share a scale in 8 bits; a smaller tensor stays in fp32 (torchao)
AT_WORK = ("input", "forward", "backward", "score")  # when weights are put together


def placed(blocks: list[Block], events: list[tuple[int, bool]], state: str) -> list[Block]:
    """The blocks with the optimizer's state elsewhere.

    Args:
        state: device, int8 or host.
    """
    if state == "device":
        return blocks
    kept = lasting(events)
    shrink = _in_int8 if state == "int8" else lambda nbytes: 0
    return [
        dataclasses.replace(block, nbytes=shrink(block.nbytes)) if _is_state(block, number in kept) else block
        for number, block in enumerate(blocks)
    ]


def _in_int8(nbytes: int) -> int:
    """Of a moment of a weight: codes, a scale per group, and the table of what the codes mean."""
    n = nbytes // 4
    return nbytes if n < INT8_LEAST or n % INT8_GROUP else n + n // INT8_GROUP * 4 + INT8_GROUP * 4


def sharded(
    blocks: list[Block], events: list[tuple[int, bool]], model: nn.Module, devices: int
) -> tuple[list[Block], list[tuple[int, bool]]]:
    """Weights, gradients and optimizer state are cut into ``devices`` parts.

    Beside them lie whole, at most: weights and gradients outside of the blocks; the weights of one block and of the
    next, which is asked for while the one runs; those just received; the gradients of a block, and those being sent.
    """
    kept = lasting(events)
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
    number, found, backward = len(blocks), [], False
    for event in events:
        block, comes = blocks[event[0]], event[1]
        if backward and (block.phase == "optimizer" if comes else block.gradient):
            found += [(number, True), (number, False)]
            backward = False
        elif comes:
            backward = backward or block.gradient
        found.append(event)
    small = [block.nbytes for block in blocks if block.gradient and block.nbytes < BUCKET_BYTES]  # others: in place
    return [*blocks, Block(min(sum(small) // 2, BUCKET_BYTES), "gathered", "", 0)], found  # of two steps


def _part(block: Block, kept: bool, devices: int) -> Block:
    state = block.phase == "weights" or block.gradient or _is_state(block, kept)
    return dataclasses.replace(block, nbytes=-(-block.nbytes // devices)) if state else block


def _is_state(block: Block, kept: bool) -> bool:
    return kept and block.phase == "optimizer" and not block.gradient


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * 4 for parameter in module.parameters())
