"""The scan of a state-space layer in its dual, matrix form, with a backward pass of its own.

Shapes: S sequences, N tokens, H heads of P features, K states, c chunks of l tokens; of a pair, token j writes and
token i reads. Chunks come first and tokens last, so that every product is one of small matrices that lie together.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vibench.layers.precision import single_precision

AT_ONCE = 20  # chunks whose pairs are there at a time


def scan(
    values: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    chunk: int,
    skip: Tensor | None = None,
) -> Tensor:
    """State-space duality: ``h[t] = exp(step[t] rate) h[t-1] + step[t] write[t] values[t]``,
    ``y[t] = read[t] h[t] + skip values[t]`` (Dao and Gu 2024, https://arxiv.org/abs/2405.21060).

    Within a chunk all pairs of tokens are multiplied out; from chunk to chunk goes the state.

    Args:
        values: (S, N, H, P).
        step: (S, N, H), positive.
        rate: (H,), negative.
        write, read: (S, N, K), shared by the heads.
        chunk: l; the last one is filled up with steps of zero, which change nothing.
        skip: (H,); None for zero.

    Returns:
        (S, N, H, P).
    """
    n = values.shape[1]
    values, step, write, read = (_chunked(t, min(chunk, n)) for t in (values, step, write, read))
    out = _Scan.apply(values, step, rate, write, read)
    if skip is not None:
        out = torch.addcmul(out, skip[:, None, None], values)
    return out.permute(1, 0, 4, 2, 3).flatten(1, 2)[:, :n]


def fused_scan(
    values: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    chunk: int,
    skip: Tensor | None = None,
) -> Tensor:
    """:func:`scan` by the Triton kernels of mamba_ssm, which are for GPUs; they take chunks of 64 tokens and more."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    chunk = 1 << max(6, (chunk - 1).bit_length())  # a power of two
    return mamba_chunk_scan_combined(values, step, rate, write[:, :, None], read[:, :, None], chunk, D=skip)


def _chunked(tensor: Tensor, length: int) -> Tensor:
    """(S, N, ...) -> (c, S, ..., l), filled up with zeros."""
    if missing := -tensor.shape[1] % length:
        tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))
    return tensor.unflatten(1, (-1, length)).movedim((1, 2), (0, -1)).contiguous()


class _Scan(torch.autograd.Function):
    """values (c, S, H, P, l), step (c, S, H, l), rate (H,), write and read (c, S, K, l) -> (c, S, H, P, l).

    What belongs to pairs of tokens is l times as large as the step; it is computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor) -> Tensor:
        total = (step * rate[:, None]).cumsum(-1)  # log of the decay since the chunk began
        since, written = _since(total), values * step[..., None, :]
        out = written * _left(total)
        before = _carried(_product(out, write.mT), since[..., -1:], 1)  # (c, S, H, P, K)
        torch.mul(_product(before, read), since, out=out)
        for some, decay, overlap in _pairs(total, write, read):
            _stacked(out[some]).baddbmm_(_stacked(written[some]), _stacked(decay.mul_(overlap)))
        ctx.save_for_backward(values, step, rate, write, read, total, before, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, ...]:
        values, step, rate, write, read, total, before, out = ctx.saved_tensors
        with single_precision(of_out):
            of_out, written = of_out.contiguous(), values * step[..., None, :]
            of_written, of_write, of_read = _back_within(of_out, written, total, write, read)
            since, left = _since(total), _left(total)
            room = of_out * since
            of_read += before.flatten(2, 3).mT @ room.flatten(2, 3)
            of_states = _carried(_product(room, read.mT), since[..., -1:], -1)  # of what each chunk adds to the state
            of_write += of_states.flatten(2, 3).mT @ torch.mul(written, left, out=room).flatten(2, 3)
            of_written += _product(of_states, write).mul_(left)
            of_step = torch.mul(of_written, values, out=room).sum(-2)
            of_total = torch.mul(of_out, out, out=room).sum(-2) - of_step * step  # reads grow with it, writes shrink
            of_total[:-1, ..., -1] += (of_states[:-1] * before[1:]).sum((-2, -1))
            of_decay = of_total.flip(-1).cumsum(-1).flip(-1)
            of_rate = (of_decay * step).sum((0, 1, 3))
            return of_written.mul_(step[..., None, :]), of_step + of_decay * rate[:, None], of_rate, of_write, of_read


def _back_within(of_out: Tensor, written: Tensor, total: Tensor, write: Tensor, read: Tensor) -> tuple[Tensor, ...]:
    """Gradients of what is written, of write and of read, by way of the pairs within a chunk."""
    of_written, of_overlap = torch.empty_like(written), []
    for some, decay, overlap in _pairs(total, write, read):
        of_pairs = torch.bmm(_stacked(written[some]).mT, _stacked(of_out[some])).view_as(decay)
        of_overlap.append(of_pairs.mul_(decay).sum(2).triu_())  # (c, S, j, i)
        torch.bmm(_stacked(of_out[some]), _stacked(decay.mul_(overlap)).mT, out=_stacked(of_written[some]))
    return of_written, read @ torch.cat(of_overlap).mT, write @ torch.cat(of_overlap)


def _pairs(total: Tensor, write: Tensor, read: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Chunk by chunk, the decay from token j to token i (c, S, H, j, i), and what is read of what is written
    (c, S, 1, j, i), zero where j is later than i: there the decay is one, since it would grow beyond all bounds.
    """
    overlap = (write.mT @ read).triu()[:, :, None]
    for first in range(0, len(total), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        yield some, (total[some][..., None, :] - total[some][..., None]).clamp_(max=0).exp_(), overlap[some]


def _carried(added: Tensor, kept: Tensor, way: int) -> Tensor:
    """``out[t + way] = kept[t] out[t] + added[t]`` from zero on, over (c, S, H, P, K)."""
    out = torch.empty_like(added)
    _carry(out, added, kept, way)
    return out


@torch.library.custom_op("vibench::carry", mutates_args=("out",))
def _carry(out: Tensor, added: Tensor, kept: Tensor, way: int) -> None:
    """One operator, which makes no tensor: a trace need not go through its hundreds of small steps."""
    states, added, kept = (t.unbind()[::way] for t in (out, added, kept))
    states[0].zero_()
    for t in range(len(states) - 1):
        torch.mul(states[t], kept[t], out=states[t + 1]).add_(added[t])


@_carry.register_fake
def _(out: Tensor, added: Tensor, kept: Tensor, way: int) -> None:
    """Nothing is allocated."""


def _since(total: Tensor) -> Tensor:
    """Decay since the chunk began, (c, S, H, 1, l)."""
    return total.exp()[..., None, :]


def _left(total: Tensor) -> Tensor:
    """Decay to the end of the chunk, (c, S, H, 1, l)."""
    return (total[..., -1:] - total).exp()[..., None, :]


def _product(heads: Tensor, shared: Tensor) -> Tensor:
    """(c, S, H, P, x) times (c, S, x, y): one product for all heads."""
    return (heads.flatten(2, 3) @ shared).unflatten(2, heads.shape[2:4])


def _stacked(tensor: Tensor) -> Tensor:
    """(c, S, H, x, l) -> (c S H, x, l)."""
    return tensor.flatten(0, 2)
