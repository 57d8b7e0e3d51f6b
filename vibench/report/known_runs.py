"""Which runs there are of a config: an index in the cache, by the hash of what was composed."""

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger("vibench")
FILES = (("data", "store"), ("training", "init_from"))  # keys that name them


def hash_of(config: dict[str, Any]) -> str:
    """Of a config in plain types, the files that it names, and the version of vibench; no code of the user's own.

    A file is its whole path, its size and when it was written, so other data under a name are others.
    """
    files = [_identity(config.get(group, {}).get(key)) for group, key in FILES]
    text = json.dumps([importlib.metadata.version("vibench"), config, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(path: Any) -> list[Any]:
    """Of the file or folder that a key names."""
    if not isinstance(path, str):
        return []
    try:
        known = os.stat(path)
    except OSError:
        return [os.path.abspath(path)]
    return [os.path.abspath(path), known.st_size, known.st_mtime_ns]


def _folder() -> Path:
    return Path(os.environ.get("VIBENCH_CACHE", "~/.cache/vibench")).expanduser() / "runs"


@contextmanager
def locked() -> Iterator[None]:
    """Between looking for a run and submitting it nobody else may do the same; the kernel gives the lock back."""
    _folder().mkdir(parents=True, exist_ok=True)
    with (_folder() / ".lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                log.info(f"another sweep is being submitted: waiting for {_folder() / '.lock'}")
                fcntl.lockf(lock, fcntl.LOCK_EX)
            else:
                log.warning(f"{_folder()} cannot be locked ({error.strerror}): submit one sweep at a time")
        yield


def remember(config_hash: str, run_dir: Path) -> None:
    """Add a run. That it cannot be added is no reason not to run it."""
    with suppress(OSError):
        _folder().mkdir(parents=True, exist_ok=True)
        with (_folder() / config_hash).open("a") as file:  # a line is appended as a whole
            file.write(f"{run_dir.absolute()}\n")


def runs_of(config_hash: str) -> list[Path]:
    """Directories of runs with that config that are still there, oldest first."""
    try:
        lines = (_folder() / config_hash).read_text().splitlines()
    except OSError:
        return []
    return [Path(line) for line in dict.fromkeys(lines) if Path(line).is_dir()]
