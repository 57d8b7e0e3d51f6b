"""What every backbone promises. A new YAML in conf/backbone is covered without a new test.

Shapes: S sequences, N tokens, D model width.
"""

import inspect
from dataclasses import fields

import pytest
import torch
from hydra.utils import get_class, instantiate

from tests.conftest import CONF
from tests.model.batches import LITTLE

BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
EMBEDDINGS = sorted(path.stem for path in (CONF / "embedding").glob("*.yaml"))
SMALL = {
    "patch": ("embedding.patch_len=16", "embedding.stride=8"),
    "envelope": ("embedding.bands=31",),
    "tcn": ("embedding.stride=1", "embedding.channels=[8]"),
}  # enough tokens for all in a short window
GIVEN = {"n_tokens": 33, "d_model": 16}  # what the model hands over; an odd number, which no half of it divides


@pytest.fixture(scope="module", params=BACKBONES)
def config(request, tiny):
    return tiny(f"backbone={request.param}", "embedding=pointwise", *LITTLE.get(request.param, ())).backbone


@pytest.fixture
def backbone(config):
    torch.manual_seed(0)
    return instantiate(config, **GIVEN)


@pytest.fixture
def tokens():
    return torch.randn(5, 33, 16, generator=torch.Generator().manual_seed(1))


def test_schema_and_constructor_name_the_same_arguments(config):
    schema = {f.name for f in fields(config)} - {"_target_"}
    assert schema | set(GIVEN) == set(inspect.signature(get_class(config._target_)).parameters)


def test_no_argument_of_the_constructor_has_a_default(config):
    arguments = inspect.signature(get_class(config._target_)).parameters.values()
    assert [a.name for a in arguments if a.default is not inspect.Parameter.empty] == []


@pytest.mark.parametrize("sequences", [1, 5])
def test_tokens_keep_their_shape(backbone, tokens, sequences):
    assert backbone(tokens[:sequences]).shape == (sequences, 33, 16)


def test_every_parameter_and_every_token_has_a_finite_gradient(backbone, tokens):
    tokens.requires_grad_()
    backbone(tokens).square().sum().backward()
    gradients = {"tokens": tokens.grad} | {name: p.grad for name, p in backbone.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert [name for name, grad in gradients.items() if not grad.any()] == []


def test_evaluation_is_deterministic(backbone, tokens):
    backbone.eval()
    assert torch.equal(backbone(tokens), backbone(tokens))


def test_evaluation_draws_no_random_number(backbone, tokens):
    backbone.eval()
    before = torch.get_rng_state()
    backbone(tokens)
    assert torch.equal(before, torch.get_rng_state())


def test_a_sequence_is_encoded_alike_alone_and_among_others(backbone, tokens):
    backbone.eval()  # else a batch cut into micro-batches would be another batch
    alone = torch.cat([backbone(one[None]) for one in tokens])
    torch.testing.assert_close(backbone(tokens), alone, rtol=1e-5, atol=1e-5)


def test_the_input_is_left_as_it_was(backbone, tokens):
    before = tokens.clone()
    backbone(tokens)
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("window", [255, 257, 320])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_any_backbone_takes_the_tokens_of_any_embedding(tiny, backbone, embedding, window):
    small = (*SMALL.get(embedding, ()), *LITTLE.get(backbone, ()))
    config = tiny(f"backbone={backbone}", f"embedding={embedding}", f"data.window={window}", *small)
    lift = instantiate(config.embedding, d_model=16, n_channels=2, window=window)
    tokens = lift(torch.randn(2, 2, window), torch.tensor([1, 2]), torch.tensor([12_000.0, 25_600.0]))
    encode = instantiate(config.backbone, n_tokens=config.embedding.n_tokens(window), d_model=16)
    assert encode(tokens).shape == tokens.shape
