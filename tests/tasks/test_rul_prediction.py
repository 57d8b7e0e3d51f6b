"""Remaining useful life: its target, its metrics against numpy and scikit-learn, and the PHM08 score against a loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from tests.model.batches import of_scale
from vibench.data.store import Recording
from vibench.errors import ShapeError
from vibench.tasks.rul_prediction import PHM08, RULPrediction
from vibench.tasks.task import Sizes

SIZES = Sizes(d_model=8, n_tokens=3, window=6, n_channels=3, channel_independent=True, n_classes=4)
CAP_S = 7200.0
NO_FUTURE = np.zeros((1, 0), np.float32)


@pytest.fixture
def task():
    return RULPrediction(sizes=SIZES, max_rul_s=CAP_S)


@pytest.fixture(scope="module")
def target(tiny):
    return RULPrediction.target(tiny("task.rul_prediction.max_rul_s=7200").task["rul_prediction"], 1024)


def recording(rul_s, rate_hz=100.0):
    return Recording(
        id="r",
        system="s",
        entity="e",
        source="f",
        rate_hz=rate_hz,
        start=0,
        length=10_000,
        anomaly=None,
        rul_s=rul_s,
    )


def drawn(size=300):
    """Prediction, target and present labels, as shares of the cap."""
    random = torch.Generator().manual_seed(0)
    truth = torch.rand(size, generator=random)
    return truth + 0.1 * torch.randn(size, generator=random), truth, torch.rand(size, generator=random) > 0.3


def measured(task, prediction, truth, present):
    metrics = task.metrics()
    for part in torch.arange(len(truth)).split(64):
        task.update(metrics, prediction[part], truth[part], present[part], of_scale(torch.ones(len(part), 3)))
    return {name: float(value) for name, value in metrics.compute().items()}


def phm08(prediction, truth):
    """The score as published: exp(-d/13) - 1 where d < 0 (early), exp(d/10) - 1 else (late), in cycles of 125."""
    total = 0.0
    for guess, true in zip(prediction.tolist(), truth.tolist(), strict=True):
        d = 125 * guess - 125 * true
        total += math.exp(-d / 13) - 1 if d < 0 else math.exp(d / 10) - 1
    return total


def test_errors_are_those_of_scikit_learn(task):
    prediction, truth, present = drawn()
    found = measured(task, prediction, truth, present)
    assert found["mse"] == pytest.approx(mean_squared_error(truth[present], prediction[present]), rel=1e-4)
    assert found["mae"] == pytest.approx(mean_absolute_error(truth[present], prediction[present]), rel=1e-4)
    assert found["r2"] == pytest.approx(r2_score(truth[present], prediction[present]), rel=1e-4)


def test_mae_s_is_in_seconds(task):
    prediction, truth, present = drawn()
    seconds = np.abs(CAP_S * (prediction - truth).numpy())[present.numpy()]
    assert measured(task, prediction, truth, present)["mae_s"] == pytest.approx(seconds.mean(), rel=1e-4)


def test_the_phm08_score_is_the_published_one(task):
    prediction, truth, present = drawn()
    found, expected = measured(task, prediction, truth, present), phm08(prediction[present], truth[present])
    assert found["phm08_sum"] == pytest.approx(expected, rel=1e-4)
    assert found["phm08_mean"] == pytest.approx(expected / int(present.sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("cycles", "score"),
    [(0, 0.0), (10, math.e - 1), (-13, math.e - 1), (20, math.e**2 - 1), (-1, math.exp(1 / 13) - 1)],
)
def test_an_error_of_some_cycles_of_125_has_its_published_score(cycles, score):
    metric = PHM08(mean=False)
    metric.update(torch.tensor([0.5 + cycles / 125]), torch.tensor([0.5]))
    assert float(metric.compute()) == pytest.approx(score, abs=1e-4)


def test_late_costs_more_than_early():
    late, early = PHM08(mean=True), PHM08(mean=True)
    late.update(torch.tensor([0.7]), torch.tensor([0.5]))
    early.update(torch.tensor([0.3]), torch.tensor([0.5]))
    assert late.compute() > early.compute()


def test_the_loss_is_the_summed_squared_error(task):
    prediction, truth, present = drawn()
    expected = float(((prediction - truth)[present].double() ** 2).sum())
    assert float(task.loss(prediction, truth, present)) == pytest.approx(expected, rel=1e-5)


def test_a_prediction_for_each_window_against_one_number_is_refused(task):
    with pytest.raises(ShapeError, match=r"^rul_prediction: prediction \(128,\) against target \(\)$"):
        task.loss(torch.zeros(128), torch.tensor(0.5), torch.ones(128, dtype=torch.bool))


def test_a_column_of_targets_is_refused(task):
    with pytest.raises(ShapeError, match=r"^rul_prediction: prediction \(128,\) against target \(128, 1\)$"):
        task.loss(torch.zeros(128), torch.zeros(128, 1), torch.ones(128, dtype=torch.bool))


def test_the_prediction_may_leave_the_unit_interval_and_still_learns(task):
    torch.nn.init.constant_(task.head[-1].bias, -5.0)
    tokens, real = torch.randn(4, 3, 3, 8), torch.ones(4, 3, dtype=torch.bool)
    prediction = task(tokens, real)
    assert (prediction < 0).all()
    task.loss(prediction, torch.zeros(4), torch.ones(4, dtype=torch.bool)).backward()
    assert task.head[0].weight.grad.any()


def test_the_target_is_capped(target):
    assert target.of(recording(rul_s=50_000.0), NO_FUTURE, 100) == 1.0
    assert target.of(recording(rul_s=CAP_S + 1), NO_FUTURE, 100) == 1.0  # one second in, the cap is just reached


def test_the_target_is_the_share_of_the_cap_left_at_the_end_of_the_window(target):
    assert target.of(recording(rul_s=3600.0), NO_FUTURE, 1000) == pytest.approx((3600 - 10) / 7200)
    assert target.of(recording(rul_s=3600.0, rate_hz=1000.0), NO_FUTURE, 1000) == pytest.approx((3600 - 1) / 7200)


def test_the_target_falls_along_the_recording(target):
    values = [target.of(recording(rul_s=60.0), NO_FUTURE, end) for end in range(256, 6000, 256)]
    assert np.allclose(np.diff(values), -256 / 100 / 7200)


def test_the_target_ends_at_zero(target):
    assert target.of(recording(rul_s=10.0), NO_FUTURE, 1000) == 0.0
    assert target.of(recording(rul_s=10.0), NO_FUTURE, 5000) == 0.0  # the recording went on after the failure


def test_without_a_known_life_there_is_no_target(target):
    assert target.of(recording(rul_s=None), NO_FUTURE, 1000) is None


@given(rul_s=st.floats(0, 1e7), end=st.integers(0, 10**7), rate_hz=st.floats(1, 1e6))
def test_the_target_is_a_share(target, rul_s, end, rate_hz):
    assert 0 <= target.of(recording(rul_s, rate_hz), NO_FUTURE, end) <= 1
