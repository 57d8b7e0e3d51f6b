"""What a job of SLURM makes of a signal, of its memory, and of what it has; SLURM's words are printed by its commands.

On a real SLURM: ``tests/slurm``.
"""

import signal
import time

import pytest

from tests.launch.test_queue import SLURM, asked
from vibench.config.frozen import freeze
from vibench.config.plain import plain
from vibench.launch.attempt import after_signal
from vibench.launch.cluster import Cluster
from vibench.launch.launch import launch
from vibench.launch.preflight import freeze_all
from vibench.launch.slurm import jobs_of
from vibench.launch.sweep import Sweep
from vibench.launch.watch import watch

RECORD = """JobId=12 JobName=vibench-v100
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:01:00 TimeLimit=00:01:00 TimeMin=N/A
   PreemptEligibleTime=2026-11-25T19:32:31 PreemptTime={preempted}
   NodeList=v100n1
"""


@pytest.fixture
def inside(slurm_says, monkeypatch):
    """Be in job 12 with this record, begun again so many times; the file of what SLURM was asked."""

    def call(state="RUNNING", reason="None", restarts=0, preempted="None", begun_again=0):
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(begun_again))
        record = RECORD.format(state=state, reason=reason, restarts=restarts, preempted=preempted)
        return slurm_says(scontrol=record)

    return call


NOW = "2026-11-25T19:33:31"
USR2, TERM = signal.SIGUSR2, signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "record", "state", "kind", "said"),
    [
        (USR2, {}, "preempted", None, "the time limit came: requeued, 1 of 2"),
        (USR2, {"restarts": 1, "begun_again": 1}, "preempted", None, "the time limit came: requeued, 2 of 2"),
        (TERM, {"preempted": NOW}, "preempted", None, "preempted: requeued, 1 of 2"),
        (USR2, {"preempted": NOW}, "preempted", None, "preempted: requeued, 1 of 2"),
    ],
)
def test_a_job_that_has_time_to_go_asks_to_be_begun_again(inside, number, record, state, kind, said):
    file = inside(**record)
    assert after_signal(number, 2) == {"state": state, "kind": kind, "error": said}
    assert asked(file, "scontrol")[-1] == "scontrol requeue 12"


@pytest.mark.parametrize(
    ("number", "record", "state", "kind", "said"),
    [
        (
            USR2,
            {"restarts": 2, "begun_again": 2},
            "failed",
            "TIMEOUT",
            "the time limit came after 2 requeues, hardware.slurm.requeues=2 allows no more",
        ),
        (
            TERM,
            {"restarts": 2, "begun_again": 2, "preempted": NOW},
            "failed",
            "PREEMPTED",
            "preempted after 2 requeues, hardware.slurm.requeues=2 allows no more",
        ),
        (TERM, {"state": "COMPLETING", "restarts": 1}, "preempted", None, "SLURM runs it again"),
        (USR2, {"state": "COMPLETING", "restarts": 1}, "preempted", None, "SLURM runs it again"),
        (
            TERM,
            {"state": "COMPLETING", "preempted": NOW},
            "preempted",
            None,
            "SLURM does not run it again: its partition cancels",
        ),
        (
            TERM,
            {"state": "COMPLETING", "reason": "TimeLimit"},
            "failed",
            "TIMEOUT",
            "the time limit came before the run was told of it",
        ),
        (TERM, {"state": "TIMEOUT"}, "failed", "TIMEOUT", "the time limit came before the run was told of it"),
        (TERM, {"state": "CANCELLED"}, "cancelled", None, "cancelled by scancel"),
        (TERM, {"state": "COMPLETING"}, "cancelled", None, "cancelled by scancel"),
        (USR2, {"state": "CANCELLED"}, "cancelled", None, "cancelled by scancel"),  # while it saved itself
        (TERM, {"state": "CANCELLED", "restarts": 1, "begun_again": 1}, "cancelled", None, "cancelled by scancel"),
    ],
)
def test_a_job_that_has_not_asks_for_nothing_and_says_what_it_was(inside, number, record, state, kind, said):
    file = inside(**record)
    assert after_signal(number, 2) == {"state": state, "kind": kind, "error": said}
    assert [line for line in asked(file, "scontrol") if "requeue" in line] == []


def test_a_run_that_may_not_go_on_at_all_fails_at_its_first_limit(inside):
    inside()
    assert after_signal(USR2, 0)["state"] == "failed"


