"""The metric that is watched, against histories written out."""

import math

import pytest

from vibench.training.watch import Watch


def unseen():
    return {"value": None, "waited": 0, "early_stop": None}


def watched(values, mode="min", patience=None, begin=1, best=None, first=1):
    """What is said after each of successive epochs, and what is known in the end."""
    best = unseen() if best is None else best
    watch = Watch("val/loss", mode, patience, begin, best)
    said = [watch.judge({"val/loss": value, "val/other": -value}, epoch) for epoch, value in enumerate(values, first)]
    return said, best


@pytest.mark.parametrize(
    ("mode", "better", "most"),
    [("min", [True, False, True, False, False], 0.3), ("max", [True, True, False, False, True], 0.9)],
)
def test_a_value_is_the_best_where_it_is_better_than_all_before(mode, better, most):
    said, best = watched([0.5, 0.7, 0.3, 0.6, 0.9], mode)
    assert said == better
    assert best["value"] == most


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_equal_value_is_not_better(mode):
    assert watched([0.5, 0.5], mode)[0] == [True, False]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_first_value_of_zero_is_the_best_and_is_remembered(mode):
    worse = 1.0 if mode == "min" else -1.0
    said, best = watched([0.0, worse], mode)
    assert said == [True, False]
    assert best["value"] == 0.0


def test_the_validations_without_a_better_one_are_counted_anew_after_each_better_one():
    waited, best = [], unseen()
    for epoch, value in enumerate([5, 6, 7, 4, 4, 3], 1):
        watched([value], best=best, first=epoch)
        waited.append(best["waited"])
    assert waited == [0, 1, 2, 0, 1, 0]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_is_time_to_stop_after_that_many_validations_without_a_better_one(patience):
    _, before = watched([5.0, *[6.0] * (patience - 1)], patience=patience)
    assert before["early_stop"] is None
    _, best = watched([6.0], patience=patience, best=before, first=patience + 1)
    assert best["early_stop"] == f"val/loss no better for {patience} validations"
    assert best["value"] == 5.0


def test_without_patience_it_is_never_time_to_stop():
    _, best = watched([5.0] + [6.0] * 100)
    assert (best["early_stop"], best["waited"]) == (None, 100)


def test_before_the_last_task_has_begun_nothing_counts():
    said, best = watched([1.0, 1.0, 5.0, 4.0], begin=3, patience=1)
    assert said == [False, False, True, True]
    assert best == {"value": 4.0, "waited": 0, "early_stop": None}


def test_before_the_last_task_has_begun_its_value_need_not_be_there():
    watch = Watch("val/late/loss", "min", 1, 2, unseen())
    assert watch.judge({}, 1) is False
    with pytest.raises(KeyError, match="val/late/loss"):
        watch.judge({}, 2)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_the_best_and_not_remembered(mode, value):
    said, best = watched([value, 0.5, value, 0.5], mode, patience=2)
    assert said == [False, True, False, False]
    assert best == {"value": 0.5, "waited": 1, "early_stop": None}


def test_another_process_goes_on_with_what_is_known():
    values = [5.0, 6.0, 4.0, 4.5, 4.2, 3.0]
    together, whole = watched(values, patience=3)
    first, best = watched(values[:4], patience=3)
    second, parts = watched(values[4:], patience=3, best=dict(best), first=5)
    assert first + second == together
    assert parts == whole
