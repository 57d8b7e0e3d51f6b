"""A run is complete only with proof: whatever is missing is named."""

from dataclasses import replace

import pytest

from vibench.errors import UnprovenError
from vibench.report.proof import Evidence, prove, unproven

WHOLE = Evidence(
    promised_steps=10,
    steps=10,
    skipped_steps=0,
    early_stop=None,
    promised_metrics={"rul_prediction": ["mse", "mae"]},
    results={"rul_prediction": {"metrics": {"mse": 0.1, "mae": 0.2}, "samples": 7, "entities": 2, "loss": 0.1}},
    labelled={"rul_prediction": 7},
    labels_seen={"rul_prediction": 20},
    certificate={"clean": True, "waived": False},
)


def result(**changes):
    return {"rul_prediction": WHOLE.results["rul_prediction"] | changes}


def test_a_run_with_everything_is_proven():
    assert unproven(WHOLE) == []
    prove(WHOLE)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"steps": 9}, "9 of 10 promised steps were done"),
        ({"steps": 11}, "11 of 10 promised steps were done"),
        ({"steps": 0, "early_stop": "val/loss"}, "0 of 10 promised steps were done"),
        ({"skipped_steps": 10}, "none of the 10 steps changed a weight"),
        ({"labels_seen": {"rul_prediction": 0}}, "rul_prediction was trained on no label"),
        ({"results": result(entities=0)}, "rul_prediction was evaluated on no entity"),
        ({"results": result(loss=float("nan"))}, "rul_prediction/loss is nan"),
        ({"results": {}}, "rul_prediction was not evaluated"),
        ({"results": result(samples=0)}, "rul_prediction was evaluated on no sample"),
        ({"results": result(samples=6)}, "rul_prediction was evaluated on 6 of 7 windows"),
        ({"results": result(metrics={"mse": 0.1})}, "rul_prediction/mae is missing"),
        ({"results": result(metrics={"mse": 0.1, "mae": float("nan")})}, "rul_prediction/mae is nan"),
        ({"results": result(metrics={"mse": float("inf"), "mae": 0.1})}, "rul_prediction/mse is inf"),
        ({"certificate": {"clean": False, "waived": False}}, "the splits share data"),
    ],
)
def test_what_is_missing_is_named(changes, missing):
    with pytest.raises(UnprovenError, match="the run ended, but its result is not proven") as refused:
        prove(replace(WHOLE, **changes))
    assert missing in str(refused.value)


def test_a_named_early_stop_excuses_missing_steps_and_nothing_else():
    assert unproven(replace(WHOLE, steps=4, early_stop="val/loss no better for 3 validations")) == []
    assert unproven(replace(WHOLE, steps=4, early_stop="val/loss", results={})) == ["rul_prediction was not evaluated"]


def test_a_waived_leak_is_proven_since_the_result_says_so():
    assert unproven(replace(WHOLE, certificate={"clean": False, "waived": True})) == []


def test_everything_that_is_missing_is_named_at_once():
    assert len(unproven(replace(WHOLE, steps=1, results={}, certificate={"clean": False, "waived": False}))) == 3
