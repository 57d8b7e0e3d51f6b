"""Runs whose address space is limited by the kernel: they complete with the weights of a run without a limit, or end as
MEMORY with the bill.
"""

import json
import random
import resource
import subprocess
import sys

import pytest
import torch

from tests.faults.test_kills import status, train, weights

MIB = 2**20
LIMITS, LEAST_MIB, MOST_MIB = 20, 40, 520  # beyond what importing everything takes
WIDE = (  # about 400 MiB of activations, cheap ones; nothing that rounding is divided by
    "task=classification",
    "embedding=pointwise",
    "backbone=transformer",
    "backbone.e_layers=2",
    "backbone.d_ff=256",
    "backbone.dropout=0",
    "data.stride=64",
    "data.workers=0",
    "d_model=32",
    "training.global_batch_size=96",
    "training.max_steps=3",
    "training.optimizer=sgd",
    "training.lr=0.03",
    "training.patience=null",
    "training.task_weights=fixed",
)


def wide(folder):
    arguments = [text for text in train(folder, *WIDE) if not text.startswith("task.")]
    return arguments


def limited(nbytes):
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))


@pytest.fixture(scope="module")
def reference(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    subprocess.run(wide(folder), check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def imports():
    """Bytes of address space that a process has once everything is imported."""
    script = "import vibench.experiment; print(open('/proc/self/status').read().split('VmPeak:')[1].split()[0])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024


@pytest.mark.parametrize("draw", range(LIMITS))
def test_a_run_in_little_memory_has_the_weights_of_one_in_much_or_ends_with_the_bill(
    reference, imports, tmp_path, draw
):
    room = LEAST_MIB + (MOST_MIB - LEAST_MIB) * (draw + random.Random(draw).random()) / LIMITS
    folder = tmp_path / "run"
    done = subprocess.run(
        wide(folder), capture_output=True, text=True, timeout=180, preexec_fn=limited(imports + int(room * MIB))
    )
    told = status(folder)
    if told["state"] == "completed":
        ours, theirs = weights(folder, "last.ckpt"), weights(reference, "last.ckpt")
        for name, weight in theirs.items():
            torch.testing.assert_close(ours[name], weight, rtol=1e-5, atol=1e-5, msg=name)
        assert told["steps"] == 3
        return
    assert (told["state"], told["kind"]) == ("failed", "MEMORY"), told
    assert done.returncode in (1, 2), done.stderr
    assert "out of memory" in told["error"]
    assert "GiB" in told["error"]  # the bill, or what the process alone takes
    assert told["error"].splitlines()[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_most_of_them_recover(reference, imports, tmp_path):
    """Or the test above would be of refusals alone: with half of what the whole batch takes, it is cut and trained."""
    folder = tmp_path / "run"
    done = subprocess.run(
        wide(folder), capture_output=True, text=True, timeout=180, preexec_fn=limited(imports + 250 * MIB)
    )
    assert done.returncode == 0, done.stderr
    events = [event for event in status(folder)["events"] if event["kind"] == "memory"]
    assert any("micro-batch 96 -> 48" in event["text"] for event in events)
    assert "in the end" in done.stdout
    assert json.loads((folder / "status.json").read_text())["micro_batch"] < 96
