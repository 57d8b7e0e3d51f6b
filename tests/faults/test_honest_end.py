"""One test per kind of failure: none of them is called success. Real faults in real processes."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields

import pytest

from tests.conftest import TINY
from vibench.backbones.patchtst import PatchTST
from vibench.config.backbone import PatchTSTConfig
from vibench.errors import ConfigError, DataError, NanError, ShapeError
from vibench.report.status import read_status
from vibench.run import run_experiment
from vibench.tasks.rul_prediction import RULPrediction

LONG = ("training.epochs=2000", "training.monitor=null")
MAIN = "from vibench.cli.train import main; main()"


class BrokenAtTheThirdStep(PatchTST):
    """A user's own backbone with a mistake that shows late."""

    calls = 0

    def forward(self, tokens):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return super().forward(tokens)


@dataclass(kw_only=True, slots=True)
class BrokenConfig(PatchTSTConfig):
    _target_: str = f"{__name__}.BrokenAtTheThirdStep"


class ScalarTarget(RULPrediction):
    """The public project's mistake: a prediction of another shape than its target, which would broadcast."""

    def forward(self, tokens, real):
        return super().forward(tokens, real)[:, None]


def start(tmp_path, *overrides, **kwargs):
    """A run in a process of its own, in ``tmp_path/run``."""
    command = [sys.executable, "-c", MAIN, *TINY, f"hydra.run.dir={tmp_path / 'run'}", *overrides]
    return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kwargs)


def wait_for_training(run_dir, seconds=60):
    """Until the run has written its first losses."""
    for _ in range(seconds * 20):
        if (run_dir / "metrics.csv").is_file() and (run_dir / "checkpoints" / "last.ckpt").is_file():
            return
        time.sleep(0.05)
    pytest.fail(f"{run_dir} did not start training within {seconds} s")


def states(run_dir):
    return json.loads((run_dir / "status.json").read_text())


def test_an_exception_in_the_model_is_a_crash(tiny, tmp_path):
    config = tiny()
    old = config.backbone
    config.backbone = BrokenConfig(**{f.name: getattr(old, f.name) for f in fields(old) if f.name != "_target_"})
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run_experiment(config, tmp_path)
    status = states(tmp_path)
    assert (status["state"], status["kind"]) == ("failed", "CRASH")
    assert any("cannot be multiplied" in line for line in status["last_lines"])


def test_a_prediction_of_the_wrong_shape_is_named_and_never_broadcast(tiny, tmp_path):
    config = tiny()
    config.task["rul_prediction"]._target_ = f"{__name__}.ScalarTarget"
    with pytest.raises(ShapeError, match=r"rul_prediction: prediction \(\d+, 1\) against target \(\d+,\)"):
        run_experiment(config, tmp_path)
    assert (states(tmp_path)["state"], states(tmp_path)["kind"]) == ("failed", "SHAPE")


def test_a_loss_that_is_not_finite_ends_the_run_as_nan(vibench, tmp_path):
    done = vibench(
        "train", *TINY, f"hydra.run.dir={tmp_path / 'run'}", "training.optimizer=sgd", "training.lr=1e30",
        "training.clip_norm=null", "training.warmup_steps=0", "training.epochs=9",
    )  # fmt: skip
    assert done.returncode == 1
    assert (states(tmp_path / "run")["state"], states(tmp_path / "run")["kind"]) == ("failed", "NAN")
    assert "the loss of" in done.stderr
    assert "use a smaller training.lr" in done.stderr


def test_a_killed_process_is_lost_and_never_running_or_completed(cache, vibench, tmp_path):
    process = start(tmp_path, *LONG)
    wait_for_training(tmp_path / "run")
    assert read_status(tmp_path / "run")["state"] == "running"
    process.kill()
    process.wait()
    assert states(tmp_path / "run")["state"] == "running"  # on paper
    assert read_status(tmp_path / "run")["state"] == "lost"
    shown = vibench("status", "run")
    assert shown.returncode == 1
    assert "1 lost" in shown.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_cancelled_with_the_exit_status_of_its_signal(cache, tmp_path, number):
    process = start(tmp_path, *LONG)
    wait_for_training(tmp_path / "run")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert states(tmp_path / "run")["state"] == "cancelled"
    assert f"stopped by {number.name}" in stderr


