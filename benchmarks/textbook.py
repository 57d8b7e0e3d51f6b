"""The scan of a state-space layer as it is usually written: batched sums over all pairs, differentiated by autograd.

What the memory and the speed of ``vibench.layers.scan`` are compared with.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def textbook_scan(
    values: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, chunk: int, skip: Tensor
) -> Tensor:
    """As :func:`vibench.layers.scan.scan`."""
    n, given = values.shape[1], values
    chunk = min(chunk, n)
    values = values * step[..., None]
    values, decay, write, read = (_chunked(t, chunk) for t in (values, step * rate, write, read))
    total = decay.cumsum(2)  # (S, c, l, H): log of the decay since the chunk began
    pairs = torch.einsum("scik,scjk->scij", read, write)  # (S, c, l, l)
    within = torch.einsum("scijh,scjhp->scihp", pairs[..., None] * _between(total), values)
    left = torch.exp(total[:, :, -1:] - total)  # of a token's write at the end of its chunk
    states = torch.einsum("sclk,sclh,sclhp->schpk", write, left, values)
    before = _carried(states, total[:, :, -1])
    across = torch.einsum("sclk,schpk,sclh->sclhp", read, before, total.exp())
    return (within + across).flatten(1, 2)[:, :n] + skip[:, None] * given


def _chunked(tensor: Tensor, chunk: int) -> Tensor:
    """(S, N, ...) -> (S, c, l, ...), filled up with zeros."""
    missing = -tensor.shape[1] % chunk
    padded = F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))
    return padded.unflatten(1, (-1, chunk))


def _between(total: Tensor) -> Tensor:
    """(S, c, l, H) -> (S, c, i, j, H): decay from token j to token i of a chunk, zero where j is later."""
    length = total.shape[2]
    later = torch.ones(length, length, dtype=torch.bool, device=total.device).triu(1)
    difference = total[:, :, :, None] - total[:, :, None]
    return difference.masked_fill(later[..., None], -torch.inf).exp()


def _carried(states: Tensor, decay: Tensor) -> Tensor:
    """State before each chunk (S, c, H, P, K) from what each adds and the log of its decay (S, c, H)."""
    before = [torch.zeros_like(states[:, 0])]
    for added, kept in zip(states.unbind(1)[:-1], decay.exp().unbind(1)[:-1], strict=True):
        before.append(before[-1] * kept[..., None, None] + added)
    return torch.stack(before, dim=1)
