"""State-space layer around the scan.

Shapes: S sequences, N tokens, D model width, H heads of P features, K states.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vibench.layers.gated_norm import GatedNorm
from vibench.layers.precision import single_precision
from vibench.layers.scan import fused_scan, scan


class Mamba2(nn.Module):
    """Selective state-space layer (Mamba-2, Dao and Gu 2024, https://arxiv.org/abs/2405.21060), in plain PyTorch.

    Args:
        d_model: D.
        d_state: K, states per feature.
        d_conv: tokens under the causal convolution before the scan.
        expand: inner width H * P as a multiple of D.
        head_dim: P; divides the inner width.
        chunk: l, tokens whose pairs are multiplied out; near the root of P * K is fastest.
        fused: on a GPU, scan by the kernels of mamba_ssm instead, which must be installed there.
    """

    def __init__(
        self, *, d_model: int, d_state: int, d_conv: int, expand: int, head_dim: int, chunk: int, fused: bool
    ) -> None:
        super().__init__()
        self.d_state, self.head_dim, self.chunk, self.fused = d_state, head_dim, chunk, fused
        self.inner = expand * d_model
        self.heads = self.inner // head_dim
        mixed = self.inner + 2 * d_state  # features that go through the convolution
        self.enter = nn.Linear(d_model, self.inner + mixed + self.heads, bias=False)
        self.convolution = nn.Conv1d(mixed, mixed, d_conv, groups=mixed, padding=d_conv - 1)
        step = torch.exp(torch.empty(self.heads).uniform_(math.log(0.001), math.log(0.1)))  # as published
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        self.log_decay = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedNorm(self.inner, eps=1e-5)
        self.leave = nn.Linear(self.inner, d_model, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        gate, mixed, step = self.enter(tokens).split([self.inner, self.inner + 2 * self.d_state, self.heads], dim=-1)
        values, write, read = self._mixed(mixed).split([self.inner, self.d_state, self.d_state], dim=1)
        values = values.unflatten(1, (self.heads, self.head_dim)).movedim(-1, 1)  # (S, N, H, P)
        run = fused_scan if self.fused and tokens.is_cuda else scan  # a trace has no kernels to run
        with single_precision(tokens):  # sums over many tokens
            step = F.softplus(step.float() + self.step_bias)  # (S, N, H)
            write, read = write.mT.float(), read.mT.float()
            out = run(values.float(), step, -self.log_decay.exp(), write, read, self.chunk, self.skip)
        return self.leave(self.norm(out.flatten(2), gate))

    def _mixed(self, features: Tensor) -> Tensor:
        """Causal convolution of each feature, and SiLU: (S, N, F) -> (S, F, N), tokens last as the scan has them."""
        taps = self.convolution
        padded = F.pad(features.mT, (*taps.padding, 0))
        return F.silu(F.conv1d(padded, taps.weight, taps.bias, groups=taps.groups))
