"""Dilated convolutions at the full rate, then one token of each stretch of samples.

Shapes: B windows, C channels, L samples, D model width, F features of a convolution.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class TCNEncoder(nn.Module):
    """Convolutions of doubling dilation over all channels (after Bai et al. 2018, https://arxiv.org/abs/1803.01271).

    Not causal: a token sees as far ahead as back. Zeros lie around the window, and where a system has no channel.

    Args:
        d_model: D.
        n_channels: C.
        window: L; taken for the contract.
        channels: F of each convolution; the dilation of convolution i is 2 ** i.
        kernel: samples under a convolution, odd.
        dropout: probability, after each convolution.
        stride: samples of which a token is made; what is left at the end of a window has none.
    """

    channel_independent = False

    def __init__(
        self,
        *,
        d_model: int,
        n_channels: int,
        window: int,
        channels: list[int],
        kernel: int,
        dropout: float,
        stride: int,
    ) -> None:
        super().__init__()
        self.stride = stride
        widths = zip([n_channels, *channels[:-1]], channels, strict=True)
        self.layers = nn.ModuleList(Block(d_in, d_out, kernel, 2**i, dropout) for i, (d_in, d_out) in enumerate(widths))
        self.project = nn.Conv1d(channels[-1], d_model, 1)
        self.gather = nn.Conv1d(d_model, d_model, stride, stride=stride)

    def forward(self, signal: Tensor, channels: Tensor, rate_hz: Tensor) -> Tensor:
        """(B, C, L) -> (B, L / stride, D)."""
        absent = torch.arange(signal.shape[1], device=signal.device) >= channels[:, None]
        features = signal.masked_fill(absent[..., None], 0.0)
        for block in self.layers:  # not checkpointed: each keeps what goes in and what comes out, and nothing else
            features = block(features)
        return F.conv1d(features, *self._merged(), stride=self.stride).mT

    def _merged(self) -> tuple[Tensor, Tensor]:
        """Projection and gathering as the one linear map that they are: nothing of D features at the full rate."""
        weight = torch.einsum("omk,mf->ofk", self.gather.weight, self.project.weight[..., 0])
        return weight, self.gather.weight.sum(-1) @ self.project.bias + self.gather.bias


class Block(nn.Module):
    """A convolution with weight normalisation, rectified and dropped out.

    Args:
        d_in, d_out: features before and after it.
        kernel: taps, odd.
        dilation: samples from one tap to the next.
        dropout: probability.
    """

    def __init__(self, d_in: int, d_out: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        convolution = nn.Conv1d(d_in, d_out, kernel, padding=kernel // 2 * dilation, dilation=dilation)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # else eight of them leave nothing of a signal
        nn.init.zeros_(convolution.bias)
        self.convolution, self.dropout = weight_norm(convolution), dropout

    def forward(self, features: Tensor) -> Tensor:
        """(B, d_in, L) -> (B, d_out, L)."""
        features = self.convolution(features)
        return _RectifiedDropout.apply(features, self.dropout) if self.training else F.relu(features)


class _RectifiedDropout(torch.autograd.Function):
    """ReLU, then dropout. Keeps what comes out alone, which the next convolution keeps anyway: where that is positive,
    the gradient passes. Apart, they would keep as much again and a mask.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, dropout: float) -> Tensor:
        out = F.dropout(F.relu(features), dropout)
        ctx.save_for_backward(out)
        ctx.scale = 1 / (1 - dropout)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(of_out, out, 0) * ctx.scale, None
