"""State-space layer in its dual, matrix form.

Shapes: S sequences, N tokens, D model width, H heads of P features, K states, c chunks of l tokens.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vibench.layers.precision import single_precision


class Mamba2(nn.Module):
    """Selective state-space layer (Mamba-2, Dao and Gu 2024, https://arxiv.org/abs/2405.21060), in plain PyTorch.

    Args:
        d_model: D.
        d_state: K, states per feature.
        d_conv: tokens under the causal convolution before the scan.
        expand: inner width H * P as a multiple of D.
        head_dim: P; divides the inner width.
        chunk: l, tokens whose pairs are multiplied out; near the root of P * K is fastest.
    """

    def __init__(self, *, d_model: int, d_state: int, d_conv: int, expand: int, head_dim: int, chunk: int) -> None:
        super().__init__()
        self.d_state, self.head_dim, self.chunk = d_state, head_dim, chunk
        self.inner = expand * d_model
        self.heads = self.inner // head_dim
        mixed = self.inner + 2 * d_state  # features that go through the convolution
        self.enter = nn.Linear(d_model, self.inner + mixed + self.heads, bias=False)
        self.convolution = nn.Conv1d(mixed, mixed, d_conv, groups=mixed, padding=d_conv - 1)
        step = torch.exp(torch.empty(self.heads).uniform_(math.log(0.001), math.log(0.1)))  # as published
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        self.log_decay = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)
        self.leave = nn.Linear(self.inner, d_model, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        s, n, _ = tokens.shape
        gate, mixed, step = self.enter(tokens).split([self.inner, self.inner + 2 * self.d_state, self.heads], dim=-1)
        mixed = F.silu(self.convolution(mixed.transpose(1, 2))[..., :n].transpose(1, 2))
        values, write, read = mixed.split([self.inner, self.d_state, self.d_state], dim=-1)
        values = values.reshape(s, n, self.heads, self.head_dim)
        with single_precision(tokens):  # sums over many tokens
            step = F.softplus(step.float() + self.step_bias)  # (S, N, H)
            out = scan(values.float(), step, -self.log_decay.exp(), write.float(), read.float(), self.chunk)
            out = out + self.skip[:, None] * values
        return self.leave(self.norm(out.reshape(s, n, self.inner) * F.silu(gate)))


def scan(values: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, chunk: int) -> Tensor:
    """State-space duality: ``h[t] = exp(step[t] rate) h[t-1] + step[t] write[t] values[t]``, ``y[t] = read[t] h[t]``.

    Within a chunk all pairs of tokens are multiplied out; from chunk to chunk goes the state.

    Args:
        values: (S, N, H, P).
        step: (S, N, H), positive.
        rate: (H,), negative.
        write, read: (S, N, K), shared by the heads.
        chunk: l; the last one is filled up with steps of zero, which change nothing.

    Returns:
        (S, N, H, P).
    """
    n = values.shape[1]
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
    return (within + across).flatten(1, 2)[:, :n]


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
