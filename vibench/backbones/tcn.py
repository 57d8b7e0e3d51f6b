"""Temporal convolutional network over the tokens.

Shapes: S sequences, N tokens, D model width.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class TCN(nn.Module):
    """Causal convolutions of doubling dilation in residual blocks (Bai et al. 2018, https://arxiv.org/abs/1803.01271).

    A token sees ``1 + 2 (kernel - 1) (2 ** e_layers - 1)`` tokens, itself and those before it.

    Args:
        n_tokens: N; taken for the contract, convolutions do not depend on it.
        d_model: D, features of every convolution.
        e_layers: residual blocks; the dilation of block i is 2 ** i.
        kernel: tokens under a convolution.
        dropout: probability that a feature of a sequence is dropped as a whole.
    """

    def __init__(self, *, n_tokens: int, d_model: int, e_layers: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CausalBlock(d_model, kernel, 2**i, dropout) for i in range(e_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        features = tokens.transpose(1, 2)
        for block in self.blocks:
            features = block(features)
        return features.transpose(1, 2)


class CausalBlock(nn.Module):
    """Two causal convolutions with weight normalisation, rectified and dropped out, added to their input.

    Args:
        d_model: D.
        kernel: taps.
        dilation: tokens from one tap to the next.
        dropout: probability.
    """

    def __init__(self, d_model: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv1d(d_model, d_model, kernel, dilation=dilation)) for _ in range(2)
        )
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(S, D, N) -> (S, D, N)."""
        taps = min(self.kernel, (features.shape[-1] - 1) // self.dilation + 1)  # the others meet zeros alone
        reach, inner = (taps - 1) * self.dilation, features
        for convolution in self.convolutions:
            weight = convolution.weight[..., -taps:]
            inner = F.conv1d(F.pad(inner, (reach, 0)), weight, convolution.bias, dilation=self.dilation)
            inner = self.dropout(F.relu(inner))
        return F.relu(features + inner)
