"""Runs that are killed at random times end, once they are resumed, with the weights, the metrics and the log of a run
that was never disturbed: to the bit. Shuffled data, dropout, four tasks, early stopping, two loading processes.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY

HARD = (
    *TINY,
    "data.stride=128",
    "data.workers=2",
    "backbone.dropout=0.2",
    "training.epochs=4",
    "training.global_batch_size=8",
    "training.patience=3",
    "training.save_every_s=0.05",
    "training.task_weights=learned",
    "logger.every_n_steps=1",
)
KILLS = 30


def command(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", f"from vibench.cli.{name} import main; main()", *map(str, arguments)]


def train(folder: Path, *more: str) -> list[str]:
    return command("train", *HARD, *more, f"hydra.run.dir={folder}")


def status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def log(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv, without what was measured of the machine."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{key: text for key, text in row.items() if text and not key.startswith("memory/")} for row in rows]


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]


def assert_the_same_to_the_bit(folder: Path, reference: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = weights(folder, name), weights(reference, name)
        assert ours.keys() == theirs.keys()
        assert [key for key, value in theirs.items() if not torch.equal(ours[key], value)] == []
    assert status(folder)["results"] == status(reference)["results"]
    assert status(folder)["steps"] == status(reference)["steps"]
    assert log(folder) == log(reference)  # no step is missing, none is there twice


@pytest.fixture(scope="module")
def reference(cache, tmp_path_factory):
    """The run that nothing happens to, and the seconds it takes."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    began = time.monotonic()
    subprocess.run(train(folder), check=True, capture_output=True)
    return folder, time.monotonic() - began


def killed(folder: Path, number: int, after_s: float, *more: str) -> int:
    process = subprocess.Popen(train(folder, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after_s)
    process.send_signal(number)
    return process.wait(120)


@pytest.mark.parametrize("draw", range(KILLS))
def test_a_run_that_is_killed_at_any_time_ends_as_if_it_had_not_been(reference, tmp_path, draw):
    """Also while it starts, saves, validates, or tests. Half of them by kill -9, and one in three twice."""
    whole, seconds = reference
    chance, folder = random.Random(draw), tmp_path / "run"
    for _ in range(1 + (draw % 3 == 0)):
        number = (signal.SIGKILL, signal.SIGTERM)[draw % 2]
        code = killed(folder, number, chance.uniform(0.2, seconds))
        assert code in (0, 2, -number, 128 + number)  # 2: it was completed before, and is not begun again
    again = command("resume", folder) if (folder / "config.yaml").exists() else train(folder)
    done = subprocess.run(again, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert status(folder)["state"] == "completed"
    assert_the_same_to_the_bit(folder, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_run_that_is_asked_to_stop_loses_no_step(cache, reference, tmp_path, number):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        train(folder, "training.save_every_s=1000"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (folder / "metrics.csv").is_file():
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, number)  # the loading processes get it, too, as from SLURM and from a terminal
    said, _ = process.communicate(timeout=60)
    code, state = (75, "preempted") if number == signal.SIGUSR2 else (128 + number, "cancelled")
    assert (process.returncode, status(folder)["state"]) == (code, state), said
    steps = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["vibench"]["steps_done"]
    assert steps == int(log(folder)[-1]["step"]) > 0
    done = subprocess.run(train(folder, "training.save_every_s=1000"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = status(folder)
    assert [event["text"] for event in told["events"]] == [f"went on from step {steps} of {told['promised_steps']}"]
    assert [attempt["state"] for attempt in told["attempts"]] == [state]
    assert_the_same_to_the_bit(folder, reference[0])


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_that_are_killed_go_on_together(cache, tmp_path, sharding):
    """The machine goes down: supervisor and ranks at once, nobody cleans up."""
    two = ("hardware.gpus=2", "data.workers=0", "training.save_every_s=1", f"training.sharding={sharding}")
    subprocess.run(train(tmp_path / "whole", *two), check=True, capture_output=True)
    folder = tmp_path / "run"
    process = subprocess.Popen(train(folder, *two), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / "checkpoints" / "last.ckpt").is_file():
        time.sleep(0.02)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, ranks)):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command("resume", folder), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_the_same_to_the_bit(folder, tmp_path / "whole")
