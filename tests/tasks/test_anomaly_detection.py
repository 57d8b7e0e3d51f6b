"""Anomaly detection against scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from tests.model.batches import of_scale
from vibench.data.store import Recording
from vibench.tasks.anomaly_detection import AnomalyDetection
from vibench.tasks.task import Sizes

SIZES = Sizes(d_model=8, n_tokens=3, window=6, n_channels=3, channel_independent=True, n_classes=4)


def detection(threshold=0.5):
    return AnomalyDetection(sizes=SIZES, threshold=threshold)


def drawn(size=800, faulty=0.25, skill=1.2, offset=0.0, squeeze=1.0):
    """Logits and truth of a detector that is often right; faults are rarer than health."""
    random = np.random.default_rng(0)
    truth = random.random(size) < faulty
    logits = offset + squeeze * (random.normal(size=size) + skill * truth)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(truth, dtype=torch.float32)


def measured(logits, truth, threshold=0.5):
    task = detection(threshold)
    metrics = task.metrics()
    present = torch.ones(len(truth), dtype=torch.bool)
    for part in torch.arange(len(truth)).split(300):
        task.update(metrics, logits[part], truth[part], present[part], of_scale(torch.ones(len(part), 3)))
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_the_thresholded_metrics_are_those_of_scikit_learn(threshold):
    logits, truth = drawn()
    found, guess = measured(logits, truth, threshold), expit(logits.numpy()) > threshold
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["precision"] == pytest.approx(precision_score(truth, guess))
    assert found["recall"] == pytest.approx(recall_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))


@pytest.mark.parametrize(
    ("skill", "offset", "squeeze"),
    [
        pytest.param(1.2, 0.0, 1.0, id="spread"),
        pytest.param(0.0, 0.0, 1.0, id="chance"),
        pytest.param(1.2, 9.0, 1.0, id="between 0.999 and 1"),
        pytest.param(1.2, -9.0, 1.0, id="between 0 and 0.001"),
        pytest.param(1.2, 6.0, 0.3, id="squeezed into a hundredth near 1"),
        pytest.param(1.2, 0.0, 0.1, id="squeezed near a half, as of a model that has just begun to learn"),
        pytest.param(1.2, 0.0, 12.0, id="so sure that many scores are 0 or 1"),
        pytest.param(-1.2, 0.0, 1.0, id="worse than chance"),
    ],
)
def test_auroc_and_aupr_are_within_a_hundredth_of_the_exact_ones(skill, offset, squeeze):
    logits, truth = drawn(skill=skill, offset=offset, squeeze=squeeze)
    found = measured(logits, truth)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, logits), abs=0.01)
    assert found["aupr"] == pytest.approx(average_precision_score(truth, logits), abs=0.01)


@pytest.mark.parametrize("confidence", [3.0, 30.0, 200.0])
def test_a_perfect_detector_reaches_one_however_sure_it_is(confidence):
    _, truth = drawn()
    found = measured(confidence * (2 * truth - 1), truth)
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-6)


def test_precision_and_recall_are_of_the_faulty_class():
    logits, truth = torch.tensor([9.0, 9.0, -9.0, -9.0, -9.0]), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    found = measured(logits, truth)
    assert found["precision"] == pytest.approx(1 / 2)
    assert found["recall"] == pytest.approx(1 / 3)


def test_the_loss_is_the_summed_binary_cross_entropy():
    logits, truth = drawn(size=50)
    present = torch.rand(50) > 0.4
    p, t = expit(logits.double().numpy()), truth.numpy()
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p))[present.numpy()].sum()
    assert float(detection().loss(logits, truth, present)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_a_very_sure_mistake_is_finite():
    loss = detection().loss(torch.tensor([-1000.0]), torch.tensor([1.0]), torch.tensor([True]))
    assert float(loss) == pytest.approx(1000)


@pytest.mark.parametrize(("anomaly", "value"), [(True, 1), (False, 0), (None, None)])
def test_the_target_is_faulty_or_healthy_and_absent_where_unknown(tiny, anomaly, value):
    recording = Recording(
        id="r", system="s", entity="e", source="f", rate_hz=1.0, start=0, length=9, anomaly=anomaly, rul_s=None
    )
    target = AnomalyDetection.target(tiny().task["anomaly_detection"], 1024)
    assert target.of(recording, np.zeros((1, 0)), 4) == value
