"""Disks that run full, folders and stores that go, two processes at one run, clocks that jump: real ones."""

import itertools
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.conftest import TINY
from tests.faults.runs import Stumbles, assert_same_end, events, status_of, stumbling
from tests.faults.test_honest_end import start, wait_for_training
from vibench.config.frozen import freeze, thaw
from vibench.config.plain import plain
from vibench.data.synthetic import demo_store
from vibench.errors import DataError
from vibench.report.status import read_status
from vibench.run import run_experiment

EPOCHS = ("training.epochs=20", "training.monitor=null")  # some seconds: a fault comes in the midst of it
SMALL = ("hardware=cpu", "data.window=256", "task.signal_prediction.horizon=32", "d_model=16")
QUICK = ("training.warmup_steps=1", "training.monitor=null")
TRAIN = "from vibench.cli.train import main; main()"


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")


@contextmanager
def unmounted_after(folder):
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    """A disk of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", folder)
    with unmounted_after(folder):
        yield folder


@contextmanager
def read_only(folder):
    """A folder that cannot be written to, under its own name; who has a file of it open keeps that."""
    mount("--bind", folder, folder)
    with unmounted_after(folder):
        mount("-o", "remount,bind,ro", folder)
        yield


def fill(path):
    """Take all the room that is left on a disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def go_on(run):
    """What vibench-resume does, in this process."""
    return run_experiment(thaw(run, []), run, may_change=True)


def lines_of(stderr, command="vibench-train"):
    return [line for line in stderr.splitlines() if line.startswith(f"{command}: ")]


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """A run of EPOCHS that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_experiment(tiny(*EPOCHS), folder)
    return folder


def test_a_disk_that_runs_full_in_the_midst_is_one_line_and_the_run_goes_on_when_there_is_room(
    undisturbed, vibench, disk, tmp_path
):
    run = disk / "run"
    process = start(tmp_path, *EPOCHS, f"hydra.run.dir={run}")
    wait_for_training(run)
    fill(disk / "others")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    (said,) = lines_of(stderr)
    assert "cannot be written: " in said
    assert "No space left on device" in said
    assert (read_status(run)["state"], read_status(run)["kind"]) == ("failed", "CRASH")
    assert "No space left on device" in read_status(run)["error"]
    (disk / "others").unlink()
    done = vibench("resume", str(run))
    assert done.returncode == 0, done.stderr
    assert_same_end(run, undisturbed)


def test_a_folder_that_becomes_read_only_in_the_midst_ends_the_run_and_it_goes_on_later(undisturbed, disk, tmp_path):
    run = disk / "run"
    process = start(tmp_path, *EPOCHS, f"hydra.run.dir={run}")
    wait_for_training(run)
    with read_only(run):
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        (said,) = lines_of(stderr)
        assert "Read-only file system" in said
        assert read_status(run)["state"] == "lost"  # nobody could write how it ended
        with pytest.raises(OSError, match="Read-only file system"):
            go_on(run)
    go_on(run)
    assert_same_end(run, undisturbed)


def test_a_resume_that_cannot_write_to_the_directory_is_one_line_and_nothing_is_started(tiny, vibench, disk):
    (disk / "run").mkdir()
    freeze(plain(tiny()), disk / "run")  # a run that has got no further
    with read_only(disk / "run"):
        done = vibench("resume", str(disk / "run"))
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert "Read-only file system" in said


def test_a_run_directory_that_cannot_be_made_is_one_line_before_anything_is_started(disk, tmp_path):
    with read_only(disk):
        process = start(tmp_path, *EPOCHS, f"hydra.run.dir={disk / 'run'}")
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    (said,) = stderr.splitlines()
    assert said.startswith("vibench-train: the run directory cannot be made: [Errno 30] Read-only file system")
    assert list(disk.iterdir()) == []


@pytest.fixture
def store(resolved, tmp_path):
    """A store of the user's own."""
    return shutil.copy(demo_store(resolved(*TINY).data), tmp_path / "own.h5")


def from_store(store, *overrides):
    return ("data=cwru", f"data.store={store}", "data.stride=256", *SMALL, *QUICK, *overrides)


def crash(config, run, monkeypatch):
    """Let a run end by its own fault in its 6th step, of the second epoch."""
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="cannot be multiplied"):
        patch.setattr(Stumbles, "at", 6)
        run_experiment(config, run)


