"""DLinear: two linear maps over time."""

import pytest
import torch
from torch import nn

from vibench.backbones.dlinear import DLinear


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return DLinear(n_tokens=9, d_model=4, moving_average=5)


def test_identity_weights_return_the_input(backbone):
    for linear in (backbone.trend, backbone.remainder):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    tokens = torch.randn(3, 9, 4)
    torch.testing.assert_close(backbone(tokens), tokens)


def test_the_trend_alone_passes_where_the_remainder_is_switched_off(backbone):
    nn.init.eye_(backbone.trend.weight)
    for parameter in (backbone.trend.bias, backbone.remainder.weight, backbone.remainder.bias):
        nn.init.zeros_(parameter)
    impulse = torch.zeros(1, 9, 4)
    impulse[:, 4] = 1
    expected = torch.zeros(9)
    expected[2:7] = 1 / 5  # an impulse spreads over the five tokens of the average
    torch.testing.assert_close(backbone(impulse), expected[None, :, None].expand(1, 9, 4))


def test_the_maps_are_over_time(backbone):
    tokens = torch.randn(2, 9, 4)
    trend, remainder = backbone.decompose(tokens)
    expected = torch.empty(2, 9, 4)
    for token in range(9):  # one output token at a time, from all input tokens
        expected[:, token] = (
            torch.einsum("n,snd->sd", backbone.trend.weight[token], trend)
            + torch.einsum("n,snd->sd", backbone.remainder.weight[token], remainder)
            + backbone.trend.bias[token]
            + backbone.remainder.bias[token]
        )
    torch.testing.assert_close(backbone(tokens), expected)


def test_every_feature_is_mapped_alike(backbone):
    tokens, order = torch.randn(2, 9, 4), [2, 0, 3, 1]
    torch.testing.assert_close(backbone(tokens[..., order]), backbone(tokens)[..., order])


@pytest.mark.parametrize("d_model", [4, 64])
def test_the_parameters_are_two_squares_of_the_tokens_whatever_the_width(d_model):
    backbone = DLinear(n_tokens=9, d_model=d_model, moving_average=5)
    assert sum(p.numel() for p in backbone.parameters()) == 2 * (9 * 9 + 9)
