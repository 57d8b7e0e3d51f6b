"""Attention and the encoder block against their formulas."""

import math

import pytest
import torch
from torch import nn

from vibench.layers.encoder import Attention, EncoderBlock


def written_out(attention, tokens):
    """softmax(Q K^T / sqrt(d)) V per head, in loops."""
    s, n, d = tokens.shape
    heads, width = attention.n_heads, d // attention.n_heads
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query, key, value = (tokens @ weight[i * d : (i + 1) * d].T + bias[i * d : (i + 1) * d] for i in range(3))
    mixed = torch.empty(s, n, d)
    for sequence in range(s):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            q, k, v = query[sequence, :, part], key[sequence, :, part], value[sequence, :, part]
            mixed[sequence, :, part] = torch.softmax(q @ k.T / math.sqrt(width), dim=-1) @ v
    return mixed @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_softmax_of_queries_and_keys_times_values(heads):
    torch.manual_seed(0)
    attention = Attention(8, heads, dropout=0.0)
    tokens = 3 * torch.randn(2, 5, 8)  # large enough that the softmax is far from even
    torch.testing.assert_close(attention(tokens), written_out(attention, tokens), rtol=1e-5, atol=1e-6)


def test_the_number_of_heads_changes_the_result():
    torch.manual_seed(0)
    one, two = Attention(8, 1, dropout=0.0), Attention(8, 2, dropout=0.0)
    two.load_state_dict(one.state_dict())
    tokens = 3 * torch.randn(2, 5, 8)
    assert not torch.allclose(one(tokens), two(tokens), atol=1e-3)


def test_equal_tokens_attend_evenly():
    attention = Attention(8, 2, dropout=0.0)
    tokens = torch.randn(2, 1, 8).expand(2, 5, 8)
    alone = attention(tokens[:, :1])
    torch.testing.assert_close(attention(tokens), alone.expand(2, 5, 8))


def test_attention_dropout_acts_in_training_only():
    attention, tokens = Attention(8, 2, dropout=0.5), torch.randn(1, 5, 8)
    assert not torch.equal(attention(tokens), attention(tokens))
    attention.eval()
    assert torch.equal(attention(tokens), attention(tokens))


def test_a_block_normalises_after_each_addition():
    torch.manual_seed(0)
    block, tokens = EncoderBlock(8, 2, 12, dropout=0.0, activation=nn.GELU()), torch.randn(2, 5, 8)
    first = block.norm_attention(tokens + written_out(block.attention, tokens))
    expand, contract = block.feed_forward[0], block.feed_forward[-1]
    hidden = first @ expand.weight.T + expand.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2  # GELU by its definition
    expected = block.norm_feed_forward(first + hidden @ contract.weight.T + contract.bias)
    torch.testing.assert_close(block(tokens), expected, rtol=1e-5, atol=1e-5)


def test_every_token_leaves_a_fresh_block_normalised():
    out = EncoderBlock(8, 2, 12, dropout=0.0, activation=nn.GELU())(5 + 10 * torch.randn(2, 5, 8))
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(-1, correction=0), torch.ones(2, 5), atol=1e-3, rtol=0)
