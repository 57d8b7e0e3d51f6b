"""The state of one run on disk. Only evidence makes a run complete; silence never does."""

import errno
import fcntl
import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vibench.errors import ConfigError, OutputError, UnprovenError, VibenchError, is_out_of_memory
from vibench.signals import TRY_AGAIN, Stopped

log = logging.getLogger("vibench")
LAST_LINES = 12
ROOM = 4096  # bytes, a block of most file systems
KEYS = {"state", "host", "pid", "process_started"}
LOCK = ".lock"


def write_json(path: Path, content: dict[str, Any], *, whole: bool = False) -> None:
    """Write so that a reader sees the old file or the new one, never half of it.

    On a full disk there is no room for a new file beside the old one; then the old one is overwritten in the blocks
    it has, which is why it is padded.

    Args:
        whole: or not at all.
    """
    text = _padded(content)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if whole or not path.is_file():
            raise
        room = max(path.stat().st_size, ROOM)
        for heavy in ("last_lines", "attempts", "events", "results", "split"):  # as much of it as there is room for
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
def recorded(run_dir: Path, facts: dict[str, Any], *, take_over: bool = False) -> Iterator[Callable[..., None]]:
    """Record a run in ``run_dir/status.json``: running, then completed, failed, cancelled or preempted.

    ``with recorded(run_dir, facts) as prove``: the body has to call ``prove`` with the verified results. Leaving it
    without having done so is a failure, also when no exception was raised. The exception goes on to the caller, so
    the process, and with it SLURM, ends in failure too. A process that is killed leaves ``running`` behind, which
    ``read_status`` turns into ``lost`` once there is no such process any more. What earlier attempts in the same
    directory came to is kept under ``attempts``, what happened in them under ``events``.

    Args:
        facts: what else the status says from the beginning.
        take_over: a run that another machine is at on paper is not: that machine is down.

    Raises:
        ConfigError: the directory holds a run that is completed, or another process is at it.
    """
    path = run_dir / "status.json"
    with _claimed(run_dir, take_over) as before:
        attempts = _attempts(before)
        status = {"state": "running"} | facts | own_process() | {"started": time.time()}
        status["slurm_job"] = os.environ.get("SLURM_JOB_ID")
        status |= {"attempts": attempts, "events": before.get("events", [])}
        write_json(path, status)
        proof: dict[str, Any] = {}
        try:
            yield proof.update
            if not proof:
                raise UnprovenError("the run ended without verified results")
            _complete(path, status | proof)
        except BaseException as error:
            ended = {"events": events_of(run_dir), "finished": time.time()}
            try:
                write_json(path, status | verdict_of(error) | ended)
            except OSError as full:
                log.error(f"{path} cannot be written: {full.strerror}; it says running, and will be read as lost")
            raise


def _attempts(before: dict[str, Any]) -> list[dict[str, Any]]:
    """What attempts came to, with the last one."""
    attempts = before.get("attempts", [])
    if "started" not in before:
        return attempts
    told = ("state", "kind", "error", "started", "finished", "host")
    return [*attempts, {key: before[key] for key in told if key in before}]


def _complete(path: Path, status: dict[str, Any]) -> None:
    """
    Raises:
        OutputError: the result cannot be recorded, so it is none.
    """
    ended = {"state": "completed", "events": events_of(path.parent), "finished": time.time()}
    try:
        write_json(path, status | ended, whole=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}, so the result is not recorded; make room, then "
            f"vibench-resume {path.parent}"
        ) from error


def note(run_dir: Path, event: dict[str, Any]) -> None:
    """Add an event to the status of a run: its kind, the optimizer step, a text, and what is done otherwise since."""
    path = run_dir / "status.json"
    try:
        status = json.loads(path.read_text())
        write_json(path, status | {"events": [*status.get("events", []), {"time": time.time()} | event]})
    except (OSError, ValueError) as error:
        log.warning(f"not noted in {path} ({error}): {event['text']}")


def amend(run_dir: Path, **told: Any) -> None:
    """Say more of a run that has ended, by who knows it only then."""
    path = run_dir / "status.json"
    try:
        write_json(path, json.loads(path.read_text()) | told)
    except (OSError, ValueError) as error:
        log.warning(f"not written to {path} ({error}): {told}")


