"""What is made of SLURM's words: by whom a job is known, what is asked for, what is said where nobody answers.

SLURM itself is in ``tests/slurm``; here its commands print what it would.
"""

import json
import logging
import os
import re

import pytest

from tests.launch import accounts
from vibench.launch.cluster import Cluster
from vibench.launch.launch import launch, submit
from vibench.launch.slurm import Queue, SlurmError, add_job, array_size, jobs_of, show
from vibench.launch.sweep import Job, Sweep
from vibench.launch.watch import of_runs, verdicts
from vibench.report.known_runs import remember

SLURM = {"name": "slurm", "at_once": None, "skip_refused": False, "on_duplicate": "skip", "detach": True, "poll_s": 1.0}
NO_NODE = "Requested node configuration is not available"
WAITS = {"host": "node7", "pid": 17, "process_started": "4", "started": 1.0, "state": "preempted"}


def asked(file, name):
    return [line for line in file.read_text().splitlines() if line.startswith(f"{name} ")]


# by whom a job is known


def test_a_job_in_the_queue_is_what_the_queue_says_and_accounting_is_not_asked(slurm_says):
    file = slurm_says(squeue="12_0|RUNNING|None|v100n1\n12_1|PENDING|JobArrayTaskLimit|\n13|RUNNING|None|v100n1\n")
    found = Queue().told({"12_0", "12_1"})
    assert {number: (seen.phase, seen.told, seen.where) for number, seen in found.items()} == {
        "12_0": ("running", "None", "v100n1"),
        "12_1": ("waiting", "JobArrayTaskLimit", ""),
    }
    assert asked(file, "sacct") == []
    assert f"--user={os.getuid()}" in asked(file, "squeue")[0]


def test_a_job_that_has_left_the_queue_is_what_accounting_says(slurm_says):
    file = slurm_says(sacct=accounts.ENDED["OUT_OF_MEMORY of a step"])
    assert Queue().told({"12"})["12"].state == "OUT_OF_MEMORY"
    assert re.search(r" -j 12 ", asked(file, "sacct")[0])


def test_a_job_that_ends_is_not_over_for_the_queue_alone(slurm_says):
    """Steps that were out of memory are accounting's."""
    slurm_says(squeue="12|FAILED|NonZeroExitCode|v100n1\n", sacct=accounts.ENDED["OUT_OF_MEMORY of a step"])
    assert Queue().told({"12"})["12"].state == "OUT_OF_MEMORY"


def test_without_accounting_the_queue_has_the_word_and_it_is_said_once(slurm_says, caplog):
    caplog.set_level(logging.WARNING, "vibench")
    slurm_says(squeue="12|FAILED|NonZeroExitCode|v100n1\n", sacct=None)
    queue = Queue()
    for _ in range(2):
        assert queue.told({"12"})["12"].state == "FAILED"
    assert caplog.text.count("NO ACCOUNTING (it is down): states are squeue's, which forgets jobs after minutes") == 1


def test_what_the_queue_will_forget_is_remembered(slurm_says, tmp_path):
    job = Job(number=0, name="", overrides=[], folder="0")
    sweep = Sweep(folder=tmp_path, launcher=SLURM, jobs=[job])
    sweep.run_dir(job).mkdir()
    add_job(sweep.run_dir(job), {"id": "12", "mem_mb": 1024, "why": ""})
    slurm_says(squeue="12|TIMEOUT|TimeLimit|v100n1\n", sacct=None)
    assert verdicts(sweep, Cluster())[0].kind == "TIMEOUT"
    slurm_says(sacct=None)
    assert verdicts(sweep, Cluster())[0].kind == "TIMEOUT"


def test_a_queue_that_does_not_answer_is_an_error_that_says_so(slurm_says):
    slurm_says(squeue=None)
    with pytest.raises(SlurmError, match="squeue does not answer: it is down") as error:
        Queue().told({"12"})
    assert not error.value.started


def test_without_slurm_its_launcher_is_refused_with_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="hydra/launcher=slurm needs sbatch, squeue and scontrol, which are not here"):
        Cluster()


@pytest.mark.parametrize(
    ("text", "size"), [("MaxArraySize            = 1001\n", 1001), ("MaxArraySize = 0\n", 1), ("", 1000)]
)
def test_an_array_is_as_large_as_the_cluster_lets_it_be(slurm_says, text, size):
    slurm_says(scontrol=text)
    assert array_size() == size


