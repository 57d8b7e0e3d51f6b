"""Processes of the test cluster, as /proc tells them. None is believed to be ours for its number alone."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def name_of(pid: int) -> str:
    return _read(pid, "comm").decode().strip()


def environment_of(pid: int) -> dict[str, str]:
    """With which it was started; nothing if it is over."""
    pairs = _read(pid, "environ").decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def running(pid_file: Path, name: str, conf: Path) -> int | None:
    """Process that a daemon wrote into its file, unless that is over and the number free or another's."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    return pid if name_of(pid) == name and environment_of(pid).get("SLURM_CONF") == str(conf) else None


def family(pid: int | None) -> set[int]:
    """It and what it started; nothing for None."""
    return set() if pid is None else _with_descendants({pid})


def on_node(name: str, conf: Path, log: Path) -> set[int]:
    """What jobs run on a node: the managers of their steps, which have its log open, and all that those started."""
    managers = {pid for pid in _all() if name_of(pid) == "slurmstepd" and _has_open(pid, log)}
    return _with_descendants(managers) | {pid for pid in _all() if _was_started_on(pid, name, conf)}


def of(conf: Path) -> set[int]:
    """Whatever was started for a cluster: daemons, jobs, and commands that ask it something."""
    return {pid for pid in _all() if environment_of(pid).get("SLURM_CONF") == str(conf)}


def kill(find: Callable[[], Iterable[int]], *, seconds: float = 10) -> None:
    """Until nothing that lives is found: a process may start others until it is dead.

    Raises:
        TimeoutError: some do not die.
    """
    end = time.monotonic() + seconds
    while found := {pid for pid in find() if _lives(pid)}:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise TimeoutError(f"processes that do not die in {seconds} s: {', '.join(map(str, sorted(found)))}")
        time.sleep(0.02)


def _read(pid: int, file: str) -> bytes:
    try:
        return (PROC / str(pid) / file).read_bytes()
    except OSError:
        return b""


def _all() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdecimal()]


def _was_started_on(pid: int, name: str, conf: Path) -> bool:
    environment = environment_of(pid)
    return environment.get("SLURMD_NODENAME") == name and environment.get("SLURM_CONF") == str(conf)


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(os.readlink(link) == str(path) for link in (PROC / str(pid) / "fd").iterdir())
    except OSError:  # it ended meanwhile
        return False


def _with_descendants(pids: set[int]) -> set[int]:
    parents = {pid: _parent(pid) for pid in _all()}
    found, last = set(pids), set()
    while found != last:
        last = found
        found = last | {pid for pid, parent in parents.items() if parent in last}
    return found


def _lives(pid: int) -> bool:
    """And does not only wait for somebody to ask how it ended."""
    return _status(pid)[0] not in ("Z", "X")


def _parent(pid: int) -> int:
    return int(_status(pid)[1])


def _status(pid: int) -> list[str]:
    """State, parent and more; the state is X if there is no such process."""
    return _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split() or ["X", "0"]
