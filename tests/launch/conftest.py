"""What tests of sweeps share: jobs that are composed, a cache of one's own, and a command in a copy of this process."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

import vibench.memory.planner  # noqa: F401  torch, which the copies have then
from tests.conftest import TINY
from vibench.launch.here import Here
from vibench.launch.preflight import Checked
from vibench.launch.preflight import composed as checked
from vibench.launch.sweep import Job, Sweep

QUICK = (  # a task on two linear layers, two steps: little to trace and to train
    *(text for text in TINY if not text.startswith(("task.", "training.warmup"))),
    "training.warmup_steps=0",
    "training.max_steps=2",
    "task=classification",
    "backbone=dlinear",
    "backbone.moving_average=3",
)
LOCAL = {"name": "local", "jobs": None, "skip_refused": False, "on_duplicate": "allow"}


@pytest.fixture
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user's cache in which no run is, but the simulated signals are."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for store in cache.glob("demo-*.h5"):
        (folder / store.name).symlink_to(store)
    monkeypatch.setenv("VIBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def jobs(composed: Callable[..., DictConfig]) -> Callable[..., list[Checked]]:
    """The jobs of a sweep, each by what it varies: ``jobs("seed=0", "seed=1 d_model=32")``."""

    def call(*lines: str, base: tuple[str, ...] = QUICK, config_dir: str | None = None) -> list[Checked]:
        every = [
            Job(number=n, name=line, overrides=[*base, *line.split()], folder=str(n)) for n, line in enumerate(lines)
        ]
        return [checked(job, config_dir) for job in every]

    return call


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """A sweep of jobs that are checked, written down."""

    def call(jobs: list[Checked], name: str = "sweep", **launcher: Any) -> Sweep:
        (tmp_path / name).mkdir(exist_ok=True)
        made = Sweep(folder=tmp_path / name, launcher=LOCAL | launcher, jobs=[one.job for one in jobs])
        made.write()
        return made

    return call


@pytest.fixture
def here() -> Iterator[Callable[..., Here]]:
    """This machine as a place; what still runs there at the end is ended."""
    places: list[Here] = []

    def call(jobs: int | None = None) -> Here:
        places.append(Here(jobs))
        return places[-1]

    yield call
    for place in places:
        for process, _, _ in place._running.values():
            process.kill()
            process.wait()


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Commands of SLURM that print a text (None: fail), to see what is made of it where there is no SLURM.

    What they were asked is written, a line each, into the file that is returned.
    """
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def call(**texts: str | None) -> Path:
        for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
            text = texts.get(name, "")
            end = f"cat <<'END'\n{text}END\n" if text is not None else "echo it is down >&2\nexit 1\n"
            (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/asked\n{end}')
            (folder / name).chmod(0o755)
        (folder / "asked").write_text("")
        return folder / "asked"

    return call


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def command(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """Run a command of vibench in a copy of this process: ``command("train", "-m", "seed=1,2", cwd=folder)``.

    It has loaded torch already, which takes seconds; jobs that it begins are processes as always.
    """

    def call(name: str, *arguments: str, cwd: Path) -> Done:
        out = tmp_path_factory.mktemp("said")
        if not (pid := os.fork()):
            _become(name, arguments, cwd, out)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return Done(code, (out / "stdout").read_text(), (out / "stderr").read_text())

    return call


def _become(name: str, arguments: tuple[str, ...], cwd: Path, out: Path) -> None:
    """Be the process of a command, and end."""
    code: Any = 1
    try:
        import logging

        logging.getLogger().handlers.clear()  # of pytest
        os.chdir(cwd)
        for number, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(out / stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            setattr(sys, stream, open(number, "w", closefd=False))  # noqa: SIM115
        sys.argv = [f"vibench-{name}", *arguments]
        import_module(f"vibench.cli.{name}").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