def promise(run_dir: Path, facts: dict[str, Any], *, alive: int | None) -> None:
    """Say of a run that it is submitted; what an attempt before said is kept.

    Args:
        alive: process that will begin it; None where a cluster will.
    """
    path = run_dir / "status.json"
    before = read_status(run_dir) if path.exists() else {}
    status = {"attempts": _attempts(before), "events": before.get("events", [])} | facts
    status |= {"state": "submitted", "host": socket.gethostname(), "pid": alive, "slurm_job": None}
    write_json(path, status | {"process_started": alive and _process_start(alive)})


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    """What happened to a run so far, oldest first."""
    try:
        return json.loads((run_dir / "status.json").read_text()).get("events", [])
    except (OSError, ValueError, AttributeError):
        return []


FORGOTTEN: dict[str, Any] = {  # what a run that begins anew has found out of levers, rates and NaNs
    "micro_batch": "auto",
    "checkpointing": "auto",
    "optimizer_state": "auto",
    "lr_scale": 1.0,
    "nans": 0,
}


def changes_of(run_dir: Path) -> dict[str, Any]:
    """What events have changed for the rest of the run, the last word of each: micro_batch, lr_scale, ..."""
    changes: dict[str, Any] = {}
    for event in events_of(run_dir):
        changes |= event.get("changes", {})
    return changes


@contextmanager
def _claimed(run_dir: Path, take_over: bool) -> Iterator[dict[str, Any]]:
    """Be the only process at a run, until the end of this one; what the status said before, empty for a new run.

    The lock is the kernel's, so that no kill leaves it behind; it is not inherited by processes that load data.

    Raises:
        ConfigError: another process is at it, or the run is completed.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError(
                    [f"hydra.run.dir={run_dir} holds a run that another process is at; name another directory"]
                ) from None
            log.warning(f"{run_dir} cannot be locked ({error.strerror}): nothing may be started there a second time")
        yield _before(run_dir, take_over)


def _before(run_dir: Path, take_over: bool) -> dict[str, Any]:
    if not (run_dir / "status.json").exists():
        return {}
    before = read_status(run_dir)
    elsewhere = before["state"] == "running" and before["host"] != socket.gethostname()
    requeued = before.get("slurm_job") is not None and before["slurm_job"] == os.environ.get("SLURM_JOB_ID")
    if elsewhere and (take_over or requeued):
        return before | {"state": "lost"}
    if before["state"] in ("completed", "running"):
        where = f" on {before['host']}" if elsewhere else ""
        down = f", or vibench-resume {run_dir} --take-over if that machine is down" if elsewhere else ""
        raise ConfigError(
            [f"hydra.run.dir={run_dir} already holds a run ({before['state']}{where}); name another directory{down}"]
        )
    return before


def own_process() -> dict[str, Any]:
    """What a process is known by, also where its id is used again."""
    pid = os.getpid()
    return {"pid": pid, "process_started": _process_start(pid), "host": socket.gethostname()}


def is_alive(process: dict[str, Any]) -> bool:
    """Whether it is a process of this machine that still runs."""
    here = process.get("host") == socket.gethostname() and process.get("pid") is not None
    return here and _process_start(process["pid"]) == process["process_started"]


def _process_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: with the pid, the name of a process. None where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def is_own(run_dir: Path) -> bool:
    """Whether the status of a run was written by this process."""
    status, own = read_status(run_dir), own_process()
    return own == {key: status.get(key) for key in own}


def verdict_of(error: BaseException) -> dict[str, Any]:
    """State, kind and error of a run that ended by an exception."""
    if isinstance(error, Stopped):
        return {"state": "preempted" if error.code == TRY_AGAIN else "cancelled", "error": str(error)}
    if isinstance(error, KeyboardInterrupt):
        return {"state": "cancelled", "error": "interrupted"}
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
    return "MEMORY" if is_out_of_memory(error) else "CRASH"


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
    if status["host"] != socket.gethostname() or status["pid"] is None:
        return status
    gone = _process_start(status["pid"]) != status["process_started"]
    if status["state"] == "submitted" and gone:
        return status | {"state": "planned", "error": "its sweep ended before it was begun"}
    if status["state"] == "running" and gone:
        said = f"process {status['pid']} is gone and said nothing; vibench-resume {run_dir} goes on"
        return status | {"state": "lost", "error": said}
    return status
