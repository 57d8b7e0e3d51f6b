"""One state for each job, of what its run says in ``status.json`` and of what SLURM says of it.

What SLURM says was printed by it (``accounts.py``).
"""

import json
import os
import re
import socket

import pytest

from tests.launch.accounts import AGAIN, ENDED, GOES_ON
from vibench.launch.place import Seen
from vibench.launch.slurm import read_accounting
from vibench.launch.sweep import Job, Sweep
from vibench.launch.verdict import FINAL, verdict
from vibench.launch.watch import ORDER
from vibench.report.status import _process_start, promise

WAITS = Seen(phase="waiting", state="PENDING", told="Priority", number="12")
RUNS = Seen(phase="running", state="RUNNING", told="None", number="12", where="v1")
DYING = Seen(phase="running", state="COMPLETING", told="None", number="12", where="v1")


def accounted(name):
    return read_accounting(ENDED[name], {"12"})["12"]


def again(text):
    return read_accounting(text, {"12"})["12"]


@pytest.fixture
def say(tmp_path):
    """What the run of the one job of a sweep says of itself -> its verdict, beside what its place has seen."""
    job = Job(number=0, name="seed=0", overrides=[], folder="0")
    sweep = Sweep(folder=tmp_path, launcher={"name": "slurm"}, jobs=[job])
    here = {"host": "node7", "pid": 17, "process_started": "4"}

    def call(status, seen):
        run_dir = sweep.run_dir(job)
        run_dir.mkdir(exist_ok=True)
        if status is not None:
            (run_dir / "status.json").write_text(json.dumps(here | status) if isinstance(status, dict) else status)
        return verdict(sweep, job, seen)

    call.sweep, call.job = sweep, job
    return call


def told(one):
    return one.state, one.kind, one.final


STARTED = {"started": 1.0}
SUBMITTED = {"state": "submitted", "pid": None}
RUNNING = {"state": "running"} | STARTED
COMPLETED = {"state": "completed"} | STARTED
FAILED = {"state": "failed", "kind": "NAN", "error": "the loss is not finite\nat step 3"} | STARTED
CANCELLED = {"state": "cancelled", "error": "cancelled by scancel"} | STARTED
PREEMPTED = {"state": "preempted", "error": "SLURM runs it again"} | STARTED
PRUNED = {"state": "pruned", "kind": None, "error": "no better than others by step 8"} | STARTED
UNREADABLE = '{"state": "comple'
SILENT = {"nothing": None, "submitted": SUBMITTED, "running": RUNNING, "unreadable": UNREADABLE}

# a job that has ended: what the run says has the word; where it could say nothing, SLURM has


@pytest.mark.parametrize("slurm", ENDED)
def test_what_is_proven_is_completed_however_its_job_ended(say, slurm):
    one = say(COMPLETED, accounted(slurm))
    assert told(one) == ("completed", "", True)
    state = slurm.split(" ")[0]
    assert one.said == ("" if slurm == "COMPLETED" else f"proven, its job then ended as {state}")


@pytest.mark.parametrize("slurm", ENDED)
@pytest.mark.parametrize(("status", "state", "kind"), [(FAILED, "failed", "NAN"), (PRUNED, "pruned", "")])
def test_a_run_that_said_why_it_ended_is_believed(say, slurm, status, state, kind):
    one = say(status, accounted(slurm))
    assert told(one) == (state, kind, True)
    assert one.said == status["error"].split("\n")[0]


@pytest.mark.parametrize("status", SILENT)
@pytest.mark.parametrize(
    ("slurm", "state", "kind", "said"),
    [
        ("COMPLETED", "lost", "", r"the job ended as COMPLETED \(without a word\) and the run said nothing"),
        ("FAILED", "lost", "", r"the job ended as FAILED \(exit status 1:0\) and the run said nothing"),
        ("OUT_OF_MEMORY of the job", "failed", "MEMORY", "killed by the kernel"),
        ("OUT_OF_MEMORY of a step", "failed", "MEMORY", "killed by the kernel"),
        ("TIMEOUT", "failed", "TIMEOUT", "its time was over"),
        ("DEADLINE", "failed", "TIMEOUT", "its deadline came"),
        ("CANCELLED", "cancelled", "", "cancelled by scancel"),
        ("CANCELLED while it waited", "cancelled", "", "cancelled by scancel"),
        ("PREEMPTED", "preempted", "", "preempted, and not run again"),
        ("NODE_FAIL", "lost", "NODE", "its machine went down"),
    ],
)
def test_of_a_run_that_could_say_nothing_slurm_has_the_word_and_silence_is_never_complete(
    say, slurm, status, state, kind, said
):
    one = say(SILENT[status], accounted(slurm))
    assert told(one) == (state, kind, True)
    assert re.match(said, one.said), one.said


@pytest.mark.parametrize(
    ("status", "slurm", "expected"),
    [
        (CANCELLED, "CANCELLED", ("cancelled", "")),
        (CANCELLED, "FAILED", ("cancelled", "")),  # srun says so of a run that ended by a signal
        (CANCELLED, "TIMEOUT", ("failed", "TIMEOUT")),
        (CANCELLED, "NODE_FAIL", ("lost", "NODE")),
        (PREEMPTED, "PREEMPTED", ("preempted", "")),
        (PREEMPTED, "FAILED", ("preempted", "")),
        (PREEMPTED, "CANCELLED", ("cancelled", "")),  # while it waited to go on
        (PREEMPTED, "TIMEOUT", ("failed", "TIMEOUT")),
        (PREEMPTED, "OUT_OF_MEMORY of a step", ("failed", "MEMORY")),
    ],
)
def test_a_run_that_was_told_to_end_is_what_slurm_says_that_it_was(say, status, slurm, expected):
    assert told(say(status, accounted(slurm))) == (*expected, True)


