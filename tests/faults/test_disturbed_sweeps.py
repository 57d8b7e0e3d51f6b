"""Sweeps on this machine whose jobs or whose own process are killed or stopped: the verdicts say so, the other jobs do
not notice, and what is run again ends with the weights, the metrics and the log of a sweep that nothing happened to.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.test_kills import HARD, assert_the_same_to_the_bit, command, status
from vibench.launch.launch import verdicts
from vibench.launch.sweep import Sweep

JOBS = 3
LINE = ("-m", *HARD, "data.workers=0", "training.epochs=8", "training.patience=8", "seed=0,1,2")


def sweep_line(folder, at_once):
    return command("train", *LINE, f"hydra.launcher.jobs={at_once}", f"hydra.sweep.dir={folder}")


@pytest.fixture(scope="module")
def reference(cache, tmp_path_factory):
    """The sweep that nothing happens to."""
    folder = tmp_path_factory.mktemp("reference") / "sweep"
    subprocess.run(sweep_line(folder, JOBS), check=True, capture_output=True)
    return folder


@pytest.fixture
def begun(cache, tmp_path):
    """A sweep that has begun, so many jobs of it in the midst of their training: its process and directory."""
    processes = []

    def call(at_once):
        folder = tmp_path / "sweep"
        process = subprocess.Popen(
            sweep_line(folder, at_once),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        wait_for(lambda: sum((folder / str(n) / "metrics.csv").exists() for n in range(JOBS)) == at_once)
        return process, folder

    yield call
    for process in processes:
        process.kill()
        process.wait()


def wait_for(holds, seconds=120):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def left_of(folder):
    """Processes that have to do with a sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # gone meanwhile
            continue
    return found


def states(folder):
    sweep = Sweep.read(folder)
    return [one.state for one in verdicts(sweep, None).values()]


