"""Envelope spectra of frequency bands as tokens: how often, in Hz, the power of each band rises and falls.

Shapes: B windows, C channels, L samples, N bands, W spectral lines of a band, F modulation frequencies, D model width.
"""

import torch
from torch import Tensor, nn

from vibench.layers.precision import single_precision


class Envelope(nn.Module):
    """Squared envelope spectrum of each band of each channel (Randall and Antoni 2011,
    https://doi.org/10.1016/j.ymssp.2010.07.017), by a filter bank over the spectrum of the window.

    The defect frequencies of a bearing are what modulates its resonances, in whichever band these lie. Bands overlap by
    half and divide 0 to the Nyquist frequency, so they scale with the sampling rate; the modulation frequencies do not:
    they are the same in Hz for every system. Each spectrum is standardised, so no amplitude reaches the tokens,
    whatever ``data.normalisation``: good for telling faults apart, of little use for their growth. Channels become
    sequences of their own and share the projection.

    Args:
        d_model: D.
        n_channels: C; taken for the contract.
        window: L; lines of the spectrum are ``rate / L`` apart, so long windows tell close defect frequencies apart.
        bands: N, each ``rate / (bands + 1)`` Hz wide.
        max_hz: highest modulation frequency; those beyond the width of a band are zero.
        bins: F, equally spaced up to ``max_hz``.
    """

    channel_independent = True

    def __init__(self, *, d_model: int, n_channels: int, window: int, bands: int, max_hz: float, bins: int) -> None:
        super().__init__()
        self.window, self.bands = window, bands
        self.hop = window // 2 // (bands + 1)  # lines; a band has W = 2 hops
        self.project = nn.Linear(bins, d_model)
        self.register_buffer("hz", max_hz * torch.arange(1, bins + 1) / bins, persistent=False)
        self.register_buffer("taper", torch.hann_window(4 * self.hop), persistent=False)

    def forward(self, signal: Tensor, channels: Tensor, rate_hz: Tensor) -> Tensor:
        """(B, C, L) -> (B*C, N, D)."""
        with single_precision(signal):  # there is no half precision FFT
            spectra = self._spectra(signal.float(), rate_hz.float())
        return self.project(spectra.flatten(0, 1))

    def _spectra(self, signal: Tensor, rate_hz: Tensor) -> Tensor:
        """(B, C, L) -> (B, C, N, F), each with mean 0 and deviation 1; 0 for a channel that does not move."""
        lines = torch.fft.rfft(signal - signal.mean(-1, keepdim=True))[..., 1 : (self.bands + 1) * self.hop + 1]
        bands = lines.unfold(-1, 2 * self.hop, self.hop)  # (B, C, N, W)
        power = torch.fft.ifft(bands, n=4 * self.hop).abs().square()  # squared envelope, sampled without aliasing
        mean = power.mean(-1, keepdim=True)
        power = (power - mean) / mean.clamp_min(1e-30)
        spectra = torch.fft.rfft(power * self.taper, n=8 * self.hop).abs()  # lines half as far apart: (B, C, N, 2W + 1)
        spectra = _at(spectra, self.hz * (2 * self.window / rate_hz[:, None]))
        spectra = spectra - spectra.mean(-1, keepdim=True)
        return spectra / spectra.square().mean(-1, keepdim=True).clamp_min(1e-12).sqrt()


def _at(spectra: Tensor, place: Tensor) -> Tensor:
    """(B, C, N, K) at the fractional lines (B, F), interpolated: (B, C, N, F); 0 beyond the last line."""
    last = spectra.shape[-1] - 1
    left = place.floor().clamp(max=last - 1)
    share = (place - left)[:, None, None]
    index = left.long()[:, None, None].expand(-1, *spectra.shape[1:3], -1)
    between = torch.lerp(spectra.gather(-1, index), spectra.gather(-1, index + 1), share)
    return between * (place <= last)[:, None, None]