def test_a_node_that_does_not_come_up_is_a_node_that_failed(say):
    seen = Seen(phase="ended", state="BOOT_FAIL", number="12")
    assert told(say(SUBMITTED, seen)) == ("lost", "NODE", True)


@pytest.mark.parametrize(
    ("status", "before", "expected"),
    [
        (COMPLETED, "PREEMPTED", ("completed", "")),
        (COMPLETED, "NODE_FAIL", ("completed", "")),
        (RUNNING, "PREEMPTED", ("lost", "")),  # SLURM's COMPLETED is no proof
        (PREEMPTED, "NODE_FAIL", ("preempted", "")),
        (RUNNING, "TIMEOUT", ("failed", "TIMEOUT")),
        (FAILED, "TIMEOUT", ("failed", "NAN")),
    ],
)
def test_of_a_job_that_was_begun_again_the_last_attempt_counts(say, status, before, expected):
    assert told(say(status, again(AGAIN[before]))) == (*expected, True)


# a job that has not ended: nothing that a run said of an attempt before is its last word


@pytest.mark.parametrize("status", [None, SUBMITTED, RUNNING, COMPLETED, FAILED, CANCELLED, PREEMPTED, UNREADABLE])
@pytest.mark.parametrize("seen", [RUNS, DYING])
def test_what_runs_is_running_and_nothing_is_final(say, status, seen):
    one = say(status, seen)
    assert told(one) == ("running", "", False)
    assert one.said == ("" if seen is RUNS else "completing")
    assert (one.number, one.where) == ("12", "v1")


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [
        (None, "submitted", "Priority"),
        (SUBMITTED, "submitted", "Priority"),
        (SUBMITTED | {"attempts": [{"state": "failed"}]}, "submitted", "waits to go on (Priority)"),
        (RUNNING, "submitted", "waits to go on (Priority)"),  # its machine went down, SLURM begins it again
        (CANCELLED, "submitted", "waits to go on (Priority)"),
        (PREEMPTED, "preempted", "waits to go on (Priority)"),
    ],
)
def test_what_waits_is_submitted_or_waits_to_go_on(say, status, state, said):
    one = say(status, WAITS)
    assert told(one) == (state, "", False)
    assert one.said == said


def test_a_run_that_said_it_was_preempted_runs_once_it_is_begun_again(say):
    assert told(say(PREEMPTED, again(GOES_ON))) == ("running", "", False)


def test_a_job_that_slurm_has_no_reason_for_says_none(say):
    assert say(None, Seen(phase="waiting", state="PENDING", told="None", number="12")).said == ""


# a job that its place does not know


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, ("planned", "", True)),
        (SUBMITTED, ("planned", "", True)),
        (RUNNING, ("running", "", False)),  # of another machine: it is taken at its word
        (COMPLETED, ("completed", "", True)),
        (FAILED, ("failed", "NAN", True)),
        (CANCELLED, ("cancelled", "", True)),
        (PREEMPTED, ("preempted", "", True)),
        (PRUNED, ("pruned", "", True)),
        (UNREADABLE, ("unknown", "", True)),
    ],
)
def test_a_job_that_nobody_knows_is_what_its_run_says(say, status, expected):
    one = say(status, None)
    assert told(one) == expected
    assert (one.number, one.where) == ("", "")


def test_a_job_that_waits_for_its_turn_here_is_submitted_while_that_process_lives(say):
    alive = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": _process_start(os.getpid())}
    assert told(say({"state": "submitted"} | alive, None)) == ("submitted", "", False)
    one = say({"state": "submitted"} | alive | {"process_started": "1"}, None)
    assert told(one) == ("planned", "", True)
    assert one.said == "its sweep ended before it was begun"


def test_a_process_that_is_gone_without_a_word_is_lost(say):
    gone = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": "1"}
    for seen in (None, Seen(phase="ended", told="killed by SIGKILL")):
        one = say(RUNNING | gone, seen)
        assert told(one) == ("lost", "", True)
        assert ("killed by SIGKILL" in one.said) == (seen is not None)


def test_what_was_refused_is_refused_whatever_lies_in_its_directory(say):
    say.job.refused = ["d_model=65 is not divisible", "and more"]
    one = say(COMPLETED, None)
    assert (*told(one), one.said) == ("refused", "", True, "d_model=65 is not divisible")


def test_a_run_that_is_submitted_again_is_not_what_it_was_before(say):
    assert say(FAILED, None).state == "failed"
    promise(say.sweep.run_dir(say.job), {}, alive=None)
    one = say(None, WAITS)
    assert told(one) == ("submitted", "", False)
    assert one.status["attempts"] == [
        {"state": "failed", "kind": "NAN", "error": FAILED["error"], "started": 1.0, "host": "node7"}
    ]


def test_every_state_has_its_place_in_a_table():
    assert set(FINAL) <= set(ORDER)
    assert {"planned", "submitted", "running", "preempted", "unknown"} | set(FINAL) == set(ORDER)
