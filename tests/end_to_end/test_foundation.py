"""The foundation runs of the bug reports, made small: they learn every task, and say nothing about shapes."""

import csv
import warnings

import pytest

from vibench.run import run_experiment

FEWER = (  # machines, so that a run takes seconds
    "hardware=cpu",
    "data.bearings_per_class=3",
    "data.conditions=2",
    "data.lives=6",
    "data.snapshots_per_life=8",
    "training.warmup_steps=5",
    "training.epochs=4",
)


@pytest.mark.parametrize("backbone", ["dlinear", "timesnet", "patchtst", "fno"])
def test_the_loss_of_every_task_falls_and_nothing_is_warned_of(resolved, tmp_path, backbone):
    config = resolved(f"experiment=foundation/{backbone}_debug", *FEWER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status = run_experiment(config, tmp_path)
    assert status["state"] == "completed"
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for task in config.task:
        losses = [float(row[key]) for row in rows if row.get(key := f"train/{task}/epoch_loss")]
        assert len(losses) == 4
        assert losses[-1] < losses[0], (task, losses)
