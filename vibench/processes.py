"""One process per device, of one run. What starts them watches them: if one dies, all end, and it is said why.

On several machines each has such a supervisor; the first one's decides. They meet in a folder that all of them see.

Imports no torch: the processes do.
"""

import logging
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vibench import cgroups
from vibench.config.experiment import ExperimentConfig
from vibench.errors import ConfigError, Restart, VibenchError
from vibench.rank import EVERY_S, STOPPED, leave
from vibench.signals import BURST_S, Stopped

GRACE_S = 5  # seconds to end before a process is killed
LAST_STEP_S = 600  # for the step that a stopped run is in, and its checkpoint; a second signal is not so patient
TOLD = (-signal.SIGTERM, -signal.SIGUSR2)  # exit status of a process that was told before it could listen
WORKER_KILLED = "killed by signal: Killed"  # what a DataLoader says of its processes
END = "end"  # what the first machine says to the others, of what it began


class HostMemoryError(VibenchError):
    """The kernel killed a process of a run, because the host's memory was full."""

    kind = "MEMORY"


class RankError(VibenchError):
    """One of the processes of a run failed. Its kind is that of what was raised there."""


def train_in_processes(config: ExperimentConfig, run_dir: Path) -> dict[str, Any]:
    """Train with as many processes as the hardware has cards; what the first of them has to show.

    Raises:
        RankError: one of them failed or was killed; the others have been ended.
        Restart: one of them asks for it.
        Stopped: by a signal, which they were told and had time to save after.
        ConfigError: the hardware has more machines than there are here.
    """
    if config.hardware.nodes == 1:
        with tempfile.TemporaryDirectory(prefix="vibench-") as folder:  # on this machine's own disk
            return _lead(config, run_dir, Path(folder))
    if machines() != config.hardware.nodes or not _meetings(run_dir).exists():
        raise ConfigError(
            [
                f"hardware.nodes={config.hardware.nodes} needs a job of as many machines that its first one leads; "
                "use hydra/launcher=slurm, or hardware.nodes=1"
            ]
        )
    folder = _meetings(run_dir)
    number = len(list(folder.glob("[0-9]*")))
    (folder / "next").mkdir()
    return _lead(config, run_dir, (folder / "next").rename(folder / str(number)))


def machines() -> int:
    """Of this SLURM job; 1 without one."""
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) if "SLURM_STEP_ID" in os.environ else 1


def machine() -> int:
    """The number of this one among them, from 0."""
    return int(os.environ.get("SLURM_NODEID", "0")) if machines() > 1 else 0


def _meetings(run_dir: Path) -> Path:
    """Where the machines of this attempt meet: a folder for each time that they begin."""
    return run_dir / ".ranks" / f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def _over(folder: Path) -> Path:
    """The file that says that an attempt is over."""
    return folder.with_name(f"{folder.name}.over")


@contextmanager
def leading(config: ExperimentConfig, run_dir: Path) -> Iterator[None]:
    """Within it, the other machines of a run wait for what this one begins; they go when it ends."""
    if config.hardware.nodes == 1:
        yield
        return
    shutil.rmtree(run_dir / ".ranks", ignore_errors=True)  # of attempts before
    folder = _meetings(run_dir)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        _over(folder).touch()  # also for who comes only now
        shutil.rmtree(folder, ignore_errors=True)


def follow(config: ExperimentConfig, run_dir: Path) -> None:
    """What another machine than the first does: start its processes whenever that one begins, until it says it is over.

    A signal is passed on; what becomes of the job, the first machine decides.
    """
    folder, number, deadline = _meetings(run_dir), 0, time.monotonic() + LAST_STEP_S
    while True:
        try:
            while not _over(folder).exists():
                if (folder / str(number)).exists():
                    number += 1
                    _follow_once(config, run_dir, folder / str(number - 1))
                elif not number and time.monotonic() > deadline:
                    raise RankError(f"the first machine of the job never began; see {run_dir}/output.log")
                time.sleep(EVERY_S)
            return
        except Stopped:
            continue


def _follow_once(config: ExperimentConfig, run_dir: Path, meeting: Path) -> None:
    first, kills = machine() * config.hardware.gpus, cgroups.kills()
    running = [_start(config, run_dir, meeting, first + number) for number in range(config.hardware.gpus)]
    try:
        _wait(running, meeting=meeting)
    except Stopped as stopped:
        _pass_on(running, stopped)
    codes = [process.poll() for process in running]
    _end(running)
    with suppress(FileNotFoundError):  # the first one waits no more
        leave(meeting / f"ended{machine()}", (first, codes, cgroups.kills() > kills))