def test_a_job_whose_record_cannot_be_read_adds_nothing_to_what_its_run_says(slurm_says, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    slurm_says(scontrol=None)
    assert after_signal(TERM, 2) == {}


def test_a_requeue_that_slurm_refuses_is_a_time_limit(inside):
    file = inside()
    scontrol = file.parent / "scontrol"
    scontrol.write_text(scontrol.read_text().replace("cat <<", '[ "$1" = requeue ] && exit 1\ncat <<'))
    told = "the time limit came, and SLURM did not requeue the job"
    assert after_signal(USR2, 2) == {"state": "failed", "kind": "TIMEOUT", "error": told}


def test_a_job_of_an_array_asks_for_itself_and_not_for_its_siblings(inside, monkeypatch):
    file = inside()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    after_signal(USR2, 2)
    assert asked(file, "scontrol") == ["scontrol show job 7_3", "scontrol requeue 7_3"]


# what submitit writes for sbatch


@pytest.fixture
def submitted(jobs, slurm_says, tmp_path, monkeypatch):
    """Submit jobs; the lines of the batch files, one file a group."""
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)

    def call(*lines, at_once=None):
        file = slurm_says(scontrol="MaxArraySize = 3\n")
        numbered = f'#!/bin/sh\necho "sbatch $*" >> {file}\necho Submitted batch job $(grep -c ^sbatch {file})\n'
        (file.parent / "sbatch").write_text(numbered)
        checked = jobs(*lines)
        sweep = Sweep(folder=tmp_path / "sweep", launcher=SLURM, jobs=[one.job for one in checked])
        sweep.folder.mkdir()
        sweep.write()
        freeze_all(sweep, checked)
        Cluster(at_once).submit(sweep, [one.request() for one in checked])
        files = sorted((sweep.folder / ".submitit").rglob("*_submission.sh"))
        return sweep, [path.read_text().splitlines() for path in files]

    return call


def test_jobs_of_a_kind_are_one_array_with_what_they_ask_for(submitted):
    sweep, (lines,) = submitted("hardware=v100 seed=0", "hardware=v100 seed=1", "hardware=v100 seed=2")
    for option in (
        "--array=0-2%3",
        "--partition=v100",
        "--gres=gpu:v100:1",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--signal=USR2@120",
        "--requeue",
    ):
        assert f"#SBATCH {option}" in lines
    assert len([line for line in lines if line.startswith("#SBATCH --mem=")]) == 1
    assert not [line for line in lines if line.startswith(("#SBATCH --time", "#SBATCH --wckey"))]
    assert [[entry["id"] for entry in jobs_of(sweep.run_dir(job))] for job in sweep.jobs] == [
        ["1_0"],
        ["1_1"],
        ["1_2"],
    ]


def test_no_array_is_larger_than_the_cluster_lets_it_be(submitted):
    _, files = submitted(*(f"hardware=v100 seed={n}" for n in range(4)))
    assert [[line for line in lines if "--array" in line] for lines in files] == [["#SBATCH --array=0-2%3"], []]


def test_as_many_of_an_array_run_at_once_as_were_asked_for(submitted):
    _, (lines,) = submitted(*(f"hardware=v100 seed={n}" for n in range(3)), at_once=2)
    assert "#SBATCH --array=0-2%2" in lines


def test_lines_of_shell_come_before_the_run(submitted):
    _, (lines,) = submitted("hardware=v100 hardware.slurm.setup=[hostname,date]")
    (first,) = [n for n, line in enumerate(lines) if line == "hostname" and lines[n + 1] == "date"]
    (begins,) = [n for n, line in enumerate(lines) if line.startswith("srun ")]
    assert first < begins
    assert "--kill-on-bad-exit=1" in lines[begins]
    assert "--cpus-per-task=8" in lines[begins]


# what the launcher's keys do


@pytest.fixture
def again(jobs, tmp_path, slurm_says):
    """The line of a sweep whose one job is in SLURM already; so nothing is submitted."""
    checked = jobs("seed=0")
    folder = tmp_path / "sweep"
    sweep = Sweep(folder=folder, launcher=SLURM, jobs=[one.job for one in checked])
    (folder / "0").mkdir(parents=True)
    sweep.write()
    freeze(plain(checked[0].config), folder / "0")
    (folder / "0" / "slurm.json").write_text('{"jobs": [{"id": "12", "mem_mb": 1024, "why": ""}]}')
    file = slurm_says(squeue="12|RUNNING|None|v100n1\n", sacct="12|FAILED|1:0|v100n1\n")

    def call(**launcher):
        return launch(Sweep(folder=folder, launcher=SLURM | launcher, jobs=[]), checked)

    return call, file, sweep


def test_a_sweep_that_is_left_to_slurm_is_not_waited_for_and_says_how_to_look_at_it(again, capsys, tmp_path):
    call, file, _ = again
    assert call(detach=True) == {}
    assert f"1 running; vibench-status {tmp_path}/sweep says what becomes of them" in capsys.readouterr().out
    assert asked(file, "sbatch") == []


def test_the_queue_is_looked_at_as_often_as_was_asked_for(again):
    _, file, sweep = again
    script = (file.parent / "squeue").read_text()
    ends = script.replace("cat <<", f"[ $(grep -c squeue {file}) -ge 4 ] && exit 0\ncat <<")
    (file.parent / "squeue").write_text(ends)
    began = time.monotonic()
    assert watch(sweep, Cluster(), 0.2)[0].state == "lost"
    assert len(asked(file, "squeue")) == 4
    assert 0.6 < time.monotonic() - began < 2
