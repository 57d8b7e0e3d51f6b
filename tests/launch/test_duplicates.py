"""A config that another run is at, or has completed: its result is taken, it is refused, or it is run again."""

import json
import os
import re
import socket

import pytest

from tests.launch.conftest import LOCAL
from vibench.config.plain import plain
from vibench.launch.launch import launch, submit
from vibench.launch.preflight import RefusedError
from vibench.launch.sweep import Sweep
from vibench.launch.watch import verdicts
from vibench.report.known_runs import hash_of, remember
from vibench.report.status import _process_start

pytestmark = pytest.mark.usefixtures("own_cache", "no_cards")


@pytest.fixture
def known(jobs, tmp_path):
    """A run of that line is in the state, as one would say so; its directory."""

    def call(line, state, name="other", **told):
        (one,) = jobs(line)
        alive = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": _process_start(os.getpid())}
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(json.dumps(alive | {"state": state, "started": 1.0} | told))
        remember(hash_of(plain(one.config)), tmp_path / name)
        return tmp_path / name

    return call


@pytest.fixture
def submitted(jobs, sweep, here):
    """Submit jobs to this machine: place, sweep."""

    def call(*lines, name="sweep", on_duplicate="skip"):
        checked, place = jobs(*lines), here()
        made = sweep(checked, name)
        submit(made, checked, place, skip_refused=False, on_duplicate=on_duplicate)
        return place, made

    return call


def new(folder, **launcher):
    """As a command line begins it."""
    return Sweep(folder=folder, launcher=LOCAL | launcher, jobs=[])


def begun(place, sweep):
    """Numbers of the jobs that run or wait there."""
    return sorted(place.look(sweep, sweep.jobs))


# skip


@pytest.mark.parametrize("state", ["completed", "running", "submitted"])
def test_the_run_that_is_at_it_or_has_completed_it_stands_for_the_job(known, submitted, state, capsys):
    other = known("seed=1", state, seconds=3.0)
    place, sweep = submitted("seed=0", "seed=1")
    assert begun(place, sweep) == [0]
    assert not sweep.run_dir(sweep.jobs[1]).exists()
    one = verdicts(Sweep.read(sweep.folder), place)[1]
    assert (one.state, one.said, one.status["seconds"]) == (state, f"the result of {other}", 3.0)
    assert re.search(rf"│ 1 +│ seed=1 +│ cpu +│ same +│ the result of {other}", capsys.readouterr().out)


@pytest.mark.parametrize("state", ["failed", "cancelled", "preempted", "planned", "pruned"])
def test_a_run_without_a_result_stands_for_nothing(known, submitted, state):
    known("seed=1", state)
    assert begun(*submitted("seed=1")) == [0]


def test_a_run_whose_process_is_gone_stands_for_nothing(known, submitted):
    known("seed=1", "running", process_started="1")
    assert begun(*submitted("seed=1")) == [0]


def test_a_run_whose_directory_was_deleted_stands_for_nothing(known, submitted):
    other = known("seed=1", "completed")
    other.rename(other.with_name("elsewhere"))
    assert begun(*submitted("seed=1")) == [0]


def test_a_run_of_another_config_stands_for_nothing(known, submitted):
    known("seed=1", "completed")
    assert begun(*submitted("seed=1 training.lr=0.5")) == [0]


def test_of_jobs_that_are_alike_the_first_is_run_for_all(submitted):
    place, sweep = submitted("seed=0", "seed=1", "seed=0")
    assert begun(place, sweep) == [0, 1]
    assert sweep.jobs[2].same_as == str(sweep.run_dir(sweep.jobs[0]))
    assert verdicts(sweep, place)[2].state in ("submitted", "running")


def test_a_sweep_of_what_is_completed_already_is_completed_at_once(known, jobs, tmp_path, capsys):
    known("seed=1", "completed")
    (found,) = launch(new(tmp_path / "sweep", on_duplicate="skip"), jobs("seed=1")).values()
    assert (found.state, found.final) == ("completed", True)
    assert "1 completed" in capsys.readouterr().out


def test_a_job_is_as_good_as_the_run_that_stands_for_it(known, jobs, sweep):
    (one,) = checked = jobs("seed=1")
    one.job.same_as = str(known("seed=1", "failed", kind="NAN", error="no number"))
    found = verdicts(sweep(checked), None)[0]
    assert (found.state, found.kind, found.final) == ("failed", "NAN", True)


def test_a_second_sweep_does_not_begin_what_the_first_has_not_yet_come_to(submitted):
    first, one = submitted("seed=0", "seed=1")
    second, other = submitted("seed=1", name="second")
    assert begun(first, one) == [0, 1]
    assert begun(second, other) == []
    assert other.jobs[0].same_as == str(one.run_dir(one.jobs[1]))


# error, allow


def test_it_may_be_an_error_which_names_the_run(known, submitted, tmp_path, capsys):
    other = known("seed=1", "completed")
    with pytest.raises(RefusedError, match="1 of 2 jobs are refused, nothing was started"):
        submitted("seed=0", "seed=1", on_duplicate="error")
    said = capsys.readouterr().out
    assert f"1: {other} is a run of the same config; change it, or use hydra.launcher.on_duplicate=skip" in said
    sweep = Sweep.read(tmp_path / "sweep")
    assert [verdict.state for verdict in verdicts(sweep, None).values()] == ["planned", "refused"]


def test_jobs_that_are_alike_are_an_error_too(submitted):
    with pytest.raises(RefusedError, match="1 of 2 jobs are refused"):
        submitted("seed=1", "seed=1", on_duplicate="error")


def test_it_may_be_allowed(known, submitted):
    known("seed=1", "completed")
    assert begun(*submitted("seed=1", "seed=1", on_duplicate="allow")) == [0, 1]


# the same sweep again


def test_a_run_is_no_duplicate_of_itself(submitted, jobs, here, sweep):
    """The same line in the same directory goes on."""
    checked = jobs("seed=1")
    made = sweep(checked)
    run_dir = made.run_dir(made.jobs[0])
    run_dir.mkdir()
    remember(checked[0].job.config_hash, run_dir)
    place = here()
    submit(made, checked, place, skip_refused=False, on_duplicate="skip")
    assert begun(place, made) == [0]


def test_what_is_completed_is_not_begun_again_by_the_same_line(jobs, sweep, known, tmp_path):
    made = sweep(jobs("seed=0", "seed=1"))
    for number in (0, 1):
        known(f"seed={number}", "completed", name=f"sweep/{number}")
    before = {path: path.read_text() for path in made.folder.glob("*/status.json")}
    found = launch(new(made.folder), jobs("seed=0", "seed=1"))
    assert [one.state for one in found.values()] == ["completed", "completed"]
    assert {path: path.read_text() for path in made.folder.glob("*/status.json")} == before
