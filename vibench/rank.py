"""One rank of a run, in a process of its own: it reads what to do from its standard input, and leaves what it found.

Imports no torch before it has to.
"""

import logging
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from vibench.config.experiment import ExperimentConfig
from vibench.errors import Restart, VibenchError
from vibench.report.status import kind_of
from vibench.signals import Stopped, deferred, heeded

STOPPED = 75  # exit status of a process that did what a signal asked for
EVERY_S = 0.1  # between two looks at a file or a process
LINE = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"  # as Hydra writes it


def main() -> None:
    """Do it, and leave the result where all meet."""
    config, run_dir, meeting, rank, sys.argv, files = pickle.load(sys.stdin.buffer)
    handlers = [logging.StreamHandler(sys.stdout), *(logging.FileHandler(name) for name in files if rank == 0)]
    logging.basicConfig(level=logging.INFO, format=LINE, handlers=handlers)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with heeded():
            result = _train(config, run_dir, meeting, rank)
    except BaseException as error:
        order = {"changes": error.changes, "step": error.step} if isinstance(error, Restart) else None
        leave(meeting / f"error{rank}", (kind_of(error), _text(error), getattr(error, "started", True), order))
        if not isinstance(error, (VibenchError, Stopped)):
            traceback.print_exc()
        _exit(STOPPED if isinstance(error, Stopped) else 1)
    if rank == 0:
        leave(meeting / "result", result)
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
    if gpu and rank % config.hardware.gpus < torch.cuda.device_count():
        torch.cuda.set_device(rank % config.hardware.gpus)
    if config.hardware.devices > 1:
        where: dict[str, Any] = {"init_method": f"file://{meeting}/ranks"}
        if config.hardware.nodes > 1:
            where = {"store": _store(meeting, first=rank == 0)}
        dist.init_process_group("nccl" if gpu else "gloo", rank=rank, world_size=config.hardware.devices, **where)
    return train_and_prove(config, run_dir)


def _store(meeting: Path, *, first: bool) -> Any:
    """Where ranks of several machines find each other: the first listens, and says where."""
    import torch.distributed as dist

    if first:
        host = os.environ.get("MASTER_ADDR") or socket.gethostname()
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        leave(meeting / "address", (host, store.port))
        return store
    while not (meeting / "address").exists():
        time.sleep(EVERY_S)
    return dist.TCPStore(*pickle.loads((meeting / "address").read_bytes()), is_master=False)


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, (VibenchError, Stopped)) else f"{type(error).__name__}: {error}"


def leave(path: Path, content: Any) -> None:
    """Write a file that appears as a whole."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(pickle.dumps(content))
    unfinished.replace(path)
