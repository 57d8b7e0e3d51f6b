"""Two processes that train one model: the weights and the metrics are those of one process."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY
from vibench.run import run_experiment

ALIKE = (  # nothing is drawn in a step; the last batch of an epoch is smaller, and uneven
    *TINY,
    "backbone=transformer",
    "backbone.dropout=0",
    "backbone.e_layers=2",
    "training.optimizer=sgd",  # Adam divides by gradients, of which that of a key's bias is noise around zero
    "training.lr=0.03",
    "training.epochs=2",
    "training.global_batch_size=14",
    "logger.every_n_steps=1",
)
TWO = "hardware.gpus=2"
SHARED = {
    "replicated": ("training.sharding=none", "training.micro_batch=4"),
    "sharded": ("training.sharding=full", "training.micro_batch=2", "training.checkpointing=full"),
}


def checkpoint(folder: Path):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def table(folder: Path):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("how", SHARED)
def test_two_processes_end_with_the_weights_the_optimizer_and_the_log_of_one(resolved, tmp_path, how):
    alone, together = tmp_path / "alone", tmp_path / "together"
    one = run_experiment(resolved(*ALIKE), alone)
    two = run_experiment(resolved(*ALIKE, TWO, *SHARED[how]), together)
    ours, theirs = checkpoint(alone), checkpoint(together)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, weight in ours["state_dict"].items():
        torch.testing.assert_close(theirs["state_dict"][name], weight, rtol=1e-4, atol=2e-5, msg=name)
    moments, others = (found["optimizer_states"][0]["state"] for found in (ours, theirs))
    assert moments.keys() == others.keys()
    for key, moment in moments.items():
        torch.testing.assert_close(others[key]["momentum_buffer"], moment["momentum_buffer"], rtol=1e-3, atol=1e-6)
    for row, other in zip(table(alone), table(together), strict=True):
        for key, text in row.items():
            if text and not key.startswith("memory/"):  # measured, of other processes
                assert float(other[key]) == pytest.approx(float(text), rel=2e-3, abs=1e-4), (key, row["step"])
    for task, result in one["results"].items():
        assert two["results"][task]["metrics"] == pytest.approx(result["metrics"], rel=2e-3, abs=1e-4), task
        assert two["results"][task]["samples"] == result["samples"]
    assert (two["plan"]["devices"], two["plan"]["sharding"]) == (2, "full" if how == "sharded" else "none")
    assert sorted(path.name for path in (together / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_what_a_rank_raises_is_the_error_of_the_run_and_nobody_reports_twice(vibench, tmp_path):
    wrong = ("training.lr=1e30", "training.clip_norm=null", f"hydra.run.dir={tmp_path}/run")
    done = vibench("train", *ALIKE, TWO, *wrong)
    assert done.returncode == 1
    assert done.stderr.count("the loss of") == 1
    assert "Traceback" not in done.stderr


def ranks_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def begun(cache, tmp_path):
    """A run of two processes in the middle of its training, and their pids."""
    command = [sys.executable, "-c", "from vibench.cli.train import main; main()", *ALIKE, TWO]
    command += ["training.epochs=2000", f"hydra.run.dir={tmp_path}/run"]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.csv").is_file():
        assert process.poll() is None, (tmp_path / "said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2
    yield process, ranks, tmp_path
    process.kill()
    process.wait()


def gone(pids: list[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_killed_rank_ends_the_other_and_the_run_says_which_it_was(begun):
    process, ranks, folder = begun
    os.kill(ranks[1], signal.SIGKILL)
    assert process.wait(60) == 1
    assert gone(ranks, 5)
    assert "the process of rank 1 was killed by SIGKILL" in (folder / "said").read_text()


def test_a_run_that_is_killed_leaves_no_rank_behind(begun):
    process, ranks, _ = begun
    process.kill()
    process.wait()
    assert gone(ranks, 20)


def test_a_run_that_is_stopped_ends_its_ranks_and_is_cancelled(begun):
    process, ranks, folder = begun
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert gone(ranks, 5)
    assert json.loads((folder / "run" / "status.json").read_text())["state"] == "cancelled"