def test_a_full_disk_fails_and_says_so_although_the_status_is_on_that_disk(cache, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        process = start(tmp_path, "d_model=64", f"hydra.run.dir={disk / 'run'}")
        _, stderr = process.communicate(timeout=60)
        status = read_status(disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert process.returncode == 1
    assert (status["state"], status["kind"]) == ("failed", "CRASH")
    assert "No space left on device" in status["error"]
    assert "No space left on device" in stderr


def test_memory_that_cannot_be_had_ends_the_run_as_memory(cache, tmp_path):
    limit = 5 * 2**28  # one window is too much for it: a larger micro-batch would be cut
    process = start(
        tmp_path, "embedding=pointwise", "data.window=1024", "data.stride=1024", "training.global_batch_size=4",
        "d_model=256", "backbone.d_ff=16384",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    assert (states(tmp_path / "run")["state"], states(tmp_path / "run")["kind"]) == ("failed", "MEMORY")


def test_a_damaged_store_is_refused_before_training_by_name(vibench, tmp_path, cache, resolved):
    from vibench.data.synthetic import demo_store

    whole = demo_store(resolved(*TINY).data).read_bytes()
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(whole[: len(whole) // 2])
    small = ("hardware=cpu", "data.window=256", "task.signal_prediction.horizon=32")
    done = vibench("train", "data=cwru", f"data.store={damaged}", *small, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert f"vibench-train: {damaged} cannot be read as a store" in done.stderr
    assert (states(tmp_path / "run")["state"], states(tmp_path / "run")["kind"]) == ("failed", "DATA")


def test_a_test_split_without_a_sample_is_refused_before_training(tiny, tmp_path):
    config = tiny(
        "~task.signal_prediction", "~task.rul_prediction", "~task.anomaly_detection", "training.monitor=null",
        "data.normalisation=window",
        "data.split.train=[motor-inner-0,motor-outer-0]", "data.split.test=[motor-life-0]",
    )  # fmt: skip
    with pytest.raises(DataError, match="no window of test has a label for classification") as refused:
        run_experiment(config, tmp_path)
    assert not refused.value.started  # exit status 2
    assert (states(tmp_path)["state"], states(tmp_path)["kind"]) == ("failed", "DATA")


def test_a_directory_that_holds_a_run_is_not_used_again(tiny, tmp_path):
    run_experiment(tiny(), tmp_path)
    before = (tmp_path / "status.json").read_bytes()
    with pytest.raises(ConfigError, match=r"already holds a run \(completed\); name another directory"):
        run_experiment(tiny(), tmp_path)
    assert (tmp_path / "status.json").read_bytes() == before


def test_a_checkpoint_damaged_before_its_evaluation_is_no_success(tiny, tmp_path):
    """Between training and test the file is damaged by another process."""
    damage = f"""
import pathlib, time
path = pathlib.Path({str(tmp_path / "checkpoints" / "best.ckpt")!r})
while True:
    if path.is_file() and path.stat().st_size > 100:
        path.write_bytes(b"damaged")
    time.sleep(0.001)
"""
    vandal = subprocess.Popen([sys.executable, "-c", damage])
    try:
        with pytest.raises(Exception, match=r"best\.ckpt cannot be read as a checkpoint"):
            run_experiment(tiny("training.epochs=2"), tmp_path)
    finally:
        vandal.kill()
        vandal.wait()
    assert states(tmp_path)["state"] == "failed"


def test_a_gpu_that_slurm_promised_and_did_not_give_is_an_error(vibench, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    environment = os.environ | {"SLURM_JOB_ID": "1"}
    done = vibench("train", *TINY, "hardware=rtx3090", f"hydra.run.dir={tmp_path / 'run'}", env=environment)
    assert done.returncode == 2
    assert "hardware=rtx3090 needs a GPU, this SLURM job sees none" in done.stderr


def test_a_result_that_nobody_reads_is_a_result(cache, tmp_path):
    """Proven and on disk: a full disk or a closed pipe behind stdout changes neither status nor exit status."""
    command = [sys.executable, "-c", MAIN, *TINY, "training.max_steps=2"]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, f"hydra.run.dir={tmp_path / 'full'}"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    process = subprocess.Popen([*command, f"hydra.run.dir={tmp_path / 'pipe'}"], stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert [states(tmp_path / name)["state"] for name in ("full", "pipe")] == ["completed", "completed"]


def test_ctrl_c_with_loader_workers_is_cancelled_and_no_crash(cache, tmp_path):
    process = start(tmp_path, *LONG, "data.workers=1", start_new_session=True)
    wait_for_training(tmp_path / "run")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert states(tmp_path / "run")["state"] == "cancelled"


def test_predictions_that_are_not_finite_end_the_run_as_nan(tiny, tmp_path):
    options = ("training.optimizer=sgd", "training.lr=1e30", "training.clip_norm=null", "training.max_steps=1")
    with pytest.raises(NanError, match="a prediction of classification is not a finite number"):
        run_experiment(tiny(*options, "training.warmup_steps=0"), tmp_path)
    assert states(tmp_path)["kind"] == "NAN"


def test_a_training_without_a_single_update_is_no_success(tiny, tmp_path):
    with pytest.raises(NanError, match="none of the 4 steps changed a weight: every fp16 gradient overflowed"):
        run_experiment(tiny("training.precision=fp16", "task.classification.weight=1e12"), tmp_path)


def test_a_sweep_that_was_killed_does_not_read_as_complete(vibench, cache, tmp_path):
    command = [sys.executable, "-c", MAIN, "-m", *TINY, "seed=0,1,2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if read_status(tmp_path / "sweep" / "0")["state"] == "completed":
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    shown = vibench("status", "sweep")
    assert shown.returncode == 1
    assert "planned" in shown.stdout or "lost" in shown.stdout
    assert sorted(re.findall(r"^│ (seed=\d) ", shown.stdout, re.M)) == ["seed=0", "seed=1", "seed=2"]


def test_the_workers_of_the_loader_do_not_change_the_result(tiny, tmp_path):
    """Also with dropout, and from the second epoch on, where a loader's own random numbers would show."""
    options = ("training.epochs=2", "backbone.dropout=0.2")
    results = [run_experiment(tiny(*options, f"data.workers={n}"), tmp_path / str(n))["results"] for n in (0, 1)]
    assert results[0] == results[1]


def test_a_sweep_with_a_job_that_fails_has_started_something(vibench, tmp_path):
    done = vibench("train", "-m", *TINY, "data.label=fault,nothing", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert done.returncode == 1  # not 2: the first job is complete
    assert "data.label=nothing: " in done.stdout
    assert "no window of train has a label for classification" in done.stdout
    assert "1 failed, 1 completed; " in done.stderr
    assert [read_status(tmp_path / "sweep" / job)["state"] for job in "01"] == ["completed", "failed"]


def test_a_model_that_the_machine_cannot_hold_ends_as_memory_and_says_so(cache, tmp_path):
    """Its constructor fails, before the first step: the words of the allocator must reach the user.

    The machine is said to have more than it has, or the plan would not let it begin.
    """
    limit = 3 * 2**30
    process = start(
        tmp_path, "d_model=20000", "hardware.ram_gib=1000",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    assert "can't allocate memory" in stderr
    assert (states(tmp_path / "run")["state"], states(tmp_path / "run")["kind"]) == ("failed", "MEMORY")
