"""The circular convolution of the pointwise embedding against a loop."""

import pytest
import torch

from vibench.embeddings.pointwise import Pointwise


def lifted(embedding, signal):
    """(B, C, L) -> (B, L, D), sample by sample: the window closes to a circle."""
    window = signal.shape[-1]
    weight = embedding.lift.weight  # (D, C, K)
    kernel = weight.shape[-1]
    tokens = torch.zeros(len(signal), window, len(weight))
    for sample in range(window):
        for tap in range(kernel):
            neighbour = (sample + tap - kernel // 2) % window
            tokens[:, sample] += signal[:, :, neighbour] @ weight[:, :, tap].T
    return tokens


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("window", [9, 16])
def test_each_sample_is_lifted_from_its_neighbours_around_the_circle(kernel, window):
    embedding = Pointwise(d_model=5, n_channels=2, window=window, kernel=kernel)
    signal = torch.randn(3, 2, window)
    tokens = embedding(signal, torch.full((3,), 2), torch.full((3,), 12_000.0))
    torch.testing.assert_close(tokens, lifted(embedding, signal), rtol=1e-5, atol=1e-6)


def test_a_rotated_window_has_rotated_tokens():
    embedding = Pointwise(d_model=5, n_channels=2, window=16, kernel=3)
    signal, facts = torch.randn(3, 2, 16), (torch.full((3,), 2), torch.full((3,), 12_000.0))
    turned = embedding(signal.roll(5, dims=-1), *facts)
    torch.testing.assert_close(turned, embedding(signal, *facts).roll(5, dims=1))


def test_silence_is_the_zero_token():
    embedding = Pointwise(d_model=5, n_channels=2, window=16, kernel=3)
    assert not embedding(torch.zeros(1, 2, 16), torch.ones(1), torch.ones(1)).any()


def test_the_parameters_are_one_kernel_per_channel_and_feature():
    embedding = Pointwise(d_model=5, n_channels=2, window=16, kernel=3)
    assert sum(p.numel() for p in embedding.parameters()) == 5 * 2 * 3