def _lead(config: ExperimentConfig, run_dir: Path, meeting: Path) -> dict[str, Any]:
    kills = cgroups.kills()
    running = [_start(config, run_dir, meeting, rank) for rank in range(config.hardware.gpus)]
    died: list[int | None] = [None] * config.hardware.devices
    try:
        _wait(running, meeting=meeting, others=config.hardware.nodes - 1)
    except Stopped as stopped:
        _pass_on(running, stopped)
        if all(process.poll() in (0, STOPPED, -stopped.number) for process in running):
            raise  # saved, all of them, or not yet begun
    finally:
        died[: len(running)] = [process.poll() for process in running]  # before the others are ended
        with suppress(OSError):
            (meeting / END).touch()
        _end(running)
        full = cgroups.kills() > kills
        for first, codes, there in _ended(meeting, config.hardware.nodes - 1):
            died[first : first + len(codes)] = codes
            full = full or there
    if any(died) and all(code in (0, STOPPED, *TOLD) for code in died):
        time.sleep(BURST_S)  # SLURM tells all processes of a job; where this one is told, too, that is what it was
        raise Stopped(signal.SIGTERM)
    if any(died) or not (meeting / "result").exists():
        raise _failure(died, meeting, run_dir, memory_was_full=full)
    return pickle.loads((meeting / "result").read_bytes())


def _ended(meeting: Path, others: int) -> list[tuple[int, list[int | None], bool]]:
    """What the other machines say of their processes, once they have ended; they have a little time for it."""
    deadline = time.monotonic() + (2 * GRACE_S if others else 0)
    while len(list(meeting.glob("ended*"))) < others and time.monotonic() < deadline:
        time.sleep(EVERY_S)
    return [pickle.loads(path.read_bytes()) for path in meeting.glob("ended*")]


def _pass_on(running: "list[subprocess.Popen[bytes]]", stopped: Stopped) -> None:
    for process in running:
        process.send_signal(stopped.number)
    _wait(running, LAST_STEP_S)


def _wait(
    running: "list[subprocess.Popen[bytes]]", seconds: float = math.inf, meeting: Path | None = None, others: int = 0
) -> None:
    """Until all have ended, or one has failed. One that was stopped has not: the first may still be saving.

    Args:
        meeting: where it is said that another machine has ended.
        others: machines to wait for.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        codes = [process.poll() for process in running]
        ended = 0
        if meeting is not None and (others or machine()):
            if (meeting / END).exists() or not meeting.exists():
                return
            told = [pickle.loads(path.read_bytes())[1] for path in meeting.glob("ended*")] if others else []
            codes += [code for part in told for code in part if code is not None]
            ended = len(told)
        if any(code not in (None, 0, STOPPED) for code in codes):
            return
        if None not in codes and ended == others:
            return
        time.sleep(EVERY_S)


def _start(config: ExperimentConfig, run_dir: Path, meeting: Path, rank: int) -> "subprocess.Popen[bytes]":
    """A process of its own session, so that Ctrl-C reaches this one alone; it ends with this one's pipe."""
    log = None if rank == 0 else (run_dir / f"rank{rank}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.path.pop(0); from vibench.rank import main; main()"],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},  # it finds what this one does
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    if log is not None:
        log.close()
    assert process.stdin is not None
    files = [
        handler.baseFilename for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)
    ]
    pickle.dump((config, run_dir, meeting, rank, sys.argv, files), process.stdin)
    process.stdin.flush()
    return process


def _end(running: "list[subprocess.Popen[bytes]]") -> None:
    for process in running:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE_S
    for process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _failure(died: list[int | None], meeting: Path, run_dir: Path, *, memory_was_full: bool) -> VibenchError:
    """What was raised first; the others fail after it, since they wait for a process that is gone."""
    told = sorted(meeting.glob("error*"), key=lambda path: path.stat().st_mtime_ns)
    killed = [rank for rank, code in enumerate(died) if code is not None and code < 0]
    orders = [(text, kind, order) for kind, text, _, order in (pickle.loads(p.read_bytes()) for p in told) if order]
    if orders:  # who gives one can take others with it
        text, kind, order = orders[0]
        return Restart(text, kind=kind, **order)
    texts = [pickle.loads(path.read_bytes())[1] for path in told]
    if memory_was_full and (-signal.SIGKILL in died or any(WORKER_KILLED in text for text in texts)):
        most = cgroups.limit_mb()
        limit = f"all {most} MB" if most is not None else "all"
        error: VibenchError = HostMemoryError(
            f"the kernel killed a process of the run: {limit} of the host's memory was taken; ask for more by "
            "hardware.slurm.mem_mb, or use fewer data.workers"
        )
    elif killed:
        number = signal.Signals(-died[killed[0]]).name
        who = "the process of the run" if len(died) == 1 else f"the process of rank {killed[0]}"
        others = ", the others were ended" if len(died) > 1 else ""
        error = RankError(f"{who} was killed by {number}{others}")
    elif told:
        kind, text, started, _ = pickle.loads(told[0].read_bytes())
        error = RankError(text if told[0].name == "error0" else f"rank {told[0].name.removeprefix('error')}: {text}")
        error.kind, error.started = kind, started
        return error
    else:
        error = RankError(f"a process ended without a word; see {run_dir}/rank*.log")
    error.started = True
    return error
