"""What every embedding promises. A new YAML in conf/embedding is covered without a new test.

Shapes: B windows, C channels, L samples, S sequences, N tokens, D model width.
"""

import inspect
from dataclasses import fields, replace

import pytest
import torch
from hydra.utils import get_class, instantiate

from tests.conftest import CONF
from tests.model.batches import N_CHANNELS, SIZES, random_batch
from vibench.data.build import build
from vibench.model import build_model, targets

EMBEDDINGS = sorted(path.stem for path in (CONF / "embedding").glob("*.yaml"))
GIVEN = ("d_model", "n_channels", "window")
POOLED = ("classification", "anomaly_detection", "rul_prediction")  # tasks with one prediction per window
BLIND = sorted(set(EMBEDDINGS) - {"pointwise"})  # pointwise relies on the padding being zero, which has its own test


@pytest.fixture(scope="module", params=EMBEDDINGS)
def config(request, tiny):
    return tiny(f"embedding={request.param}").embedding


@pytest.fixture
def embedding(config):
    torch.manual_seed(0)
    return instantiate(config, d_model=16, n_channels=3, window=255)


@pytest.fixture
def inputs():
    """Signals (4, 3, 255) of systems with 1, 2 and 3 channels at two rates, zero where a system has no channel."""
    channels = torch.tensor([1, 2, 3, 3])
    signal = torch.randn(4, 3, 255, generator=torch.Generator().manual_seed(1))
    signal = signal * (torch.arange(3) < channels[:, None])[..., None]
    return signal, channels, torch.tensor([12_000.0, 25_600.0, 12_000.0, 25_600.0])


def test_schema_and_constructor_name_the_same_arguments(config):
    schema = {f.name for f in fields(config)} - {"_target_"}
    assert schema | set(GIVEN) == set(inspect.signature(get_class(config._target_)).parameters)


def test_no_argument_of_the_constructor_has_a_default(config):
    arguments = inspect.signature(get_class(config._target_)).parameters.values()
    assert [a.name for a in arguments if a.default is not inspect.Parameter.empty] == []


@pytest.mark.parametrize("window", [64, 65, 97, 255, 256, 257])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_window_becomes_the_tokens_its_schema_counts(config, window, channels):
    embedding = instantiate(config, d_model=16, n_channels=channels, window=window)
    rates = torch.full((2,), 12_000.0)
    tokens = embedding(torch.randn(2, channels, window), torch.full((2,), channels), rates)
    sequences = 2 * channels if embedding.channel_independent else 2
    assert tokens.shape == (sequences, config.n_tokens(window), 16)


def test_every_parameter_has_a_finite_gradient(embedding, inputs):
    embedding(*inputs).square().sum().backward()
    gradients = {name: p.grad for name, p in embedding.named_parameters()}
    assert gradients
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert [name for name, grad in gradients.items() if not grad.any()] == []


def test_evaluation_is_deterministic(embedding, inputs):
    embedding.eval()
    assert torch.equal(embedding(*inputs), embedding(*inputs))


def test_evaluation_draws_no_random_number(embedding, inputs):
    embedding.eval()
    before = torch.get_rng_state()
    embedding(*inputs)
    assert torch.equal(before, torch.get_rng_state())


def test_a_window_is_embedded_alike_alone_and_among_others(embedding, inputs):
    embedding.eval()
    whole = embedding(*inputs)
    alone = torch.cat([embedding(*(part[i : i + 1] for part in inputs)) for i in range(4)])
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-6)


def test_channels_become_sequences_of_their_own_only_where_the_embedding_says_so(embedding, inputs):
    signal, channels, rate_hz = inputs
    embedding.eval()
    changed = signal.clone()
    changed[3, 2] += torch.linspace(0, 1, 255) ** 2  # the third channel of the last window
    moved = (embedding(changed, channels, rate_hz) != embedding(signal, channels, rate_hz)).flatten(1).any(1)
    expected = [11] if embedding.channel_independent else [3]
    assert moved.nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("name", BLIND)
def test_predictions_do_not_depend_on_channels_that_a_system_does_not_have(tiny, name):
    config = tiny(f"embedding={name}")
    model = build_model(config, **SIZES).eval()
    batch = random_batch(config)
    padding = (torch.arange(N_CHANNELS) >= batch.channels[:, None])[..., None]
    filled = replace(batch, signal=torch.where(padding, 100.0, batch.signal))
    before, after = model(batch), model(filled)
    for task in POOLED:
        torch.testing.assert_close(after[task], before[task], msg=task)


@pytest.mark.parametrize("name", BLIND)
def test_predictions_do_depend_on_channels_that_a_system_has(tiny, name):
    config = tiny(f"embedding={name}")
    model = build_model(config, **SIZES).eval()
    batch = random_batch(config)
    last = torch.arange(N_CHANNELS) == batch.channels[:, None] - 1  # the last real channel of each window
    filled = replace(batch, signal=torch.where(last[..., None], 100.0, batch.signal))
    before, after = model(batch), model(filled)
    for task in POOLED:
        assert ((after[task] != before[task]).reshape(len(batch), -1).any(1)).all(), task


def test_batches_of_the_data_are_zero_in_channels_that_a_system_does_not_have(tiny):
    config = tiny("embedding=pointwise")
    data = build(config.data, targets(config))
    missing = 0
    for split in data.splits:
        for batch in data.loader(split, 64):
            padding = torch.arange(data.n_channels) >= batch.channels[:, None]
            missing += int(padding.sum())
            assert not batch.signal[padding].any()
    assert missing  # the demo has a system with fewer channels than the other


def test_pointwise_adds_nothing_for_a_channel_of_zeros(tiny):
    embedding = instantiate(tiny("embedding=pointwise").embedding, d_model=16, n_channels=3, window=64)
    signal = torch.randn(2, 3, 64)
    signal[:, 2] = 0
    two = torch.nn.functional.conv1d(
        torch.nn.functional.pad(signal[:, :2], (1, 1), mode="circular"), embedding.lift.weight[:, :2]
    )
    tokens = embedding(signal, torch.full((2,), 2), torch.full((2,), 12_000.0))
    torch.testing.assert_close(tokens, two.transpose(1, 2))
