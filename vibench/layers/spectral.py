"""Convolution over a whole sequence, by its spectrum.

Shapes: S sequences, N tokens, W features, M modes.
"""

import torch
from torch import Tensor, nn

from vibench.layers.precision import single_precision


class SpectralConvolution(nn.Module):
    """Multiply the M lowest frequencies by complex matrices, drop the rest (Li et al. 2021,
    https://arxiv.org/abs/2010.08895).

    In single precision under autocast too: there is no FFT of bfloat16, and none of float16 of other than powers of 2.

    Args:
        width: W.
        modes: M, the constant among them; at most N/2 + 1.
    """

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        # real and imaginary part last: optimizers, clipping and reductions know real numbers
        self.weight = nn.Parameter(torch.rand(modes, width, width, 2) / width**2)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, W) -> (S, N, W)."""
        with single_precision(tokens):
            spectrum = torch.fft.rfft(tokens.float(), dim=1)[:, : self.modes]  # (S, M, W)
            mixed = torch.einsum("smi,mio->smo", spectrum, torch.view_as_complex(self.weight.float()))
            return torch.fft.irfft(mixed, n=tokens.shape[1], dim=1)
