"""A search as its user types it: what is refused, and that a study goes on."""

import re

import pytest

from tests.launch.conftest import QUICK

optuna = pytest.importorskip("optuna", reason="the extra vibench[search] is not installed")
SEARCH = ("-m", "hydra/sweeper=optuna", *QUICK, "hydra.sweep.dir=sweep")
LR = "training.lr=tag(log,interval(1e-4,1e-2))"


@pytest.fixture
def refused(command, cache, tmp_path):
    def call(*arguments):
        done = command("train", *SEARCH, *arguments, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 2, done.stderr
        assert list(tmp_path.glob("sweep/*/")) == []
        (line,) = done.stderr.splitlines()
        return line

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("seed=1", r"hydra/sweeper=optuna has nothing to search; give e\.g\. training\.lr=tag"),
        (f"{LR} hydra.sweeper.trials=0", r"hydra\.sweeper\.trials=0 is out of range: .*at least 1"),
        (f"{LR} hydra.sweeper.sampler=grid", r"hydra\.sweeper\.sampler: .*grid"),
        (
            f"{LR} hydra.sweeper.metric=accuracy",
            r"hydra\.sweeper\.metric=accuracy is produced by no enabled task; use one of",
        ),
        (f"{LR} training.monitor=null", r"hydra\.sweeper\.metric=None is produced by no enabled task; use one of loss"),
        (f"{LR} d_model=interval(16,64)", r"d_model=16\.0 has the wrong type: .*; give a whole number"),
        ("training.lr=interval(1.0,0.1)", r"training\.lr=interval\(1\.0,0\.1\) is no interval; give two numbers"),
        (
            f"{LR} hydra/launcher=slurm hydra.launcher.detach=true",
            r"hydra\.launcher\.detach=true has no meaning in a search",
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_one_line(refused, arguments, words):
    line = refused(*arguments.split())
    assert re.match(f"vibench-train: ({words})", line), line
