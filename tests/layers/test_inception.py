"""The merged convolution against its parts, one after the other."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.backbones.plain import plain_inception
from vibench.layers.inception import Inception, convolve


@pytest.fixture(params=[1, 2, 6])
def inception(request):
    torch.manual_seed(0)
    inception = Inception(3, 4, request.param)
    for conv in inception.kernels:
        torch.nn.init.normal_(conv.bias)  # zero when fresh, which would hide it
    return inception


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (5, 3), (12, 13)])  # 11 taps a side at most
def test_the_merged_convolution_is_the_mean_of_the_convolutions(inception, size):
    planes = torch.randn(2, 3, *size)
    expected = plain_inception(inception, planes)
    torch.testing.assert_close(convolve(planes, *inception.merged()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (12, 13)])
def test_its_gradients_are_those_of_the_mean(inception, size):
    inception.double()
    planes = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    into = [planes, *inception.parameters()]
    merged, apart = convolve(planes, *inception.merged()), plain_inception(inception, planes)
    towards = torch.randn_like(apart)
    torch.testing.assert_close(torch.autograd.grad(merged, into, towards), torch.autograd.grad(apart, into, towards))


def test_six_kernels_are_121_taps_instead_of_286():
    inception = Inception(3, 4, 6)
    kernel, _ = inception.merged()
    assert sum(conv.weight[0, 0].numel() for conv in inception.kernels) == 286
    assert kernel.shape == (4, 3, 11, 11)


@pytest.mark.parametrize("taps", [1, 3, 11])
def test_taps_that_reach_no_place_change_nothing(taps):
    kernel, bias = torch.randn(2, 3, taps, taps, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    wrong = []
    for rows in range(1, 8):
        for columns in range(1, 8):
            planes = torch.randn(2, 3, rows, columns, dtype=torch.float64)
            whole = F.conv2d(planes, kernel, bias, padding=taps // 2)
            if not torch.allclose(convolve(planes, kernel, bias), whole):
                wrong.append((rows, columns))
    assert wrong == []


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (3, 2), (5, 6), (6, 5)])
def test_taps_that_reach_no_place_are_not_multiplied(rows, columns):
    kernel = torch.full((1, 1, 11, 11), torch.nan)  # which times the zero of the padding is still no number
    kernel[:, :, max(0, 6 - rows) : 5 + rows, max(0, 6 - columns) : 5 + columns] = 1
    assert convolve(torch.ones(1, 1, rows, columns), kernel, torch.zeros(1)).isfinite().all()


def test_the_kernels_are_merged_before_they_are_rounded(inception):
    exact = inception.merged()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = inception.merged()
    assert [r.dtype for r in rounded] == [torch.bfloat16] * 2
    assert all(torch.equal(r, e.bfloat16()) for r, e in zip(rounded, exact, strict=True))


def test_fresh_weights_have_the_deviation_of_he_and_no_bias():
    torch.manual_seed(0)
    for conv in Inception(10, 40, 3).kernels:
        taps = conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (40 * taps)), rel=0.1)
        assert not conv.bias.any()


def test_the_number_of_parameters_follows_from_the_sizes(inception):
    taps = sum((2 * k + 1) ** 2 for k in range(len(inception.kernels)))
    assert sum(p.numel() for p in inception.parameters()) == taps * 3 * 4 + len(inception.kernels) * 4
