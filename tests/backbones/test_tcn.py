"""The temporal convolutional network against convolutions in loops.

Shapes: S sequences, N tokens, D model width.
"""

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from vibench.backbones.tcn import TCN


def made(n_tokens=13, e_layers=2, kernel=3, dropout=0.0):
    torch.manual_seed(0)
    return TCN(n_tokens=n_tokens, d_model=4, e_layers=e_layers, kernel=kernel, dropout=dropout)


def weight_parts(convolution):
    """g (D, 1, 1) and v (D, D, kernel) of a convolution with weight normalisation."""
    return convolution.parametrizations.weight.original0, convolution.parametrizations.weight.original1


def convolved(tokens, convolution, dilation):
    """Sum over the taps, the last one on the token itself; before the first token lies zero."""
    g, v = weight_parts(convolution)
    kernel = v.shape[-1]
    out = torch.empty_like(tokens)
    for token in range(tokens.shape[1]):
        out[:, token] = convolution.bias
        for tap in range(kernel):
            source = token - (kernel - 1 - tap) * dilation
            for feature in range(v.shape[0]):
                weight = g[feature] * v[feature] / v[feature].square().sum().sqrt()  # one length per output feature
                if source >= 0:
                    out[:, token, feature] += tokens[:, source] @ weight[:, tap]
    return out


@pytest.mark.parametrize(("e_layers", "kernel"), [(1, 2), (3, 2), (2, 3)])
def test_a_block_adds_two_rectified_causal_convolutions_to_its_input(e_layers, kernel):
    backbone, tokens = made(e_layers=e_layers, kernel=kernel), torch.randn(2, 13, 4)
    expected = tokens
    for number, block in enumerate(backbone.blocks):
        inner = expected
        for convolution in block.convolutions:
            nn.init.uniform_(weight_parts(convolution)[0], 1, 2)  # fresh, g is the length of v and both cancel
            inner = convolved(inner, convolution, dilation=2**number).clamp(min=0)
        expected = (expected + inner).clamp(min=0)
    torch.testing.assert_close(backbone(tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("e_layers", "kernel"), [(1, 2), (1, 5), (2, 3), (3, 2)])
def test_a_token_sees_itself_and_the_published_number_of_tokens_before_it(e_layers, kernel):
    field = 1 + 2 * (kernel - 1) * (2**e_layers - 1)
    n = field + 2  # the last tokens have some beyond their field
    backbone = made(n, e_layers, kernel)
    for name, parameter in backbone.named_parameters():  # all positive, so that no rectifier hides a token
        parameter.data = torch.zeros_like(parameter) if name.endswith("bias") else parameter.abs()
    sees = jacobian(lambda one: backbone(one[None])[0], torch.rand(n, 4)).abs().sum((1, 3)) > 0  # (N, N)
    before = torch.arange(n)[:, None] - torch.arange(n)
    assert torch.equal(sees, (before >= 0) & (before < field))


def test_a_change_shows_in_no_earlier_token():
    backbone, tokens = made(), torch.randn(2, 13, 4)
    changed = tokens.clone()
    changed[:, 6] += 1
    before, after = backbone(tokens), backbone(changed)
    assert torch.equal(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6], before[:, 6])


def test_a_past_of_zeros_is_as_good_as_none():
    backbone, tokens = made(), torch.randn(2, 13, 4)
    for block in backbone.blocks:
        for convolution in block.convolutions:
            nn.init.zeros_(convolution.bias)  # else the zeros before the sequence would not stay zero in the blocks
    late = backbone(torch.cat([torch.zeros(2, 5, 4), tokens], dim=1))
    torch.testing.assert_close(late[:, 5:], backbone(tokens))


def test_shifted_tokens_give_shifted_outputs_away_from_the_start():
    backbone, reach, shift = made(n_tokens=21), 12, 3
    tokens = torch.randn(2, 21, 4)
    torch.testing.assert_close(backbone(tokens[:, shift:])[:, reach:], backbone(tokens)[:, shift + reach :])


def test_dropout_drops_a_feature_of_a_sequence_as_a_whole():
    backbone = made(e_layers=1, dropout=0.5)
    for name, parameter in backbone.named_parameters():  # all positive: a zero is a feature that was dropped
        parameter.data = parameter.abs() + (1 if name.endswith("bias") else 0)
    inner = backbone.train()(torch.zeros(32, 13, 4))  # the sum with zero leaves the convolutions alone
    dropped = inner == 0
    assert torch.equal(dropped.any(1), dropped.all(1))
    assert 0.3 < dropped.float().mean() < 0.7


def test_dropout_is_off_in_evaluation():
    tokens = torch.randn(2, 13, 4)
    torch.testing.assert_close(made(dropout=0.5).eval()(tokens), made(dropout=0.0).train()(tokens))


@pytest.mark.parametrize(("d", "layers", "kernel"), [(4, 2, 3), (6, 3, 2)])
def test_the_number_of_parameters_follows_from_the_sizes(d, layers, kernel):
    backbone = TCN(n_tokens=13, d_model=d, e_layers=layers, kernel=kernel, dropout=0.1)
    convolution = d * d * kernel + d + d  # v, g and the bias
    assert sum(p.numel() for p in backbone.parameters()) == layers * 2 * convolution