def run_again(folder, which):
    done = subprocess.run(
        command("status", folder, "--rerun", which), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_as_undisturbed(folder, reference):
    assert states(folder) == ["completed"] * JOBS
    for number in range(JOBS):
        assert_the_same_to_the_bit(folder / str(number), reference / str(number))


def test_a_job_that_is_killed_is_lost_or_failed_and_the_others_do_not_notice(reference, begun):
    """One by its own process, one by that of its training: both by kill -9."""
    process, folder = begun(JOBS)
    own, trains = (status(folder / str(number))["pid"] for number in (0, 1))
    os.kill(own, signal.SIGKILL)
    (training,) = children(trains)
    os.kill(training, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert states(folder) == ["lost", "failed", "completed"]
    assert "the process of the run was killed by SIGKILL" in status(folder / "1")["error"]
    assert "1 failed, 1 lost, 1 completed" in said
    assert status(folder / "2").get("attempts", []) == []
    assert left_of(folder) == []
    run_again(folder, "failed,lost")
    assert status(folder / "2").get("attempts", []) == []  # it was not begun again
    assert_as_undisturbed(folder, reference)


def test_ctrl_c_ends_the_jobs_with_time_to_save_and_what_waited_is_planned(reference, begun):
    process, folder = begun(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"stopped; vibench-status {folder} --rerun cancelled,planned goes on" in said
    assert states(folder) == ["cancelled", "cancelled", "planned"]
    for number in (0, 1):
        assert (folder / str(number) / "checkpoints" / "last.ckpt").is_file()
    assert left_of(folder) == []
    run_again(folder, "cancelled,planned")
    assert all("went on from step" in status(folder / str(number))["events"][0]["text"] for number in (0, 1))
    assert_as_undisturbed(folder, reference)


def test_who_has_begun_a_sweep_may_be_killed_and_its_jobs_save_themselves_and_end(reference, begun):
    process, folder = begun(2)
    process.kill()
    process.wait()
    wait_for(lambda: left_of(folder) == [], 60)
    assert states(folder) == ["cancelled", "cancelled", "planned"]
    run_again(folder, "cancelled,planned")
    assert_as_undisturbed(folder, reference)


def test_the_same_line_again_goes_on_with_a_sweep_that_was_killed(reference, begun):
    """Everything at once: its process, the jobs, their trainings, as when a machine goes down."""
    process, folder = begun(2)
    process.kill()
    for pid in left_of(folder):
        trainings = children(pid)
        os.kill(pid, signal.SIGKILL)
        for training in trainings:
            os.kill(training, signal.SIGKILL)
    process.wait()
    wait_for(lambda: left_of(folder) == [], 60)
    assert states(folder) == ["lost", "lost", "planned"]
    done = subprocess.run(sweep_line(folder, 2), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_as_undisturbed(folder, reference)


def test_a_sweep_is_ended_by_its_status_command(begun):
    process, folder = begun(1)
    subprocess.run(command("status", folder, "--cancel"), check=True, capture_output=True)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert states(folder) == ["cancelled", "planned", "planned"]
    assert left_of(folder) == []


def test_a_job_that_is_told_to_end_while_it_starts_has_not_failed(cache, tmp_path):
    """At any time of its first second."""
    folder = tmp_path / "sweep"
    line = command("train", *LINE[:-1], f"seed={','.join(map(str, range(12)))}", f"hydra.sweep.dir={folder}")
    process = subprocess.Popen([*line, "hydra.launcher.jobs=1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for number in range(12):
        wait_for(lambda: set(left_of(folder)) - {process.pid})
        (pid,) = set(left_of(folder)) - {process.pid}
        if number % 2:  # from there on it listens; without a load both are as good
            wait_for(lambda number=number: (folder / str(number) / "vibench-train.log").exists())
        time.sleep(number * 0.08)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda pid=pid: pid not in left_of(folder))
    process.kill()
    process.wait()
    found = verdicts(Sweep.read(folder), None)
    assert [(n, one.kind, one.said) for n, one in found.items() if one.state == "failed"] == []
    assert {one.state for one in found.values()} == {"cancelled", "planned"}  # it saved itself, or had not begun


@pytest.fixture
def memory_group():
    """A control group with a limit of so many MB."""
    made = []

    def call(mb):
        for version, (root, limit) in {
            1: ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            2: ("/sys/fs/cgroup", "memory.max"),
        }.items():
            folder = Path(root) / f"vibench-test-{os.getpid()}"
            try:
                folder.mkdir()
                made.append(folder)
                (folder / limit).write_text(str(mb * 2**20))
            except OSError as error:
                reason = f"no control group of version {version} can be made: {error}"
                continue
            return folder
        pytest.skip(reason)

    yield call
    for folder in made:
        wait_for(lambda folder=folder: not (folder / "cgroup.procs").read_text().split(), 30)
        folder.rmdir()


def test_a_job_that_the_kernel_kills_for_memory_says_so_and_the_next_one_is_not_hurt(cache, tmp_path, memory_group):
    """The machine is said to have more than it has, or the plan would not let it begin."""
    group = memory_group(1500)
    folder = tmp_path / "sweep"
    small = ("training.max_steps=2", "training.epochs=1", "training.warmup_steps=0", "hardware.ram_gib=1000")
    line = [*sweep_line(folder, 1), *small, "d_model=16384,16", "seed=0"]
    enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
    done = subprocess.run(["sh", "-c", enter, "sh", *line], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert states(folder) == ["failed", "completed"]
    told = status(folder / "0")
    assert (told["kind"], sys.platform) == ("MEMORY", "linux")
    assert "the kernel killed a process of the run: all 1500 MB of the host's memory was taken" in told["error"]


def test_of_two_sweeps_that_begin_at_once_only_one_runs_a_config(cache, tmp_path, monkeypatch):
    """The other waits for it, and takes its result."""
    monkeypatch.setenv("VIBENCH_CACHE", str(tmp_path / "cache"))
    short = ("training.max_steps=2", "training.epochs=1", "training.warmup_steps=0", "hydra.launcher.on_duplicate=skip")
    folders = [tmp_path / name for name in ("one", "other")]
    both = [
        subprocess.Popen(
            command("train", *LINE, *short, "hydra.launcher.jobs=3", f"hydra.sweep.dir={folder}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for folder in folders
    ]
    for process in both:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert "3 completed" in said
    for number in range(JOBS):
        assert sum((folder / str(number) / "status.json").exists() for folder in folders) == 1
