"""Envelope spectra: a carrier whose power rises and falls is found in its band, at the rate of that, in Hz.

The projection is taken out, so that a token is the spectrum itself.
"""

import math

import pytest
import torch
from torch import nn

from vibench.embeddings.envelope import Envelope

BANDS, MAX_HZ, BINS = 7, 300.0, 150  # 2 Hz a bin


def spectra(signal, rate_hz=12_000.0):
    """(B, C, L) -> (B, C, N, F)."""
    b, c, window = signal.shape
    embedding = Envelope(d_model=4, n_channels=c, window=window, bands=BANDS, max_hz=MAX_HZ, bins=BINS)
    embedding.project = nn.Identity()
    rates = rate_hz if isinstance(rate_hz, torch.Tensor) else torch.full((b,), rate_hz)
    return embedding(signal, torch.full((b,), c), rates).view(b, c, BANDS, BINS)


def modulated(carrier_hz, modulation_hz, window=8192, rate_hz=12_000.0, noise=0.01):
    t = torch.arange(window) / rate_hz
    wave = (1 + 0.8 * torch.cos(2 * math.pi * modulation_hz * t)) * torch.sin(2 * math.pi * carrier_hz * t)
    return wave[None, None] + noise * torch.randn(1, 1, window, generator=torch.Generator().manual_seed(0))


def strongest_hz(spectrum):
    return float(spectrum.argmax() + 1) * MAX_HZ / BINS


@pytest.mark.parametrize("modulation_hz", [40, 108, 162, 250])
def test_the_strongest_line_is_the_rate_of_modulation(modulation_hz):
    band = spectra(modulated(3000, modulation_hz))[0, 0, 3]  # 2250 to 3750 Hz
    assert strongest_hz(band) == pytest.approx(modulation_hz, abs=2)


@pytest.mark.parametrize("rate_hz", [12_000.0, 25_600.0, 48_000.0])
def test_a_rate_of_modulation_is_the_same_line_at_every_sampling_rate(rate_hz):
    found = spectra(modulated(rate_hz / 4, 108, window=16384, rate_hz=rate_hz), rate_hz)[0, 0, 3]
    assert strongest_hz(found) == pytest.approx(108, abs=2)


def test_windows_of_several_rates_go_together():
    slow, fast = modulated(3000, 108), modulated(6400, 162, rate_hz=25_600.0)
    together = spectra(torch.cat([slow, fast]), torch.tensor([12_000.0, 25_600.0]))
    torch.testing.assert_close(together[:1], spectra(slow))
    torch.testing.assert_close(together[1:], spectra(fast, 25_600.0))


def test_only_the_bands_of_the_carrier_are_modulated():
    """Bands are 1500 Hz wide, one every 750 Hz: 2400 Hz lies in that from 1500 Hz and in that from 2250 Hz."""
    found = [strongest_hz(band) == pytest.approx(108, abs=2) for band in spectra(modulated(2400, 108, noise=0.1))[0, 0]]
    assert found == [False, False, True, True, False, False, False]


def test_every_spectrum_is_standardised_so_that_amplitude_does_not_matter():
    signal = modulated(3000, 108)
    found = spectra(signal)
    torch.testing.assert_close(found.mean(-1), torch.zeros(1, 1, BANDS), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.square().mean(-1), torch.ones(1, 1, BANDS), atol=1e-4, rtol=0)
    torch.testing.assert_close(spectra(1e-4 * signal), found, rtol=1e-3, atol=1e-3)


def test_an_offset_does_not_matter():
    signal = modulated(3000, 108)
    torch.testing.assert_close(spectra(signal + 3), spectra(signal), rtol=1e-2, atol=1e-2)


def test_a_channel_that_does_not_move_is_zero():
    assert not spectra(torch.full((1, 2, 512), 5.0)).any()


def test_no_frequency_beyond_the_width_of_a_band_is_seen():
    found = spectra(torch.randn(1, 1, 4096), 1200.0)  # bands of 150 Hz
    assert (found[..., 100:] == found[..., -1:]).all()  # all that is beyond has the value of nothing
    assert found[..., :70].std() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_spectra_are_of_single_precision_under_autocast(dtype):
    signal = modulated(3000, 108)
    with torch.autocast("cpu", dtype):
        under = spectra(signal)
    assert torch.equal(under, spectra(signal))


def test_the_parameters_are_one_layer_on_the_lines():
    embedding = Envelope(d_model=4, n_channels=3, window=512, bands=BANDS, max_hz=MAX_HZ, bins=BINS)
    assert sum(p.numel() for p in embedding.parameters()) == BINS * 4 + 4
