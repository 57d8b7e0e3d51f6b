"""Mamba-2 as a backbone: selective state-space layers, normalised before and added after.

Shapes: S sequences, N tokens, D model width.
"""

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from vibench.backbones.mamba2 import Mamba2Backbone

SIZES = {"d_model": 6, "e_layers": 2, "d_state": 3, "d_conv": 2, "expand": 2, "head_dim": 4}


def made(n_tokens=11, chunk=4, **changed):
    torch.manual_seed(0)
    return Mamba2Backbone(n_tokens=n_tokens, chunk=chunk, **SIZES | changed)


def normalised(tokens, norm):
    return tokens / torch.sqrt(tokens.square().mean(-1, keepdim=True) + 1e-5) * norm.weight


def test_each_layer_is_normalised_before_and_added_after_and_all_normalised_at_the_end():
    backbone, tokens = made(), torch.randn(2, 11, 6)
    for norm in (*(block.norm for block in backbone.blocks), backbone.norm):
        nn.init.normal_(norm.weight, mean=1)
    first = tokens + backbone.blocks[0].layer(normalised(tokens, backbone.blocks[0].norm))
    second = first + backbone.blocks[1].layer(normalised(first, backbone.blocks[1].norm))
    torch.testing.assert_close(backbone(tokens), normalised(second, backbone.norm), rtol=1e-5, atol=1e-5)


def test_a_token_sees_itself_and_every_token_before_it():
    """Over three chunks, and further than the convolution reaches."""
    backbone, tokens = made(), torch.randn(11, 6)
    sees = jacobian(lambda one: backbone(one[None])[0], tokens).abs().sum((1, 3)) > 0  # (N, N)
    assert torch.equal(sees, torch.ones(11, 11, dtype=torch.bool).tril())


@pytest.mark.parametrize("changed", [3, 4, 8])  # the last token of a chunk, the first of the next, of the last
def test_a_change_shows_in_no_earlier_token(changed):
    backbone, tokens = made(), torch.randn(2, 11, 6)
    other = tokens.clone()
    other[:, changed] += 1
    before, after = backbone(tokens), backbone(other)
    assert torch.equal(after[:, :changed], before[:, :changed])
    assert not torch.allclose(after[:, changed:], before[:, changed:])


@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
def test_the_chunk_does_not_change_the_result(chunk):
    tokens = torch.randn(2, 11, 6)
    torch.testing.assert_close(made(chunk=chunk)(tokens), made(chunk=11)(tokens), rtol=1e-5, atol=1e-5)


def test_the_rest_of_a_sequence_does_not_change_its_beginning():
    backbone, tokens = made(), torch.randn(2, 11, 6)
    torch.testing.assert_close(backbone(tokens[:, :6]), backbone(tokens)[:, :6], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [{}, {"d_model": 8, "e_layers": 3, "d_conv": 4, "expand": 1, "head_dim": 2}])
def test_the_number_of_parameters_follows_from_the_sizes(sizes):
    d, layers, k, taps, expand, head = (SIZES | sizes).values()
    inner = expand * d
    heads, mixed = inner // head, inner + 2 * k
    enter, leave = d * (inner + mixed + heads), inner * d  # without bias
    layer = enter + (mixed * taps + mixed) + 3 * heads + inner + leave  # step, decay and skip of a head; the norm
    assert sum(p.numel() for p in made(**sizes).parameters()) == layers * (d + layer) + d
