"""A search by Optuna, whose trials are jobs of SLURM."""

from collections.abc import Callable

import pytest

from tests.faults.runs import status_of
from tests.slurm.commands import sacct
from tests.slurm.sweeps import DROPS, Watched, of, on

Begin = Callable[..., Watched]
TRIALS = 3


def searched(begin: Begin) -> Watched:
    """Three trials, of which one is refused if it draws the width that no card holds."""
    pytest.importorskip("optuna")
    sweep = begin(
        *DROPS,
        *on("a100"),
        "hydra/sweeper=optuna",
        f"hydra.sweeper.trials={TRIALS}",
        "hydra.sweeper.at_once=3",
        "training.lr=tag(log,interval(1e-4,1e-2))",
    )
    sweep.ends()
    return sweep


@of(searched)
def test_a_search_completes_its_study_by_jobs_of_slurm(outcome: Watched):
    import optuna

    assert outcome.ends() == 0, outcome.printed()
    study = optuna.load_study(study_name="vibench", storage=f"sqlite:///{outcome.folder}/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * TRIALS
    assert len({trial.params["training.lr"] for trial in study.trials}) == TRIALS
    for number in range(TRIALS):
        assert status_of(outcome.run_dir(number))["state"] == "completed"
        (said,) = sacct(outcome.jobs(number)[-1], ("State", "Partition"))
        assert said == {"State": "COMPLETED", "Partition": "a100"}
    assert f"best: trial {study.best_trial.number} of {TRIALS}" in outcome.printed()
