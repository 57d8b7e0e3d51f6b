"""The state of one run on disk. Only evidence makes a run complete; silence never does."""

import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vibench.errors import ConfigError, UnprovenError, VibenchError

LAST_LINES = 12
ROOM = 4096  # bytes, a block of most file systems
KEYS = {"state", "host", "pid", "process_started"}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive", "alloc_failed")


class Stopped(SystemExit):
    """Ctrl-C or SIGTERM: not a failure of the run, and never swallowed as an Exception. The exit status is the shell's.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write so that a reader sees the old file or the new one, never half of it.

    On a full disk there is no room for a new file beside the old one; then the old one is overwritten in the blocks
    it has, which is why it is padded.
    """
    text = _padded(content)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        if not path.is_file():
            raise
        room = max(path.stat().st_size, ROOM)
        for heavy in ("last_lines", "results", "split"):  # as much of it as there is room for
            if len(text.encode()) > room:
                content = {key: value for key, value in content.items() if key != heavy}
                text = _padded(content)
        with path.open("r+") as file:
            file.write(text)
            file.truncate()


def _padded(content: dict[str, Any]) -> str:
    """JSON of at least ``ROOM`` bytes."""
    return json.dumps(content, indent=2, allow_nan=False).ljust(ROOM - 1) + "\n"


@contextmanager
def recorded(run_dir: Path, facts: dict[str, Any]) -> Iterator[Callable[..., None]]:
    """Record a run in ``run_dir/status.json``: running, then completed, failed or cancelled.

    ``with recorded(run_dir, facts) as prove``: the body has to call ``prove`` with the verified results. Leaving it
    without having done so is a failure, also when no exception was raised. The exception goes on to the caller, so
    the process, and with it SLURM, ends in failure too. A process that is killed leaves ``running`` behind, which
    ``read_status`` turns into ``lost`` once there is no such process any more.

    Raises:
        ConfigError: the directory already holds a run.
    """
    path = run_dir / "status.json"
    _claim(path)
    status = {"state": "running"} | facts | _process() | {"started": time.time()}
    write_json(path, status)
    proof: dict[str, Any] = {}
    try:
        yield proof.update
        if not proof:
            raise UnprovenError("the run ended without verified results")
    except BaseException as error:
        write_json(path, status | _verdict(error) | {"finished": time.time()})
        raise
    write_json(path, status | proof | {"state": "completed", "finished": time.time()})


def _claim(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        state = read_status(path.parent)["state"]
        raise ConfigError(
            [f"hydra.run.dir={path.parent} already holds a run ({state}); name another directory"]
        ) from None


def _process() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "pid": pid,
        "process_started": _process_start(pid),
        "host": socket.gethostname(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _process_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: with the pid, the name of a process. None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _verdict(error: BaseException) -> dict[str, Any]:
    if isinstance(error, (Stopped, KeyboardInterrupt)):
        return {"state": "cancelled", "error": str(error) or "interrupted"}
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    said = f"{error}" if isinstance(error, VibenchError) else f"{type(error).__name__}: {error}"
    return {
        "state": "failed",
        "kind": kind_of(error),
        "error": said[:1000],
        "last_lines": [line[:200] for line in lines[-LAST_LINES:]],
    }


def kind_of(error: BaseException) -> str:
    """What the verdicts call a failure."""
    if isinstance(error, VibenchError):
        return error.kind
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or "outofmemory" in text or any(mark in text for mark in OUT_OF_MEMORY):
        return "MEMORY"
    return "CRASH"


def read_status(run_dir: Path) -> dict[str, Any]:
    """The status of a run as it is: ``running`` without its process is ``lost``.

    A run of another host is taken at its word; ``state`` is ``unknown`` where the file is unreadable, and ``planned``
    where a sweep or Hydra has promised a run that never said anything.
    """
    if not (run_dir / "status.json").exists():
        return {"state": "planned", "error": "it was never begun, or stopped before it could say so"}
    try:
        status = json.loads((run_dir / "status.json").read_text())
        if not isinstance(status, dict) or not set(status) >= KEYS:
            raise ValueError("it is no status of a run")
    except (OSError, ValueError) as error:
        return {"state": "unknown", "error": f"{run_dir / 'status.json'} cannot be read: {error}"}
    here = status["host"] == socket.gethostname()
    if status["state"] == "running" and here and _process_start(status["pid"]) != status["process_started"]:
        return status | {"state": "lost", "error": f"process {status['pid']} is gone and said nothing"}
    return status
