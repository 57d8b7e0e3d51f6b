"""State-space layers from both ends.

Shapes: S sequences, N tokens, D model width.
"""

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from vibench.layers.bimamba import BiMamba2

SIZES = {"d_model": 6, "d_state": 5, "d_conv": 3, "expand": 2, "head_dim": 4, "chunk": 4}


def made(**changed):
    """Norm and bias of a size that shows."""
    torch.manual_seed(0)
    layer = BiMamba2(**SIZES | {"fused": False, "slices": 1} | changed)
    for parameter in (layer.norm.weight, layer.norm.bias, layer.merge.bias):
        nn.init.normal_(parameter, mean=1)
    return layer


def test_both_directions_are_joined_merged_added_and_normalised():
    layer, tokens = made(), torch.randn(2, 11, 6)
    onward = layer.onward(tokens)
    back = torch.stack(layer.back(torch.stack(tokens.unbind(1)[::-1], 1)).unbind(1)[::-1], 1)
    added = tokens + torch.cat([onward, back], -1) @ layer.merge.weight.T + layer.merge.bias
    centred = added - added.mean(-1, keepdim=True)
    expected = (
        centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * layer.norm.weight + layer.norm.bias
    )
    torch.testing.assert_close(layer(tokens), expected, rtol=1e-5, atol=1e-5)


def test_the_reversed_sequence_through_exchanged_directions_is_the_reversed_result():
    layer, other, tokens = made(), made(), torch.randn(2, 11, 6)
    other.onward, other.back = layer.back, layer.onward
    with torch.no_grad():
        other.merge.weight.copy_(layer.merge.weight.roll(6, dims=1))
    torch.testing.assert_close(other(tokens.flip(1)), layer(tokens).flip(1), rtol=1e-5, atol=1e-6)


def test_a_token_sees_every_token():
    layer, tokens = made(), torch.randn(11, 6)
    sees = jacobian(lambda one: layer(one[None])[0], tokens).abs().sum((1, 3)) > 0  # (N, N)
    assert sees.all()


@pytest.mark.parametrize("slices", [2, 3, 5])
def test_sequences_in_slices_are_those_in_one_go(slices):
    layer, tokens = made(slices=slices), torch.randn(5, 11, 6)
    assert layer.slices == slices
    parts = torch.cat([layer(part) for part in tokens.tensor_split(slices)])
    torch.testing.assert_close(parts, layer(tokens), rtol=1e-5, atol=1e-6)


def test_every_parameter_has_a_gradient_and_the_two_directions_share_none():
    layer = made()
    layer(torch.randn(2, 11, 6)).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not {id(p) for p in layer.onward.parameters()} & {id(p) for p in layer.back.parameters()}


def test_autocast_leaves_the_result_in_single_precision():
    """Normalised, so what goes into the next layer is."""
    layer, tokens = made(), torch.randn(2, 11, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(tokens)
    assert rough.dtype is torch.float32
    assert 0 < (rough - layer(tokens)).norm() < 0.03 * rough.norm()
