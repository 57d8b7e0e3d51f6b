"""Patches against explicit slices of the signal."""

import math

import pytest
import torch

from vibench.config.embedding import patch_count
from vibench.embeddings.patch import Patch

# window, patch_len, stride: no rest, a rest, no overlap, a rest without overlap, one patch, steps of one
CUTS = [(64, 16, 8), (61, 16, 8), (64, 16, 16), (65, 16, 16), (16, 16, 8), (19, 16, 1), (17, 16, 16)]


def sliced(signal, patch_len, stride):
    """Patches (B, C, N, P) one by one; beyond the end lies the last sample."""
    window = signal.shape[-1]
    patches, start = [], 0
    while True:
        patches.append(torch.stack([signal[..., min(start + i, window - 1)] for i in range(patch_len)], dim=-1))
        if start + patch_len >= window:
            return torch.stack(patches, dim=2)
        start += stride


@pytest.mark.parametrize(("window", "patch_len", "stride"), CUTS)
def test_tokens_are_projected_slices_of_the_padded_signal(window, patch_len, stride):
    embedding = Patch(d_model=6, n_channels=3, window=window, patch_len=patch_len, stride=stride)
    signal = torch.randn(2, 3, window)
    tokens = embedding(signal, torch.full((2,), 3), torch.full((2,), 12_000.0))
    patches = sliced(signal, patch_len, stride)
    expected = patches @ embedding.project.weight.T + embedding.project.bias
    torch.testing.assert_close(tokens, expected.flatten(0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("window", "patch_len", "stride"), CUTS)
def test_the_patches_cover_every_sample_with_the_fewest_patches(window, patch_len, stride):
    patches = patch_count(window, patch_len, stride)
    assert (patches - 1) * stride + patch_len >= window
    assert patches == 1 or (patches - 2) * stride + patch_len < window
    assert patches == 1 + math.ceil((window - patch_len) / stride)


def test_every_sample_reaches_a_token():
    embedding = Patch(d_model=6, n_channels=1, window=61, patch_len=16, stride=8)
    signal = torch.randn(1, 1, 61, requires_grad=True)
    embedding(signal, torch.ones(1), torch.ones(1)).square().sum().backward()
    assert (signal.grad != 0).all()


def test_sequences_are_the_channels_window_by_window():
    embedding = Patch(d_model=6, n_channels=3, window=16, patch_len=16, stride=16)
    signal = torch.randn(2, 3, 16)
    tokens = embedding(signal, torch.full((2,), 3), torch.full((2,), 12_000.0))
    for window in range(2):
        for channel in range(3):
            torch.testing.assert_close(tokens[window * 3 + channel, 0], embedding.project(signal[window, channel]))


@pytest.mark.parametrize("channels", [1, 5])
def test_the_channels_share_their_parameters(channels):
    embedding = Patch(d_model=6, n_channels=channels, window=64, patch_len=16, stride=8)
    assert sum(p.numel() for p in embedding.parameters()) == 16 * 6 + 6