def begin(tmp_path, *overrides):
    command = [sys.executable, "-c", TRAIN, *overrides, f"hydra.run.dir={tmp_path / 'run'}"]
    return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def cut_short(store):
    with store.open("r+b") as file:
        file.truncate(4096)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_is_cut_short_in_the_midst_is_named_and_the_run_goes_on_when_it_is_back(
    resolved, store, tmp_path, workers
):
    whole, run = store.read_bytes(), tmp_path / "run"
    options = from_store(store, "training.epochs=20", f"data.workers={workers}")
    process = begin(tmp_path, *options)
    wait_for_training(run)
    cut_short(store)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert lines_of(stderr) == [f"vibench-train: {store} was cut short while it was in use; bring it back as it was"]
    assert "DataLoader worker process" not in stderr
    assert (status_of(run)["state"], status_of(run)["kind"]) == ("failed", "DATA")
    with pytest.raises(DataError, match=r"own\.h5 cannot be read as a store: .*truncated file") as refused:
        go_on(run)
    assert not refused.value.started  # exit status 2
    store.write_bytes(whole)
    go_on(run)
    run_experiment(resolved(*options), tmp_path / "undisturbed")
    assert_same_end(run, tmp_path / "undisturbed")


def test_what_goes_wrong_in_a_loading_process_is_told_without_a_traceback(store, tmp_path):
    process = begin(tmp_path, *from_store(store, "training.epochs=200", "data.workers=1"))
    wait_for_training(tmp_path / "run")
    cut_short(store)
    _, stderr = process.communicate(timeout=60)
    assert f"{store} was cut short" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_is_deleted_in_the_midst_is_still_there_for_a_run_that_reads_it(store, tmp_path, workers):
    process = begin(tmp_path, *from_store(store, "training.epochs=20", f"data.workers={workers}"))
    wait_for_training(tmp_path / "run")
    assert read_status(tmp_path / "run")["state"] == "running"
    store.unlink()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert status_of(tmp_path / "run")["state"] == "completed"


def test_a_store_that_is_gone_before_a_resume_is_named_and_the_run_goes_on_when_it_is_back(
    resolved, store, tmp_path, monkeypatch
):
    config, run = stumbling(resolved(*from_store(store, "training.epochs=3"))), tmp_path / "run"
    crash(config, run, monkeypatch)
    hidden = store.rename(tmp_path / "hidden.h5")
    with pytest.raises(DataError, match=r"own\.h5 does not exist; make it with `vibench-data prepare`") as refused:
        run_experiment(config, run)
    assert not refused.value.started  # exit status 2
    hidden.rename(store)
    run_experiment(config, run)
    assert events(run) == ["went on from step 4 of 12"]
    run_experiment(config, tmp_path / "undisturbed")
    assert_same_end(run, tmp_path / "undisturbed")


def test_a_store_that_was_replaced_before_a_resume_is_refused_by_name(resolved, store, tmp_path, monkeypatch):
    config = stumbling(resolved(*from_store(store, "training.epochs=3")))
    crash(config, tmp_path / "run", monkeypatch)
    before = store.read_bytes()
    shutil.copy(demo_store(resolved(*TINY, "data.lives=9").data), store)
    with pytest.raises(
        DataError, match=r"own\.h5 is not what the run in .*run began with: other recordings"
    ) as refused:
        run_experiment(config, tmp_path / "run")
    assert not refused.value.started  # exit status 2
    store.write_bytes(before)
    run_experiment(config, tmp_path / "run")
    run_experiment(config, tmp_path / "undisturbed")
    assert_same_end(tmp_path / "run", tmp_path / "undisturbed")


def test_of_two_processes_at_one_directory_one_trains_and_the_other_is_refused(undisturbed, tmp_path):
    processes = [start(tmp_path, *EPOCHS) for _ in range(2)]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert sorted(code for _, code in ended) == [0, 2], ended
    (refused,) = [stderr for stderr, code in ended if code == 2]
    (said,) = lines_of(refused)
    assert "holds a run that another process is at" in said or "already holds a run (running)" in said
    assert events(tmp_path / "run") == []
    assert_same_end(tmp_path / "run", undisturbed)


def test_a_clock_that_jumps_by_a_day_changes_neither_durations_nor_the_result(tiny, tmp_path, monkeypatch):
    config = tiny("training.epochs=5")
    run_experiment(config, tmp_path / "steady")
    now, jumps = time.time, itertools.cycle([0, 86400, -86400])
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + next(jumps))
        status = run_experiment(config, tmp_path / "jumps")
    assert 0 <= status["seconds"] < 60
    assert 0 < status["step_seconds"] < 5
    assert_same_end(tmp_path / "jumps", tmp_path / "steady")
