"""PatchTST: Transformer blocks over one sequence at a time."""

import pytest
import torch

from vibench.backbones.patchtst import PatchTST


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return PatchTST(n_tokens=7, d_model=8, e_layers=2, n_heads=2, d_ff=12, dropout=0.5)


def test_sequences_do_not_see_one_another(backbone):
    backbone.eval()
    tokens = torch.randn(3, 7, 8)
    changed = tokens.clone()
    changed[1] = torch.randn(7, 8)
    before, after = backbone(tokens), backbone(changed)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])
    assert not torch.allclose(after[1], before[1])


def test_every_token_sees_every_token_of_its_sequence(backbone):
    backbone.eval()
    tokens = torch.randn(1, 7, 8, requires_grad=True)
    for token in range(7):
        (gradient,) = torch.autograd.grad(backbone(tokens)[0, token].square().sum(), tokens)
        assert (gradient[0].abs().sum(1) > 0).all()


def test_the_place_of_a_token_matters(backbone):
    backbone.eval()
    tokens, order = torch.randn(1, 7, 8), [3, 1, 2, 0, 4, 5, 6]
    assert not torch.allclose(backbone(tokens[:, order]), backbone(tokens)[:, order], atol=1e-4)


def test_without_positions_the_place_of_a_token_does_not_matter(backbone):
    backbone.eval()
    torch.nn.init.zeros_(backbone.position)
    tokens, order = torch.randn(1, 7, 8), [3, 1, 2, 0, 4, 5, 6]
    torch.testing.assert_close(backbone(tokens[:, order]), backbone(tokens)[:, order], rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training(backbone):
    tokens = torch.randn(1, 7, 8)
    assert not torch.equal(backbone(tokens), backbone(tokens))


def test_a_dropout_of_zero_makes_training_and_evaluation_alike():
    backbone = PatchTST(n_tokens=7, d_model=8, e_layers=2, n_heads=2, d_ff=12, dropout=0.0)
    tokens = torch.randn(2, 7, 8)
    torch.testing.assert_close(backbone.train()(tokens), backbone.eval()(tokens))


@pytest.mark.parametrize(("n", "d", "layers", "heads", "ff"), [(7, 8, 2, 2, 12), (5, 12, 3, 4, 7)])
def test_the_number_of_parameters_follows_from_the_sizes(n, d, layers, heads, ff):
    backbone = PatchTST(n_tokens=n, d_model=d, e_layers=layers, n_heads=heads, d_ff=ff, dropout=0.1)
    attention = 4 * (d * d + d)  # query, key, value and output
    feed_forward = (d * ff + ff) + (ff * d + d)
    norms = 2 * 2 * d
    expected = n * d + layers * (attention + feed_forward + norms)
    assert sum(p.numel() for p in backbone.parameters()) == expected
