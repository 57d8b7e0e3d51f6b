"""Fourier neural operator in one dimension.

Shapes: S sequences, N tokens, D model width, W width of the operator.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vibench.layers.spectral import SpectralConvolution


class FNO(nn.Module):
    """Fourier layers between a lift and a projection (Li et al. 2021, https://arxiv.org/abs/2010.08895).

    A layer adds a convolution by the spectrum to a linear map of each token. The coordinate that the published code
    appends to its input is left out: what a token's time is, an embedding says.

    Args:
        n_tokens: N; taken for the contract, the operator does not depend on it.
        d_model: D.
        e_layers: Fourier layers.
        modes: lowest frequencies kept, the constant among them; at most N/2 + 1.
        width: W.
    """

    def __init__(self, *, n_tokens: int, d_model: int, e_layers: int, modes: int, width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(d_model, width)
        self.blocks = nn.ModuleList(FourierLayer(width, modes) for _ in range(e_layers))
        self.project = nn.Linear(width, d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        tokens = self.lift(tokens)
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            tokens = F.gelu(tokens) if number < len(self.blocks) else tokens  # none after the last, as published
        return self.project(tokens)


class FourierLayer(nn.Module):
    """Spectral convolution and a linear map of each token, added.

    Args:
        width: W.
        modes: lowest frequencies kept.
    """

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.spectral, self.local = SpectralConvolution(width, modes), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, W) -> (S, N, W)."""
        return self.spectral(tokens) + self.local(tokens)
