"""A sweep while it runs: a line for each change, a table in a terminal, and its end."""

import io
import json
import re
import threading
import time

import pytest
from rich.console import Console

from tests.launch.conftest import LOCAL
from vibench.launch.launch import SweepError, attend
from vibench.launch.slurm import add_job
from vibench.launch.sweep import Job, Sweep
from vibench.launch.verdict import Verdict
from vibench.launch.watch import SHOWN, counted, in_words, live_table, of_runs, watch

RUN = {"host": "node7", "pid": 17, "process_started": "4", "started": 1.0}


@pytest.fixture
def told(tmp_path):
    """A sweep whose runs say that they are in these states."""

    def call(*states):
        jobs = [Job(number=n, name=f"seed={n}", overrides=[], folder=str(n)) for n in range(len(states))]
        for job, state in zip(jobs, states, strict=True):
            (tmp_path / job.folder).mkdir()
            say(tmp_path / job.folder, state)
        return Sweep(folder=tmp_path, launcher=LOCAL, jobs=jobs)

    return call


def say(run_dir, state):
    (run_dir / "status.tmp").write_text(
        json.dumps(RUN | {"state": state, "kind": "NAN" if state == "failed" else None})
    )
    (run_dir / "status.tmp").replace(run_dir / "status.json")


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=80)


def said(console):
    return console.file.getvalue()


def test_every_change_is_a_line_however_long_and_nothing_is_said_twice(told, console):
    sweep = told("running", "completed")
    sweep.jobs[0].name = "data.only.fault=[bold] " * 10
    threading.Timer(0.3, say, (sweep.run_dir(sweep.jobs[0]), "failed")).start()
    found = watch(sweep, None, 0.05, console)
    assert {number: one.state for number, one in found.items()} == {0: "failed", 1: "completed"}
    lines = [
        re.sub(r"^\d\d:\d\d:\d\d ", "", line).replace(sweep.jobs[0].name, "NAME") for line in said(console).splitlines()
    ]
    assert lines == ["0 NAME: running", "1 seed=1: completed", "0 NAME: failed NAN"]


def test_who_watches_is_told_every_look(told, console):
    looks = []
    watch(told("completed"), None, 0.01, console, looks.append)
    assert [look[0].state for look in looks] == ["completed"]


def test_in_a_terminal_there_is_a_table_instead(told):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    sweep = told("running", "completed")
    threading.Timer(0.2, say, (sweep.run_dir(sweep.jobs[0]), "completed")).start()
    watch(sweep, None, 0.05, console)
    assert "1 running, 1 completed" in said(console)
    assert "2 completed" in said(console)
    assert "0 seed=0: running" not in said(console)


def test_a_sweep_that_is_completed_is_over(told, console, capsys):
    found = attend(told("completed", "completed"), None, console)
    assert [one.state for one in found.values()] == ["completed", "completed"]
    assert said(console).splitlines()[-1] == "2 completed"


@pytest.mark.parametrize("state", ["failed", "cancelled", "preempted", "pruned"])
def test_a_sweep_that_is_not_all_completed_has_failed_and_says_how_to_go_on(told, console, state, tmp_path):
    words = f"1 {state}, 1 completed; vibench-status {tmp_path} --rerun failed,lost goes on with them"
    with pytest.raises(SweepError, match=f"^{words}$") as end:
        attend(told("completed", state), None, console)
    assert end.value.started


# in words


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Verdict(state="planned", status={}), "3 seed=3: planned"),
        (Verdict(state="failed", kind="NAN", said="no number", status={}), "3 seed=3: failed NAN: no number"),
        (Verdict(state="running", number="12_3", where="v1", status={}), "3 seed=3: running (job 12_3 on v1)"),
        (Verdict(state="submitted", number="12", said="Priority", status={}), "3 seed=3: submitted (job 12): Priority"),
    ],
)
def test_a_job_in_a_line(one, words):
    assert in_words(Job(number=3, name="seed=3", overrides=[], folder="3"), one) == words


