"""This machine as a place for jobs: a process for each, as many at once as there is room for.

Processes are ended before they have loaded torch: what they train is seen in ``test_sweeps.py``.
"""

import os
import signal
import time
from pathlib import Path

import pytest

from vibench.launch.here import _cards
from vibench.launch.launch import stopped_here
from vibench.launch.preflight import freeze_all
from vibench.launch.watch import verdicts
from vibench.report.status import read_status

CARDS = "CUDA_VISIBLE_DEVICES"


@pytest.fixture
def cards(monkeypatch):
    """A machine with these cards."""

    def call(names):
        monkeypatch.setenv(CARDS, names)
        _cards.cache_clear()

    return call


@pytest.fixture
def submitted(jobs, sweep, here):
    """Submit jobs to this machine, without a check or a plan: the place, the sweep, and its jobs."""

    def call(*lines, at_once=None):
        checked = jobs(*lines)
        made, place = sweep(checked), here(at_once)
        freeze_all(made, checked)
        place.submit(made, [one.request() for one in checked])
        return place, made

    return call


def phases(place, sweep):
    seen = place.look(sweep, sweep.jobs)
    return [seen[job.number].phase for job in sweep.jobs]


def pid_of(place, sweep, number):
    return int(place.look(sweep, sweep.jobs)[number].number)


def end(place, sweep, number):
    """End the process of a job, as a person may."""
    pid = pid_of(place, sweep, number)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: place.look(sweep, sweep.jobs)[number].phase == "ended")


def wait_for(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def card_of(place, sweep, number):
    """The cards that the process of a job sees, and those that the table shows."""
    seen = place.look(sweep, sweep.jobs)[number]

    def environment():
        text = Path(f"/proc/{seen.number}/environ").read_text()
        return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)

    wait_for(lambda: CARDS in environment())  # a process has it from its exec on
    told = environment()
    assert seen.where == f"card {told[CARDS]}"
    return told[CARDS]


# as many at once as there is room for


@pytest.mark.usefixtures("no_cards")
def test_without_a_card_one_job_runs_at_a_time(submitted):
    place, sweep = submitted("seed=0", "seed=1")
    assert phases(place, sweep) == ["running", "waiting"]
    end(place, sweep, 0)
    assert phases(place, sweep) == ["ended", "running"]


@pytest.mark.usefixtures("no_cards")
def test_as_many_jobs_run_at_once_as_were_asked_for(submitted):
    place, sweep = submitted("seed=0", "seed=1", "seed=2", at_once=2)
    assert phases(place, sweep) == ["running", "running", "waiting"]
    end(place, sweep, 1)
    assert phases(place, sweep) == ["running", "ended", "running"]
    assert pid_of(place, sweep, 0) != pid_of(place, sweep, 2)


def test_each_job_has_a_card_of_its_own_and_gives_it_back(submitted, cards):
    cards("3,5")
    place, sweep = submitted(*(f"hardware=rtx3090 seed={n}" for n in range(3)))
    assert phases(place, sweep) == ["running", "running", "waiting"]
    assert [card_of(place, sweep, number) for number in (0, 1)] == ["3", "5"]
    end(place, sweep, 1)
    assert phases(place, sweep) == ["running", "ended", "running"]
    assert card_of(place, sweep, 2) == "5"


def test_a_job_for_two_cards_waits_for_both_and_is_not_overtaken(submitted, cards):
    cards("GPU-a,GPU-b")
    place, sweep = submitted("hardware=rtx3090", "hardware=rtx3090 hardware.gpus=2", "hardware=rtx3090 seed=1")
    assert phases(place, sweep) == ["running", "waiting", "waiting"]
    end(place, sweep, 0)
    assert phases(place, sweep) == ["ended", "running", "waiting"]
    assert card_of(place, sweep, 1) == "GPU-a,GPU-b"
    end(place, sweep, 1)
    assert card_of(place, sweep, 2) == "GPU-a"


def test_fewer_jobs_than_cards_run_at_once_where_it_was_asked_for(submitted, cards):
    cards("0,1,2")
    place, sweep = submitted(*(f"hardware=rtx3090 seed={n}" for n in range(3)), at_once=2)
    assert phases(place, sweep) == ["running", "running", "waiting"]


