"""The spectral convolution against sines and cosines written out."""

import math

import pytest
import torch

from tests.backbones.plain import plain_spectral
from vibench.layers.spectral import SpectralConvolution


def made(width, modes, *, weight=None):
    """A layer with weights of any sign (fresh ones are all positive and small), or with one matrix for all modes."""
    layer = SpectralConvolution(width, modes)
    with torch.no_grad():
        layer.weight.normal_(generator=torch.Generator().manual_seed(0))
        if weight is not None:
            layer.weight.copy_(torch.stack([weight, torch.zeros_like(weight)], -1))
    return layer


def sinusoid(frequency, n):
    """Three features (1, N, 3) of one frequency, with different phases."""
    return torch.sin(2 * math.pi * frequency * torch.arange(n)[None, :, None] / n + torch.tensor([0.3, 1.1, 2.5]))


@pytest.mark.parametrize(("n", "modes"), [(1, 1), (2, 2), (7, 1), (7, 3), (7, 4), (8, 1), (8, 4), (8, 5)])
def test_the_lowest_modes_are_multiplied_by_complex_matrices(n, modes):
    layer, tokens = made(3, modes), torch.randn(2, n, 3)
    expected = plain_spectral(layer.weight.double(), tokens.double()).float()
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "modes"), [(7, 4), (8, 3), (8, 5)])
def test_gradients_are_those_of_the_written_out_sums(n, modes):
    layer, tokens = made(3, modes), torch.randn(2, n, 3, requires_grad=True)
    into = [tokens, layer.weight]
    fast, slow = layer(tokens), plain_spectral(layer.weight.double(), tokens.double()).float()
    towards = torch.randn_like(fast)
    got, expected = (torch.autograd.grad(out, into, towards) for out in (fast, slow))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "modes"), [(9, 5), (12, 7)])
def test_the_identity_on_all_modes_returns_the_input(n, modes):
    tokens = torch.randn(2, n, 3)
    torch.testing.assert_close(made(3, modes, weight=torch.eye(3))(tokens), tokens)


@pytest.mark.parametrize("frequency", range(3))
def test_a_frequency_among_the_modes_passes_scaled(frequency):
    tokens = sinusoid(frequency, 12)
    torch.testing.assert_close(made(3, 3, weight=2 * torch.eye(3))(tokens), 2 * tokens)


@pytest.mark.parametrize("frequency", range(3, 7))  # 6: half of the tokens
def test_a_frequency_above_the_modes_is_dropped(frequency):
    dropped = made(3, 3)(sinusoid(frequency, 12))
    torch.testing.assert_close(dropped, torch.zeros(1, 12, 3), rtol=0, atol=1e-5)


def test_an_imaginary_weight_moves_a_sinusoid_ahead_by_a_quarter_of_its_period():
    layer, tokens = made(3, 4, weight=torch.zeros(3, 3)), sinusoid(3, 12)
    with torch.no_grad():
        layer.weight[..., 1] = torch.eye(3)
    torch.testing.assert_close(layer(tokens), tokens.roll(-1, 1))  # whose period is four tokens


@pytest.mark.parametrize("n", [7, 8])
def test_it_is_linear(n):
    layer, one, other = made(3, 3), torch.randn(2, n, 3), torch.randn(2, n, 3)
    expected = 2.5 * layer(one) - 0.5 * layer(other)
    torch.testing.assert_close(layer(2.5 * one - 0.5 * other), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1, 5])
def test_tokens_turned_in_a_circle_turn_the_result(shift):
    layer, tokens = made(3, 3), torch.randn(2, 9, 3)
    torch.testing.assert_close(layer(tokens.roll(shift, 1)), layer(tokens).roll(shift, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [8, 9])
def test_a_band_limited_signal_sampled_twice_as_densely_has_the_same_values(n):
    layer = made(3, 3)
    sparse, dense = (sum((f + 1) * sinusoid(f, count) for f in range(4)) for count in (n, 2 * n))  # 3 is dropped
    torch.testing.assert_close(layer(dense)[:, ::2], layer(sparse), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [7, 12, 33])  # no power of 2, of which alone there is a transform in half precision
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_it_in_single_precision(dtype, n):
    layer, tokens = made(3, 4), torch.randn(2, n, 3, requires_grad=True)
    with torch.autocast("cpu", dtype):
        out = layer(tokens)
    assert torch.equal(out, layer(tokens))
    out.sum().backward()
    assert torch.equal(tokens.grad.isfinite().all() & layer.weight.grad.isfinite().all(), torch.tensor(True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tokens_in_half_precision_are_taken(dtype):
    layer, tokens = made(3, 4), torch.randn(2, 7, 3).to(dtype)  # as a linear map under autocast hands them on
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(layer(tokens), layer(tokens.float()))


def test_fresh_weights_are_the_published_ones_real_numbers_between_0_and_1_over_the_square_of_the_width():
    torch.manual_seed(0)
    weight = SpectralConvolution(8, 5).weight
    assert weight.shape == (5, 8, 8, 2)
    assert weight.dtype == torch.float32
    assert weight.min() >= 0
    assert 0.98 < weight.max().item() * 8**2 < 1
