"""Several processes with a device each that train one model together.

Every one of them has the whole batch on its host and takes its share of it to its device, so that labels are counted
without asking the others. Without a process group there is one rank, and nothing here costs anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vibench.data.batch import Batch
from vibench.step.checkpointing import blocks_of

T = TypeVar("T")
BUCKET_BYTES = 64 * 2**20  # of gradients that are summed at once


class _Alone:
    """Whether this process is to act as if it had no others."""

    now = False


@contextmanager
def alone() -> Iterator[None]:
    """Within it there is one rank: what is rehearsed here, the others do not take part in."""
    before, _Alone.now = _Alone.now, True
    try:
        yield
    finally:
        _Alone.now = before


def ranks() -> int:
    """Processes that train together."""
    together = dist.is_available() and dist.is_initialized() and not _Alone.now
    return dist.get_world_size() if together else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if ranks() > 1 else 0


def leave() -> None:
    """Be alone from here on."""
    if ranks() > 1:
        dist.destroy_process_group()


def own_share(batch: Batch) -> Batch:
    """The windows of a batch that this rank sees.

    As many as every other, so that all ask for weights equally often: what is missing in the last batch of an epoch is
    filled up with windows without labels, which add nothing to any gradient or metric.
    """
    if ranks() == 1:
        return batch
    length = -(-len(batch) // ranks())
    if len(batch) % ranks() == 0:
        return batch.part(rank() * length, (rank() + 1) * length)
    rows = torch.arange(length) + rank() * length
    share = batch.take(rows.clamp(max=len(batch) - 1))
    for present in share.present.values():
        present[rows >= len(batch)] = False
    return share


@torch.no_grad()
def sum_over_ranks(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all ranks; all of one kind and device. Small ones are sent together."""
    if ranks() == 1:
        return
    bucket: list[Tensor] = []
    for tensor in tensors:
        if tensor.nbytes >= BUCKET_BYTES and tensor.is_contiguous():
            dist.all_reduce(tensor)
            continue
        if bucket and sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET_BYTES:
            _sum_together(bucket)
            bucket = []
        bucket.append(tensor)
    if bucket:
        _sum_together(bucket)


def _sum_together(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def least_over_ranks(number: float, device: torch.device) -> float:
    """The smallest of what the ranks have."""
    if ranks() == 1:
        return number
    tensor = torch.tensor(number, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MIN)
    return float(tensor)


def of_first(value: T) -> T:
    """What the first rank has."""
    if ranks() == 1:
        return value
    told = [value]
    dist.broadcast_object_list(told)
    return told[0]


def each_rank(value: T) -> list[T]:
    """What every rank has, in their order."""
    if ranks() == 1:
        return [value]
    everywhere: list[Any] = [None] * ranks()
    dist.all_gather_object(everywhere, value)
    return everywhere


def any_rank(flag: bool) -> bool:
    """Whether it is so on any of the ranks."""
    if ranks() == 1:
        return flag
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    told = torch.tensor(int(flag), device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return bool(told)


def first_told(text: str | None) -> str | None:
    """What the first rank that has something to say says; None where none has."""
    if not any_rank(text is not None):
        return None
    said = each_rank(text)
    number = next(number for number, one in enumerate(said) if one is not None)
    return said[number] if ranks() == 1 else f"{said[number]} on rank {number}"


def union_over_ranks(found: set[int]) -> set[int]:
    """What any of the ranks has found."""
    return found if ranks() == 1 else set().union(*each_rank(found))


def shard(model: nn.Module, device: torch.device) -> None:
    """Give every rank a part of each weight; a block's are put together when it is its turn (FSDP, Zhao et al. 2023,
    https://arxiv.org/abs/2304.11277).

    Args:
        model: on the host; its parts go to the device.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks(),))
    roots = [model.embedding, model.backbone, *model.tasks.values()]  # each is called by the step on its own
    for module in [*blocks_of(model), *roots]:
        if any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh)
        else:
            module.to(device)


def whole(value: object) -> object:
    """A tensor that the ranks hold in parts, on the first one's host; all must ask. Anything else as it is."""
    gathered = getattr(value, "full_tensor", None)
    if gathered is None:
        return value
    tensor = gathered()
    return None if rank() else tensor.cpu()
