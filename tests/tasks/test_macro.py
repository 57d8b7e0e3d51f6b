"""Means over the classes a split holds, against scikit-learn told which those are."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from vibench.tasks.macro import MacroF1, MacroPrecision, MacroRecall

SCORES = [(MacroF1, f1_score), (MacroPrecision, precision_score), (MacroRecall, recall_score)]


@pytest.mark.parametrize(("ours", "theirs"), SCORES)
def test_a_class_without_labels_does_not_count_also_where_it_is_called(ours, theirs):
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 4, 200)  # none of class 0
    called = np.where(rng.uniform(size=200) < 0.7, truth, rng.integers(0, 4, 200))
    assert (called == 0).any()
    metric = ours(4)
    for part in np.array_split(np.arange(200), 7):
        metric.update(torch.tensor(called[part]), torch.tensor(truth[part]))
    assert float(metric.compute()) == pytest.approx(theirs(truth, called, labels=[1, 2, 3], average="macro"))


@pytest.mark.parametrize("ours", [ours for ours, _ in SCORES])
def test_a_perfect_model_reads_1_on_a_test_without_one_class(ours):
    metric = ours(4)
    metric.update(torch.tensor([1, 2, 3, 1]), torch.tensor([1, 2, 3, 1]))
    assert metric.compute() == 1
