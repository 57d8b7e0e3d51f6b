"""Classification against scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from tests.model.batches import of_scale
from vibench.tasks.classification import Classification
from vibench.tasks.task import Sizes

SIZES = Sizes(d_model=8, n_tokens=3, window=6, n_channels=3, channel_independent=True, n_classes=4)
UNIT = of_scale(torch.ones(1, 3))


def classification(label_smoothing=0.0):
    return Classification(sizes=SIZES, label_smoothing=label_smoothing)


def drawn(size=600, classes=(0, 1, 1, 2, 2, 2, 3, 3, 3, 3), skill=1.5, offset=(0.0, 0.0, 0.0, 0.0), squeeze=1.0):
    """Logits and truth of a classifier that is often right; the classes are not equally frequent."""
    random = np.random.default_rng(0)
    truth = random.choice(classes, size)
    logits = squeeze * (random.normal(size=(size, 4)) + skill * np.eye(4)[truth]) + np.array(offset)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(truth)


def measured(logits, truth):
    task = classification()
    metrics = task.metrics()
    present = torch.ones(len(truth), dtype=torch.bool)
    for part in torch.arange(len(truth)).split(250):
        task.update(metrics, logits[part], truth[part], present[part], UNIT)
    return {name: float(value) for name, value in metrics.compute().items()}


def test_accuracy_f1_precision_and_recall_are_those_of_scikit_learn():
    logits, truth = drawn()
    found, guess = measured(logits, truth), logits.argmax(-1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["precision"] == pytest.approx(precision_score(truth, guess, average="macro"))
    assert found["recall"] == pytest.approx(recall_score(truth, guess, average="macro"))


def test_a_class_that_is_never_predicted_counts_as_missed():
    logits, truth = drawn(offset=(-50.0, 0.0, 0.0, 0.0))
    found, guess = measured(logits, truth), logits.argmax(-1)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["precision"] == pytest.approx(precision_score(truth, guess, average="macro", zero_division=0))
    assert found["recall"] == pytest.approx(recall_score(truth, guess, average="macro"))


def curves(logits, truth):
    """AUROC and average precision of each class against the rest, without thresholds, and their means."""
    scores = logits.double().softmax(-1).numpy()
    classes = [k for k in range(4) if (truth == k).any()]
    return (
        np.mean([roc_auc_score(truth == k, scores[:, k]) for k in classes]),
        np.mean([average_precision_score(truth == k, scores[:, k]) for k in classes]),
    )


@pytest.mark.parametrize(
    ("skill", "offset", "squeeze"),
    [
        pytest.param(1.5, (0, 0, 0, 0), 1.0, id="spread"),
        pytest.param(0.0, (0, 0, 0, 0), 1.0, id="chance"),
        pytest.param(1.5, (9, 0, 0, 0), 1.0, id="one class squeezed near 1, the others near 0"),
        pytest.param(1.5, (0, 9, 9, -3), 1.0, id="squeezed near a half and 0"),
        pytest.param(1.5, (0, 0, 0, 0), 0.1, id="squeezed near a quarter, as of a model that has just begun to learn"),
        pytest.param(1.5, (0, 0, 0, 0), 12.0, id="so sure that many scores are 0 or 1"),
    ],
)
def test_auroc_and_aupr_are_within_a_hundredth_of_the_exact_ones(skill, offset, squeeze):
    logits, truth = drawn(skill=skill, offset=offset, squeeze=squeeze)
    found, (auroc, aupr) = measured(logits, truth), curves(logits, truth)
    assert found["auroc"] == pytest.approx(auroc, abs=0.01)
    assert found["aupr"] == pytest.approx(aupr, abs=0.01)


@pytest.mark.parametrize("confidence", [5.0, 30.0, 200.0])
def test_a_perfect_classifier_reaches_one_however_sure_it_is(confidence):
    _, truth = drawn()
    found = measured(confidence * torch.eye(4)[truth], truth)
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-6)


def test_a_class_that_a_split_does_not_have_lowers_no_metric():
    _, truth = drawn(classes=(0, 1, 2))  # of four classes
    found = measured(10.0 * torch.eye(4)[truth], truth)
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-6)


def test_auroc_and_aupr_are_the_mean_over_the_classes_that_a_split_has():
    logits, truth = drawn(classes=(0, 1, 2))
    found, (auroc, aupr) = measured(logits, truth), curves(logits, truth)
    assert found["auroc"] == pytest.approx(auroc, abs=0.01)
    assert found["aupr"] == pytest.approx(aupr, abs=0.01)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_summed_cross_entropy(smoothing):
    logits, truth = drawn(size=50)
    present = torch.rand(50) > 0.4
    likelihood = log_softmax(logits.double().numpy(), axis=1)
    share = (1 - smoothing) * np.eye(4)[truth] + smoothing / 4
    expected = -(share * likelihood).sum(1)[present.numpy()].sum()
    loss = classification(smoothing).loss(logits, truth, present)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_the_head_is_linear_on_the_mean_token_of_the_real_channels():
    task = classification()
    tokens, real = torch.randn(2, 3, 5, 8), torch.tensor([[True, True, False], [True, False, False]])
    means = torch.stack([tokens[0, :2].mean((0, 1)), tokens[1, :1].mean((0, 1))])
    torch.testing.assert_close(task(tokens, real), means @ task.head.weight.T + task.head.bias)


def test_logits_for_another_number_of_classes_are_refused():
    from vibench.errors import ShapeError

    with pytest.raises(ShapeError, match=r"classification: prediction \(5, 3\) against target \(5,\) of 4 classes"):
        classification().loss(torch.randn(5, 3), torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.bool))


def test_the_target_is_the_number_of_the_class_and_absent_without_one(tiny):
    from vibench.data.store import Recording

    facts = dict(id="r", system="s", entity="e", source="f", rate_hz=1.0, start=0, length=9, anomaly=None, rul_s=None)
    target = Classification.target(tiny().task["classification"], 1024)
    assert target.of(Recording(**facts, label=2), np.zeros((1, 0)), 4) == 2
    assert target.of(Recording(**facts, label=0), np.zeros((1, 0)), 4) == 0
    assert target.of(Recording(**facts), np.zeros((1, 0)), 4) is None
