"""Signal prediction: the order of its samples, and its metrics against numpy and scikit-learn.

Shapes: B windows, G sequences per window, C channels, N tokens, D model width, H samples to forecast.
"""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import nn

from tests.model.batches import N_CHANNELS, SIZES, of_scale, random_batch
from vibench.data.build import build
from vibench.model import build_model, targets
from vibench.tasks.signal_prediction import SignalPrediction
from vibench.tasks.task import Sizes

D, N, C, H, P = 8, 5, 3, 12, 4


def forecaster(channel_independent):
    sizes = Sizes(d_model=D, n_tokens=N, window=6, n_channels=C, channel_independent=channel_independent, n_classes=4)
    return SignalPrediction(sizes=sizes, horizon=H, patch_len=P)


def drawn(size=40):
    """Prediction and target (B, C, H), present (B, C) as of systems with 1 to 3 channels, scale (B, C)."""
    random = torch.Generator().manual_seed(0)
    target = torch.randn(size, C, H, generator=random)
    prediction = target + 0.7 * torch.randn(size, C, H, generator=random)
    present = torch.arange(C) < (torch.arange(size) % C + 1)[:, None]
    return prediction, target, present, 0.5 + 4 * torch.rand(size, C, generator=random)


def measured(prediction, target, present, scale):
    task = forecaster(channel_independent=True)
    metrics = task.metrics()
    for part in torch.arange(len(target)).split(7):
        task.update(metrics, prediction[part], target[part], present[part], of_scale(scale[part]))
    return {name: float(value) for name, value in metrics.compute().items()}


def test_errors_are_those_of_scikit_learn():
    prediction, target, present, scale = drawn()
    found = measured(prediction, target, present, scale)
    truth, guess = target[present].flatten(), prediction[present].flatten()
    assert found["mse"] == pytest.approx(mean_squared_error(truth, guess), rel=1e-4)
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, guess), rel=1e-4)
    assert found["r2"] == pytest.approx(r2_score(truth, guess), rel=1e-4)


def test_raw_errors_are_in_the_unit_of_the_recording():
    prediction, target, present, scale = drawn()
    found = measured(prediction, target, present, scale)
    error = ((prediction - target) * scale[..., None])[present].double().numpy()
    assert found["raw_mse"] == pytest.approx((error**2).mean(), rel=1e-4)
    assert found["raw_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)


def test_a_recording_in_another_unit_changes_the_raw_errors_only():
    prediction, target, present, scale = drawn()
    before, after = measured(prediction, target, present, scale), measured(prediction, target, present, 1000 * scale)
    factors = {"mse": 1, "mae": 1, "r2": 1, "raw_mse": 1e6, "raw_mae": 1e3}
    assert after == pytest.approx({name: factors[name] * value for name, value in before.items()}, rel=1e-4)


def test_channels_that_a_system_does_not_have_are_in_no_metric():
    prediction, target, present, scale = drawn()
    before = measured(prediction, target, present, scale)
    wild = torch.where(present[..., None], prediction, 1e6)
    assert measured(wild, target, present, torch.where(present, scale, 1e6)) == before


def test_channels_that_a_system_does_not_have_are_in_no_loss():
    prediction, target, present, _ = drawn()
    loss = forecaster(channel_independent=True).loss
    wild = torch.where(present[..., None], prediction, 1e6)
    assert torch.equal(loss(wild, target, present), loss(prediction, target, present))


@pytest.mark.parametrize("embedding", ["patch", "hse"])
def test_what_padded_channels_hold_reaches_no_loss_of_the_model(tiny, embedding):
    config = tiny(f"embedding={embedding}")
    model, batch = build_model(config, **SIZES).eval(), random_batch(config)
    task, name = model.tasks["signal_prediction"], "signal_prediction"
    before = task.loss(model(batch)[name], batch.targets[name], batch.present[name])
    padding = torch.arange(N_CHANNELS) >= batch.channels[:, None]
    batch.signal[padding] = 100
    torch.testing.assert_close(task.loss(model(batch)[name], batch.targets[name], batch.present[name]), before)


def test_the_loss_is_the_summed_squared_error_of_present_samples():
    prediction, target, present, _ = drawn()
    task = forecaster(channel_independent=True)
    error = (prediction - target)[present].double()
    assert float(task.loss(prediction, target, present)) == pytest.approx(float((error**2).sum()), rel=1e-5)
    assert int(task.count(present)) == error.numel()


@pytest.mark.parametrize("channel_independent", [True, False])
def test_forecast_token_k_becomes_samples_k_times_p_and_on_of_each_channel(channel_independent):
    """Written out sample by sample, from the weights."""
    torch.manual_seed(0)
    task = forecaster(channel_independent)
    tokens = torch.randn(2, C if channel_independent else 1, N, D)
    out = task(tokens, torch.ones(2, tokens.shape[1], dtype=torch.bool))
    assert out.shape == (2, C, H)
    for channel in range(C):
        seen = tokens[:, channel if channel_independent else 0]  # (B, N, D)
        for sample in range(H):
            k, p = divmod(sample, P)
            forecast = torch.einsum("n,bnd->bd", task.head.mix.weight[k], seen) + task.head.mix.bias[k]
            row = p if channel_independent else p * C + channel
            expected = forecast @ task.head.read.weight[row] + task.head.read.bias[row]
            torch.testing.assert_close(out[:, channel, sample], expected, rtol=1e-4, atol=1e-5)


def test_of_independent_channels_each_is_forecast_from_its_own_tokens():
    task, tokens, real = forecaster(True), torch.randn(2, C, N, D), torch.ones(2, C, dtype=torch.bool)
    other = tokens.clone()
    other[:, 1] += 1
    moved = (task(other, real) != task(tokens, real)).any(-1)
    assert moved.tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize(("channel_independent", "outputs"), [(True, 1), (False, C)])
def test_the_parameters_are_linear_in_tokens_and_width(channel_independent, outputs):
    task = forecaster(channel_independent)
    expected = (N * H // P + H // P) + (D * P * outputs + P * outputs)
    assert sum(p.numel() for p in task.parameters()) == expected
    assert all(isinstance(m, nn.Linear) for m in task.head.children())


def test_the_target_is_the_samples_that_follow_the_window(tiny):
    """Windows lie end to end in the tiny data, so what follows one window is how the next one begins."""
    config = tiny("data.normalisation=none", "data.stride=256")
    data = build(config.data, targets(config))
    windows, horizon = data.splits["train"], config.task["signal_prediction"].horizon
    places = windows.places.tolist()
    pairs = [i for i in range(len(places) - 1) if places[i + 1] == [places[i][0], places[i][1] + 256]]
    assert len(pairs) > 10
    batch, following = windows.__getitems__(pairs), windows.__getitems__([i + 1 for i in pairs])
    there = batch.present["signal_prediction"]
    assert torch.equal(there, torch.arange(data.n_channels) < batch.channels[:, None])
    assert torch.equal(batch.targets["signal_prediction"][there], following.signal[..., :horizon][there])


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_r2_keeps_its_digits_where_the_signal_has_an_offset(offset):
    prediction, target, present, scale = drawn()
    found = measured(prediction + offset, target + offset, present, scale)["r2"]
    chosen = (target + offset)[present].double(), (prediction + offset)[present].double()
    assert found == pytest.approx(r2_score(chosen[0].flatten(), chosen[1].flatten()), abs=1e-4)
