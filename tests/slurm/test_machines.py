"""Runs on two machines, with two processes on each: what they come to is what one process comes to."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.end_to_end.test_ranks import ALIKE
from tests.faults.runs import events, status_of, weights
from tests.slurm import processes
from tests.slurm.commands import ask, sacct
from tests.slurm.sweeps import Watched, of
from vibench.run import run_experiment

Begin = Callable[..., Watched]
EPOCHS = ("training.epochs=6", "training.global_batch_size=12")  # three windows for each process
FOUR = (
    *(text for text in ALIKE if not text.startswith(("hardware=", "training.epochs", "training.global"))),
    "hardware=a100_80",
    "hardware.device=cpu",
    "hardware.cpus=2",
    "hardware.nodes=2",
    "hardware.gpus=2",
    "hardware.slurm.setup=['export MASTER_ADDR=127.0.0.1','export GLOO_SOCKET_IFNAME=lo']",  # one machine plays both
    "training.micro_batch=2",
)
NODES = ["a100n1", "a100n2"]


@pytest.fixture(scope="module")
def alone(resolved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_experiment(resolved(*ALIKE, *EPOCHS), folder)
    return folder


def on_two_machines(begin: Begin) -> Watched:
    """Replicated and sharded; the second is told in its training that its time is over."""
    sweep = begin(*FOUR, *EPOCHS, "training.sharding=none,full")
    sweep.trains(1)
    ask("scancel", "--signal=USR2", sweep.jobs(1)[-1])
    sweep.says_more(1)
    sweep.ends()
    return sweep


@pytest.mark.parametrize("number", [0, 1])
@of(on_two_machines)
def test_four_processes_end_with_the_weights_of_one(outcome: Watched, alone: Path, number: int):
    assert outcome.ends() == 0, outcome.printed()
    assert outcome.verdicts() == {"training.sharding=none": "completed", "training.sharding=full": "completed"}
    (*_, said) = sacct(outcome.jobs(number)[-1], ("State", "NNodes", "AllocTRES", "NodeList"))
    assert (said["State"], said["NNodes"], said["NodeList"]) == ("COMPLETED", "2", "a100n[1-2]")
    assert {"node=2", "gres/gpu:a100=4", "cpu=4"} <= set(said["AllocTRES"].split(","))
    ours, theirs = weights(outcome.run_dir(number)), weights(alone)
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=2e-5, msg=name)
    plan = status_of(outcome.run_dir(number))["plan"]
    assert (plan["devices"], plan["sharding"]) == (4, ("none", "full")[number])


@of(on_two_machines)
def test_they_go_on_together_where_they_were(outcome: Watched):
    assert outcome.attempts(1) == ["REQUEUED", "COMPLETED"]
    assert [attempt["state"] for attempt in status_of(outcome.run_dir(1))["attempts"]] == ["preempted"]
    assert [text[:17] for text in events(outcome.run_dir(1))] == ["went on from step"]
    assert outcome.attempts(0) == ["COMPLETED"]
    assert events(outcome.run_dir(0)) == []


def without_one_of_them(begin: Begin) -> tuple[Watched, float]:
    """A process of the second machine is killed. With the seconds until the watching process says so."""
    sweep = begin(*FOUR, *EPOCHS, "training.epochs=200", "training.sharding=none")
    sweep.trains(0)
    os.kill(rank_on("a100n2", sweep.run_dir(0)), signal.SIGKILL)
    killed = time.monotonic()
    sweep.says(0, "failed CRASH", seconds=60)
    took = time.monotonic() - killed
    sweep.ends()
    return sweep, took


def rank_on(node: str, run_dir: Path) -> int:
    """The first process that trains a run there."""
    job = status_of(run_dir)["slurm_job"]
    conf = Path(os.environ["SLURM_CONF"])
    found = [pid for pid in processes.of(conf) if is_rank(pid, node, job)]
    assert len(found) == 2, found
    return min(found)


def is_rank(pid: int, node: str, job: str) -> bool:
    told = processes.environment_of(pid)
    said = Path(f"/proc/{pid}/cmdline").read_bytes()
    return (told.get("SLURMD_NODENAME"), told.get("SLURM_JOB_ID")) == (node, job) and b"vibench.rank" in said


@of(without_one_of_them)
def test_a_process_that_is_killed_on_the_second_machine_ends_the_run_and_is_named(outcome: tuple[Watched, float]):
    sweep, took = outcome
    assert sweep.ends() == 1
    assert took < 60
    assert sweep.attempts(0) == ["FAILED"]
    told = status_of(sweep.run_dir(0))
    assert (told["state"], told["kind"]) == ("failed", "CRASH")
    assert "the process of rank 2 was killed by SIGKILL" in told["error"]
    conf = Path(os.environ["SLURM_CONF"])
    assert not [
        pid for pid in processes.of(conf) if processes.environment_of(pid).get("SLURM_JOB_ID") == told["slurm_job"]
    ]
