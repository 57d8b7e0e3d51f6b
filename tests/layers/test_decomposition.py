"""Trend and remainder against a slow loop."""

import pytest
import torch

from vibench.layers.decomposition import Decomposition


def slow_average(tokens, width):
    """Mean of the tokens around each one, by definition: beyond an edge lies the token at the edge."""
    s, n, d = tokens.shape
    out = torch.zeros(s, n, d)
    for token in range(n):
        for offset in range(-(width // 2), width // 2 + 1):
            out[:, token] += tokens[:, min(max(token + offset, 0), n - 1)] / width
    return out


@pytest.mark.parametrize("width", [1, 3, 5, 11, 17])  # 17 is more than the tokens there are
def test_the_trend_is_a_moving_average_with_the_edges_repeated(width):
    tokens = torch.randn(2, 11, 3)
    trend, _ = Decomposition(width)(tokens)
    torch.testing.assert_close(trend, slow_average(tokens, width))


@pytest.mark.parametrize("width", [1, 5, 17])
def test_trend_and_remainder_add_up_to_the_input(width):
    tokens = torch.randn(2, 11, 3)
    trend, remainder = Decomposition(width)(tokens)
    torch.testing.assert_close(trend + remainder, tokens)


def test_a_constant_has_no_remainder():
    tokens = torch.full((2, 11, 3), 2.5)
    trend, remainder = Decomposition(5)(tokens)
    torch.testing.assert_close(trend, tokens)
    torch.testing.assert_close(remainder, torch.zeros_like(tokens))


def test_a_straight_line_is_its_own_trend_away_from_the_edges():
    line = torch.arange(11.0)[None, :, None]
    _, remainder = Decomposition(5)(line)
    torch.testing.assert_close(remainder[:, 2:-2], torch.zeros(1, 7, 1))
    assert (remainder[:, [0, 1, -2, -1]] != 0).all()


def test_it_has_no_parameters():
    assert list(Decomposition(5).parameters()) == []