def test_nothing_is_asked_of_a_cluster_that_does_not_answer(slurm_says, jobs):
    slurm_says(scontrol=None)
    with pytest.raises(SlurmError, match="SLURM does not answer: it is down"):
        Cluster().refusals([one.request() for one in jobs("seed=0")])


def test_a_job_shows_what_it_is_as_keys_and_values(slurm_says):
    slurm_says(scontrol="JobId=12 JobName=x\n   JobState=RUNNING Reason=None Restarts=1\n   PreemptTime=None\n")
    found = show("12")
    assert (found["JobState"], found["Restarts"], found["PreemptTime"]) == ("RUNNING", "1", "None")


# what can never run there


def test_a_kind_of_request_is_asked_for_once_and_refused_in_slurms_words(jobs, slurm_says):
    file = slurm_says()
    (file.parent / "sbatch").write_text(
        f'#!/bin/sh\necho "sbatch $*" >> {file}\n'
        f'case "$*" in *partition=v100*) echo "sbatch: error: {NO_NODE}" >&2; exit 1;; esac\n'
    )
    checked = jobs(*(f"hardware={name} seed={n}" for name in ("v100", "a100_80") for n in range(2)), "hardware=local")
    found = Cluster().refusals([one.request() for one in checked])
    assert len(asked(file, "sbatch")) == 2
    assert all("--test-only" in line for line in asked(file, "sbatch"))
    assert set(found) == {0, 1, 4}
    assert found[0] == found[1]
    assert re.fullmatch(
        rf"SLURM refuses --partition=v100 --gres=gpu:v100:1 .*--mem=\d+M: {NO_NODE}; change hardware\.slurm",
        found[0],
    )
    assert found[4] == "hardware=local is this machine, not a node of the cluster; use a card, or hardware=cpu"


def test_what_is_ended_is_named_by_its_last_job(slurm_says, tmp_path):
    jobs = [Job(number=n, name="", overrides=[], folder=str(n)) for n in range(3)]
    sweep = Sweep(folder=tmp_path, launcher=SLURM, jobs=jobs)
    for job in jobs[:2]:
        sweep.run_dir(job).mkdir()
        add_job(sweep.run_dir(job), {"id": f"12_{job.number}"})
    add_job(sweep.run_dir(jobs[1]), {"id": "15"})
    file = slurm_says()
    Cluster().end(sweep, jobs)
    assert asked(file, "scancel") == ["scancel 12_0 15"]
    slurm_says(scancel=None)
    with pytest.raises(SlurmError, match="scancel failed: it is down"):
        Cluster().end(sweep, jobs)


# a run that waits to go on


@pytest.fixture
def waiting(jobs, tmp_path, slurm_says):
    """A sweep whose one run was preempted and waits in the queue."""
    checked = jobs("seed=0")
    sweep = Sweep(folder=tmp_path / "sweep", launcher=SLURM, jobs=[one.job for one in checked])
    run_dir = sweep.run_dir(sweep.jobs[0])
    run_dir.mkdir(parents=True)
    sweep.write()
    (run_dir / "status.json").write_text(json.dumps(WAITS))
    add_job(run_dir, {"id": "12", "mem_mb": 1024, "why": ""})
    slurm_says(squeue="12|PENDING|BeginTime|\n", sbatch="Submitted batch job 99\n")
    return sweep, checked


def test_a_run_that_waits_to_go_on_is_not_submitted_again_by_the_same_line(waiting):
    sweep, checked = waiting
    run_dir = sweep.run_dir(sweep.jobs[0])
    assert of_runs([run_dir])[run_dir].state == "preempted"
    launch(Sweep(folder=sweep.folder, launcher=SLURM, jobs=[]), checked)
    assert [entry["id"] for entry in jobs_of(run_dir)] == ["12"]


@pytest.mark.usefixtures("own_cache")
def test_a_run_that_waits_to_go_on_stands_for_a_job_of_the_same_config(waiting, jobs, sweep, here, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    known, checked = waiting
    remember(checked[0].job.config_hash, known.run_dir(known.jobs[0]))
    again, place = jobs("seed=0"), here()
    other = sweep(again, "other")
    submit(other, again, place, skip_refused=False, on_duplicate="skip")
    assert other.jobs[0].same_as == str(known.run_dir(known.jobs[0]))
