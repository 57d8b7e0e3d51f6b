"""A sweep on disk: which jobs there are, what each varies, where it runs. Written before anything is waited for."""

import errno
import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vibench.errors import ConfigError
from vibench.report.status import own_process, write_json

log = logging.getLogger("vibench")
FILE = "manifest.json"


@contextmanager
def claimed(folder: Path, *, wait: bool) -> Iterator[None]:
    """Be the only process that submits jobs of a sweep; the kernel gives the lock back.

    Raises:
        ConfigError: another process does, and it is not to be waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise ConfigError([f"another process submits jobs of {folder}; wait for it, or end it"]) from None
            log.warning(f"{folder} cannot be locked ({error.strerror}): no other process may submit its jobs")
        yield


@dataclass(kw_only=True, slots=True)
class Job:
    """One run of a sweep.

    Attributes:
        name: what it varies.
        overrides: all of them, as typed.
        folder: of the run, relative to the sweep's.
        hardware: by name.
        config_hash: of the frozen config; None where it could not be composed.
        refused: why it was not submitted; empty if it was.
        same_as: another run of the same config, whose result is this one's.
    """

    number: int
    name: str
    overrides: list[str]
    folder: str
    hardware: str = ""
    config_hash: str | None = None
    refused: list[str] = field(default_factory=list)
    same_as: str | None = None


@dataclass(kw_only=True, slots=True)
class Sweep:
    """
    Attributes:
        launcher: its name and options, as composed.
        config_dir: where else files were chosen from.
        config_name: of the user's own primary config; None for that of vibench.
        search: its jobs are asked for one after the other.
        parent: process that begins its jobs, or asks for the next ones; None where nobody has to.
    """

    folder: Path
    launcher: dict[str, Any]
    jobs: list[Job]
    config_dir: str | None = None
    config_name: str | None = None
    search: bool = False
    parent: dict[str, Any] | None = None

    @property
    def on_slurm(self) -> bool:
        return self.launcher.get("name") == "slurm"

    def claim(self) -> None:
        """This process is the one that begins its jobs."""
        self.parent = own_process()

    def run_dir(self, job: Job) -> Path:
        return self.folder / job.folder

    def write(self) -> None:
        content = asdict(self) | {"folder": str(self.folder.absolute())}
        write_json(self.folder / FILE, content, whole=True)

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        """
        Raises:
            ConfigError: there is none, or it cannot be read.
        """
        path = folder / FILE
        try:
            content = json.loads(path.read_text())
            if not isinstance(content, dict):
                raise ValueError("it is no manifest of a sweep")
            jobs = [Job(**job) for job in content.pop("jobs")]
            return cls(**content | {"jobs": jobs, "folder": folder})
        except FileNotFoundError:
            raise ConfigError([f"{folder} holds no sweep: there is no {FILE}; name the directory of one"]) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError([f"{path} cannot be read: {error}"]) from error
