"""The Transformer encoder, and what it shares with PatchTST, against PyTorch's own encoder and the published formulas.

Shapes: S sequences, N tokens, D model width.
"""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vibench.backbones.patchtst import PatchTST
from vibench.backbones.transformer import Transformer
from vibench.layers.encoder import sinusoids

SIZES = {"n_tokens": 7, "d_model": 8, "e_layers": 2, "n_heads": 2, "d_ff": 12}


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return Transformer(**SIZES, dropout=0.5).eval()


class Operations(TorchDispatchMode):
    """Names of the operations that really ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def published_position(token, feature, d_model):
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i + 1) = cos of the same angle."""
    angle = token / 10_000 ** (2 * (feature // 2) / d_model)
    return math.cos(angle) if feature % 2 else math.sin(angle)


def pytorchs_encoder(blocks, activation):
    """torch.nn.TransformerEncoder with our weights, random ones: fresh norms and biases would hide a misplaced one."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.5, activation, norm_first=False, batch_first=True)
    encoder = nn.TransformerEncoder(layer, len(blocks), enable_nested_tensor=False).eval()
    for ours, theirs in zip(blocks, encoder.layers, strict=True):
        for parameter in ours.parameters():
            nn.init.normal_(parameter, std=0.5)
        expand, contract = ours.feed_forward[0], ours.feed_forward[-1]
        pairs = {
            "self_attn.in_proj_": ours.attention.qkv,
            "self_attn.out_proj.": ours.attention.out,
            "linear1.": expand,
            "linear2.": contract,
            "norm1.": ours.norm_attention,
            "norm2.": ours.norm_feed_forward,
        }
        theirs.load_state_dict(
            {f"{to}{name}": v for to, part in pairs.items() for name, v in part.state_dict().items()}
        )
    return encoder


def test_it_is_pytorchs_encoder_over_scaled_tokens_with_sinusoids(backbone):
    encoder, tokens = pytorchs_encoder(backbone.blocks, "relu"), torch.randn(3, 7, 8)
    position = torch.tensor([[published_position(n, d, 8) for d in range(8)] for n in range(7)])
    torch.testing.assert_close(backbone(tokens), encoder(math.sqrt(8) * tokens + position), rtol=1e-5, atol=1e-5)


def test_patchtst_is_pytorchs_encoder_with_gelu_over_learned_positions():
    torch.manual_seed(0)
    backbone = PatchTST(**SIZES, dropout=0.5).eval()
    nn.init.normal_(backbone.position)
    encoder, tokens = pytorchs_encoder(backbone.blocks, "gelu"), torch.randn(3, 7, 8)
    torch.testing.assert_close(backbone(tokens), encoder(tokens + backbone.position), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d_model", [1, 2, 7, 8])  # an odd width ends with a sine
def test_the_positions_are_the_published_sines_and_cosines(d_model):
    expected = torch.tensor([[published_position(n, d, d_model) for d in range(d_model)] for n in range(11)])
    torch.testing.assert_close(sinusoids(11, d_model), expected, rtol=1e-5, atol=1e-6)


def test_the_positions_stay_true_far_from_the_first_token():
    """Single precision: an angle of a thousand radians is known to about 1e-4."""
    expected = torch.tensor([published_position(1023, d, 16) for d in range(16)])
    torch.testing.assert_close(sinusoids(1024, 16)[1023], expected, rtol=0, atol=5e-4)


def test_the_positions_are_neither_trained_nor_saved(backbone):
    assert not [name for name in (*backbone.state_dict(), *dict(backbone.named_parameters())) if "position" in name]


def test_every_token_sees_every_token_of_its_sequence(backbone):
    tokens = torch.randn(1, 7, 8, requires_grad=True)
    for token in range(7):
        (gradient,) = torch.autograd.grad(backbone(tokens)[0, token].square().sum(), tokens)
        assert (gradient[0].abs().sum(1) > 0).all()


def test_dropout_acts_on_the_tokens_with_their_positions_in_training():
    torch.manual_seed(0)
    backbone = Transformer(**SIZES | {"e_layers": 0}, dropout=0.5)  # nothing but what comes before the blocks
    tokens = torch.randn(4, 7, 8)
    kept = backbone.eval()(tokens)
    dropped = backbone.train()(tokens)
    torch.testing.assert_close(dropped, torch.where(dropped == 0, 0, 2 * kept))
    assert 0.3 < (dropped == 0).float().mean() < 0.7


def test_dropout_acts_inside_the_blocks_in_training(backbone):
    tokens = torch.randn(2, 7, 8)
    backbone.train().dropout.eval()  # the one before the blocks is off
    assert not torch.equal(backbone(tokens), backbone(tokens))


def test_a_dropout_of_zero_makes_training_and_evaluation_alike():
    backbone, tokens = Transformer(**SIZES, dropout=0.0), torch.randn(2, 7, 8)
    torch.testing.assert_close(backbone.train()(tokens), backbone.eval()(tokens))


@pytest.mark.parametrize("kind", [Transformer, PatchTST])
def test_attention_is_fused(kind):
    """One operation per block, and no softmax of its own: the N x N weights are never stored."""
    backbone, tokens = kind(**SIZES, dropout=0.5).eval(), torch.randn(2, 7, 8)
    with Operations() as operations:
        backbone(tokens)
    fused = [name for name in operations.names if name.startswith("_scaled_dot_product")]
    assert len(fused) == 2
    assert not [name for name in operations.names if "softmax" in name]


@pytest.mark.parametrize(("n", "d", "layers", "heads", "ff"), [(7, 8, 2, 2, 12), (5, 12, 3, 4, 7)])
def test_the_number_of_parameters_follows_from_the_sizes_and_not_from_the_tokens(n, d, layers, heads, ff):
    backbone = Transformer(n_tokens=n, d_model=d, e_layers=layers, n_heads=heads, d_ff=ff, dropout=0.1)
    attention = 4 * (d * d + d)  # query, key, value and output
    feed_forward = (d * ff + ff) + (ff * d + d)
    norms = 2 * 2 * d
    assert sum(p.numel() for p in backbone.parameters()) == layers * (attention + feed_forward + norms)
