"""One process per device, of one run. What starts them watches them: if one dies, all end, and it is said why.

Imports no torch: the processes do.
"""

import logging
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from vibench.config.experiment import ExperimentConfig
from vibench.errors import Restart, VibenchError
from vibench.report.status import kind_of
from vibench.signals import Stopped, deferred, heeded

GRACE_S = 5  # seconds to end before a process is killed
LAST_STEP_S = (
    600  # seconds for the step that a stopped run is in, and its checkpoint; a second signal is not so patient
)
EVERY_S = 0.1
STOPPED = 75  # exit status of a process that did what a signal asked for
LINE = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # as Hydra writes it


class RankError(VibenchError):
    """One of the processes of a run failed. Its kind is that of what was raised there."""


def train_in_processes(config: ExperimentConfig, run_dir: Path) -> dict[str, Any]:
    """Train with as many processes as the hardware has cards; what the first of them has to show.

    Raises:
        RankError: one of them failed or was killed; the others have been ended.
        Restart: one of them asks for it.
        Stopped: by a signal, which they were told and had time to save after.
    """
    with tempfile.TemporaryDirectory(prefix="vibench-") as folder:
        meeting = Path(folder)  # on this machine's own disk, where they meet and leave what they found
        running = [_start(config, run_dir, meeting, rank) for rank in range(config.hardware.gpus)]
        try:
            _wait(running)
        except Stopped as stopped:
            for process in running:
                process.send_signal(stopped.number)
            _wait(running, LAST_STEP_S)
            if all(process.poll() in (0, STOPPED) for process in running):
                raise  # saved, all of them
        finally:
            died = [process.poll() for process in running]  # before the others are ended
            _end(running)
        if any(died) and all(code in (0, STOPPED) for code in died):
            raise Stopped(signal.SIGTERM)  # they were told, and not by this process
        if any(died) or not (meeting / "result").exists():
            raise _failure(died, meeting, run_dir)
        return pickle.loads((meeting / "result").read_bytes())


def _wait(running: "list[subprocess.Popen[bytes]]", seconds: float = math.inf) -> None:
    """Until all have ended, or one has failed. One that was stopped has not: the first may still be saving."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        if any(process.poll() not in (None, 0, STOPPED) for process in running):
            return
        time.sleep(EVERY_S)


def _start(config: ExperimentConfig, run_dir: Path, meeting: Path, rank: int) -> "subprocess.Popen[bytes]":
    """A process of its own session, so that Ctrl-C reaches this one alone; it ends with this one's pipe."""
    log = None if rank == 0 else (run_dir / f"rank{rank}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.path.pop(0); from vibench.processes import main; main()"],
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


def _failure(died: list[int | None], meeting: Path, run_dir: Path) -> VibenchError:
    """What was raised first; the others fail after it, since they wait for a process that is gone."""
    told = sorted(meeting.glob("error*"), key=lambda path: path.stat().st_mtime_ns)
    killed = [rank for rank, code in enumerate(died) if code is not None and code < 0]
    orders = [(text, kind, order) for kind, text, _, order in (pickle.loads(p.read_bytes()) for p in told) if order]
    if orders:  # who gives one can take others with it
        text, kind, order = orders[0]
        return Restart(text, kind=kind, **order)
    if killed:
        number = signal.Signals(-died[killed[0]]).name
        error = RankError(f"the process of rank {killed[0]} was killed by {number}, the others were ended")
    elif told:
        kind, text, started, _ = pickle.loads(told[0].read_bytes())
        error = RankError(text if told[0].name == "error0" else f"rank {told[0].name.removeprefix('error')}: {text}")
        error.kind, error.started = kind, started
        return error
    else:
        error = RankError(f"a process ended without a word; see {run_dir}/rank*.log")
    error.started = True
    return error


def main() -> None:
    """One rank: read what to do from the standard input, do it, leave the result where all meet."""
    config, run_dir, meeting, rank, sys.argv, files = pickle.load(sys.stdin.buffer)
    handlers = [logging.StreamHandler(sys.stdout), *(logging.FileHandler(name) for name in files if rank == 0)]
    logging.basicConfig(level=logging.INFO, format=LINE, handlers=handlers)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with heeded():
            result = _train(config, run_dir, meeting, rank)
    except BaseException as error:
        order = {"changes": error.changes, "step": error.step} if isinstance(error, Restart) else None
        _leave(meeting / f"error{rank}", (kind_of(error), _text(error), getattr(error, "started", True), order))
        if not isinstance(error, (VibenchError, Stopped)):
            traceback.print_exc()
        _exit(STOPPED if isinstance(error, Stopped) else 1)
    if rank == 0:
        _leave(meeting / "result", result)
    _exit(0)


def _exit(code: int) -> None:
    """At once: what libraries do at their end can wait for ranks that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the pipe is closed
    os._exit(1)


def _train(config: ExperimentConfig, run_dir: Path, meeting: Path, rank: int) -> dict[str, Any]:
    with deferred("what is being imported comes first"):
        import torch
        import torch.distributed as dist

        from vibench.config.hardware import Device
        from vibench.experiment import train_and_prove

    gpu = config.hardware.device is not Device.cpu and torch.cuda.is_available()
    if gpu and rank < torch.cuda.device_count():
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=f"file://{meeting}/ranks",
        rank=rank,
        world_size=config.hardware.gpus,
    )
    return train_and_prove(config, run_dir)


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, (VibenchError, Stopped)) else f"{type(error).__name__}: {error}"


def _leave(path: Path, content: Any) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(pickle.dumps(content))
    unfinished.replace(path)
