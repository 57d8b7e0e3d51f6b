"""The residual network against convolutions in loops.

Shapes: S sequences, N tokens, D model width.
"""

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from vibench.backbones.resnet1d import ResNet1D


def made(n_tokens=13, e_layers=2, kernels=(5, 3)):
    """Random norms too: fresh ones, of weight one and bias zero, would hide a norm that is left out or misplaced."""
    torch.manual_seed(0)
    backbone = ResNet1D(n_tokens=n_tokens, d_model=4, e_layers=e_layers, kernels=list(kernels))
    for block in backbone.blocks:
        for norm in block.norms:
            nn.init.normal_(norm.weight, mean=1)
            nn.init.normal_(norm.bias)
    return backbone


def convolved(tokens, weight):
    """Sum over the taps, the middle one on the token itself; beyond the edges lies zero."""
    n, kernel = tokens.shape[1], weight.shape[-1]
    out = torch.zeros_like(tokens)
    for token in range(n):
        for tap in range(kernel):
            source = token + tap - kernel // 2
            if 0 <= source < n:
                out[:, token] += tokens[:, source] @ weight[:, :, tap].T
    return out


def normalised(tokens, norm):
    centred = tokens - tokens.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * norm.weight + norm.bias


@pytest.mark.parametrize("kernels", [(5, 3), (7, 5, 3), (1,), (15,)])  # 15 is more than the tokens there are
def test_a_block_adds_its_normalised_convolutions_to_its_input(kernels):
    backbone, tokens = made(kernels=kernels), torch.randn(2, 13, 4)
    expected = tokens
    for block in backbone.blocks:
        inner = expected
        for number, (convolution, norm) in enumerate(zip(block.convolutions, block.norms, strict=True)):
            inner = normalised(convolved(inner, convolution.weight), norm)
            if number < len(kernels) - 1:  # the last one is rectified after the sum only
                inner = inner.clamp(min=0)
        expected = (expected + inner).clamp(min=0)
    torch.testing.assert_close(backbone(tokens), expected, rtol=1e-5, atol=1e-5)


def test_a_block_whose_last_norm_is_zero_passes_what_is_not_negative():
    backbone, tokens = made(), torch.rand(2, 13, 4)
    for block in backbone.blocks:
        nn.init.zeros_(block.norms[-1].weight)
        nn.init.zeros_(block.norms[-1].bias)
    assert torch.equal(backbone(tokens), tokens)


@pytest.mark.parametrize(("e_layers", "kernels"), [(1, (3,)), (2, (5, 3)), (1, (7, 5, 3)), (3, (1, 3))])
def test_a_token_sees_as_far_as_the_kernels_reach_on_both_sides(e_layers, kernels):
    """The field is 1 + e_layers * sum(kernel - 1) tokens."""
    reach = e_layers * sum(kernel - 1 for kernel in kernels) // 2
    n = 2 * reach + 4  # more than the field of the middle tokens
    backbone, tokens = made(n, e_layers, kernels), torch.randn(n, 4)
    sees = jacobian(lambda one: backbone(one[None])[0], tokens).abs().sum((1, 3)) > 0  # (N, N)
    distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    assert torch.equal(sees, distance <= reach)


def test_shifted_tokens_give_shifted_outputs_away_from_the_edges():
    backbone, reach, shift = made(n_tokens=24), 6, 3
    tokens = torch.randn(2, 24, 4)
    late = backbone(tokens[:, shift:])
    torch.testing.assert_close(late[:, reach:-reach], backbone(tokens)[:, shift + reach : -reach])


@pytest.mark.parametrize(("d", "layers", "kernels"), [(4, 2, [5, 3]), (6, 3, [7, 5, 3])])
def test_the_number_of_parameters_follows_from_the_sizes(d, layers, kernels):
    backbone = ResNet1D(n_tokens=13, d_model=d, e_layers=layers, kernels=kernels)
    expected = layers * sum(kernel * d * d + 2 * d for kernel in kernels)  # no bias before a norm
    assert sum(p.numel() for p in backbone.parameters()) == expected