def test_a_job_for_the_cpu_takes_no_card(submitted, cards):
    cards("3,5")
    place, sweep = submitted("hardware=cpu")
    assert place.look(sweep, sweep.jobs)[0].where == ""


# a process of its own


@pytest.mark.usefixtures("no_cards")
def test_a_job_is_out_of_reach_of_the_terminal(submitted):
    """Ctrl-C reaches who has begun it, which tells its jobs."""
    place, sweep = submitted("seed=0")
    assert os.getsid(pid_of(place, sweep, 0)) != os.getsid(0)


@pytest.mark.usefixtures("no_cards")
def test_a_job_that_is_killed_is_lost_and_the_next_one_is_begun(submitted):
    place, sweep = submitted("seed=0", "seed=1")
    end(place, sweep, 0)
    one, other = verdicts(sweep, place).values()
    assert (one.state, one.final, other.state, other.final) == ("lost", True, "running", False)
    assert one.said == "the job ended as a process (killed by SIGKILL) and the run said nothing"


@pytest.mark.usefixtures("no_cards")
def test_a_job_that_cannot_begin_says_why_in_its_verdict_and_in_its_output(jobs, sweep, here):
    checked = jobs("seed=0")
    made, place = sweep(checked), here()
    freeze_all(made, checked)
    (made.run_dir(made.jobs[0]) / "config.yaml").write_text("backbone: [")
    place.submit(made, [one.request() for one in checked])
    wait_for(lambda: verdicts(made, place)[0].final)
    one = verdicts(made, place)[0]
    assert (one.state, one.kind) == ("failed", "CONFIG")
    assert "config.yaml cannot be read" in one.said
    assert "config.yaml cannot be read" in (made.run_dir(made.jobs[0]) / "output.log").read_text()
    assert place.look(made, made.jobs)[0].told == "exit status 1"


@pytest.mark.usefixtures("no_cards")
def test_files_that_lie_about_are_not_taken_for_pythons(submitted, monkeypatch, tmp_path):
    """A job runs in the folder that its user is in, where there may be a ``random.py``."""
    (tmp_path / "desk").mkdir()
    for name in ("random", "signal", "yaml", "json"):
        (tmp_path / "desk" / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path / "desk")
    place, sweep = submitted("seed=0 data.label=nothing training.epochs=1")
    output = sweep.run_dir(sweep.jobs[0]) / "vibench-train.log"
    wait_for(lambda: output.exists() or phases(place, sweep) == ["ended"])
    assert "shadowed" not in (sweep.run_dir(sweep.jobs[0]) / "output.log").read_text()
    assert output.exists()


# what waits


@pytest.mark.usefixtures("no_cards")
def test_a_job_that_waits_for_its_turn_is_submitted(submitted):
    place, sweep = submitted("seed=0", "seed=1")
    one = verdicts(sweep, place)[1]
    assert (one.state, one.said, one.final) == ("submitted", "waits for its turn", False)
    assert verdicts(sweep, None)[1].state == "submitted"  # who has not begun it sees so, too


@pytest.mark.usefixtures("no_cards")
def test_what_is_cancelled_ends_or_never_begins(submitted):
    place, sweep = submitted("seed=0", "seed=1", "seed=2")
    pid = pid_of(place, sweep, 0)
    place.cancel(sweep, sweep.jobs[:2])
    assert not Path(f"/proc/{pid}").exists()
    seen = place.look(sweep, sweep.jobs)
    assert (seen[0].phase, seen[2].phase, 1 in seen) == ("ended", "running", False)


@pytest.mark.usefixtures("no_cards")
def test_a_sweep_that_is_stopped_leaves_what_waited_as_planned(submitted):
    place, sweep = submitted("seed=0", "seed=1")
    assert stopped_here(sweep, place)
    assert read_status(sweep.run_dir(sweep.jobs[1]))["state"] == "planned"
    one = verdicts(sweep, place)[1]
    assert (one.state, one.said, one.final) == ("planned", "the sweep was stopped before it began", True)


@pytest.mark.usefixtures("no_cards")
def test_more_machines_than_this_one_are_refused(jobs, here):
    one, other = jobs("hardware.nodes=2", "seed=0")
    assert here().refusals([one.request(), other.request()]) == {
        0: "hardware.nodes=2 needs more machines than this one; use hydra/launcher=slurm, or hardware.nodes=1"
    }