def test_states_are_counted_what_needs_somebody_first():
    states = ("completed", "running", "failed", "completed", "lost")
    found = {number: Verdict(state=state, status={}) for number, state in enumerate(states)}
    assert counted(found) == "1 failed, 1 lost, 1 running, 2 completed"
    assert counted({}) == ""


def printed(table):
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return said(console)


def test_a_table_shows_how_far_a_run_is(tmp_path, told):
    sweep = told("running", "completed")
    (tmp_path / "0" / "metrics.csv").write_text("epoch,step\n1,30\n1,40\n")
    found = {0: Verdict(state="running", number="12", where="v1", status={}), 1: Verdict(state="completed", status={})}
    text = printed(live_table(sweep, found))
    assert re.search(r"│ 0 +│ seed=0 +│ running +│ 12 v1 +│ 40 +│", text), text
    assert re.search(r"│ 1 +│ seed=1 +│ completed +│ +│ +│", text), text


def test_of_many_jobs_those_that_ended_well_are_left_out_first(tmp_path):
    jobs = [Job(number=n, name=f"seed={n}", overrides=[], folder=str(n)) for n in range(100)]
    found = {
        n: Verdict(state="failed" if n == 99 else "running" if n > 90 else "completed", status={}) for n in range(100)
    }
    text = printed(live_table(Sweep(folder=tmp_path, launcher=LOCAL, jobs=jobs), found))
    shown = [int(number) for number in re.findall(r"^│ (\d+)", text, re.M)]
    assert len(shown) == SHOWN
    assert set(range(91, 100)) <= set(shown) == set(shown[:-9]) | set(range(91, 100))
    assert shown == sorted(shown)
    assert f"{100 - SHOWN} more" in text
    assert "1 failed, 8 running, 91 completed" in text


def test_what_was_typed_is_no_markup_in_a_table(tmp_path):
    job = Job(number=0, name="data.only.fault=[bold]", overrides=[], folder="0")
    found = {0: Verdict(state="failed", said="[red]no[/red]", status={})}
    text = printed(live_table(Sweep(folder=tmp_path, launcher=LOCAL, jobs=[job]), found))
    assert "data.only.fault=[bold]" in text
    assert "[red]no[/red]" in text


# a run on its own


def of_run(run_dir):
    return of_runs([run_dir])[run_dir]


def test_a_run_that_slurm_never_had_is_not_asked_for(told):
    sweep = told("running")
    assert of_run(sweep.run_dir(sweep.jobs[0])).state == "running"


def test_a_run_of_slurm_is_what_slurm_says_of_it(told, slurm_says):
    sweep = told("preempted")
    run_dir = sweep.run_dir(sweep.jobs[0])
    add_job(run_dir, {"id": "12_0", "mem_mb": 1024, "why": ""})
    slurm_says(squeue="12_0|PENDING|BeginTime|\n")
    one = of_run(run_dir)
    assert (one.state, one.said, one.final) == ("preempted", "waits to go on (BeginTime)", False)
    slurm_says(sacct="12_0|CANCELLED by 0|0:0|None assigned\n")
    assert of_run(run_dir).state == "cancelled"


def test_a_run_is_taken_at_its_word_where_slurm_does_not_answer(told, slurm_says):
    sweep = told("failed")
    run_dir = sweep.run_dir(sweep.jobs[0])
    add_job(run_dir, {"id": "12_0", "mem_mb": 1024, "why": ""})
    slurm_says(squeue=None)
    assert of_run(run_dir).state == "failed"


def test_a_job_that_slurm_has_forgotten_was_submitted_all_the_same(told, slurm_says):
    """One that is cancelled in an array while it waits leaves no trace in SLURM."""
    sweep = told("submitted")
    run_dir = sweep.run_dir(sweep.jobs[0])
    (run_dir / "status.json").write_text(json.dumps(RUN | {"state": "submitted", "pid": None}))
    add_job(run_dir, {"id": "12_0", "mem_mb": 1024, "submitted": time.time() - 3600, "why": ""})
    slurm_says()
    one = of_run(run_dir)
    assert one.state != "planned"
    assert "never submitted" not in one.said
    assert one.final
