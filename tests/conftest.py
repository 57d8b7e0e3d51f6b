"""What tests share: composing a config in process, a tiny demo data set, and where things are."""

import copy
import gc
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache as cache_calls
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: a second thread only waits, here and in our processes

import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict

from vibench.cgroups import GROUPS as CONTROL_GROUPS
from vibench.config import schemas
from vibench.config.describe import GROUPS
from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import SlurmConfig
from vibench.config.resolve import resolve

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
TINY = (
    "hardware=cpu",
    "data.window=256",
    "data.stride=256",
    "data.duration_s=0.1",
    "data.bearings_per_class=3",
    "data.conditions=1",
    "data.lives=6",
    "data.snapshots_per_life=4",
    "task.signal_prediction.horizon=32",
    "d_model=16",
    "training.epochs=1",
    "training.warmup_steps=1",
)


def slurm(**values: Any) -> SlurmConfig:
    """What ``conf/hardware/cpu.yaml`` asks of SLURM, with other values."""
    return SlurmConfig(**_shipped_slurm() | values)


@cache_calls
def _shipped_slurm() -> dict[str, Any]:
    return yaml.safe_load((CONF / "hardware" / "cpu.yaml").read_text())["slurm"]


def real_data(name: str) -> Path:
    """Folder of measured data, named by VIBENCH_REAL_DATA or beside the checkout; skips where it is absent."""
    folder = Path(os.environ.get("VIBENCH_REAL_DATA", ROOT.parent / "shared" / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"measured {name} data is not at {folder}; set VIBENCH_REAL_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated stores of the whole session, in processes of the tests too."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["VIBENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def composed(cache: Path) -> Callable[..., DictConfig]:
    """Compose the shipped config with overrides, as Hydra does."""
    schemas.register()

    def call(*overrides: str) -> DictConfig:
        with initialize_config_module("vibench.conf", version_base="1.3"):
            return compose("train", list(overrides))

    return call


@pytest.fixture(scope="session")
def resolved(composed: Callable[..., DictConfig]) -> Callable[..., ExperimentConfig]:
    """Compose and check. Hydra composes the groups, once for each choice of them; the values are put in after it."""
    base = cache_calls(composed)

    def call(*overrides: str) -> ExperimentConfig:
        choices = tuple(text for text in overrides if text.startswith("+") or text.split("=")[0] in GROUPS)
        cfg = copy.deepcopy(base(*choices))
        for text in overrides:
            key, _, value = text.partition("=")
            if not key.startswith("~") and text not in choices:
                OmegaConf.update(cfg, key, yaml.safe_load(value))
        for text in overrides:
            if text.startswith("~"):
                parent, _, key = text[1:].rpartition(".")
                with open_dict(cfg):
                    del OmegaConf.select(cfg, parent)[key]
        return resolve(cfg)

    return call


@pytest.fixture(scope="session")
def tiny(resolved: Callable[..., ExperimentConfig]) -> Callable[..., ExperimentConfig]:
    """An experiment that trains in about a second, with overrides."""
    return lambda *overrides: resolved(*TINY, *overrides)


@pytest.fixture
def vibench(cache: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command of vibench in a process of its own, in an empty folder: ``vibench("train", "seed=1")``."""

    def call(command: str, *arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
        code = f"from vibench.cli.{command} import main; main()"
        kwargs.setdefault("cwd", tmp_path)
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False, **kwargs
        )

    return call


@pytest.fixture
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user's cache in which no run has left a line; the simulated signals are there."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for store in cache.glob("demo-*.h5"):
        (folder / store.name).symlink_to(store)
    monkeypatch.setenv("VIBENCH_CACHE", str(folder))
    return folder


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

    import_module("vibench.memory.planner")  # with torch

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
        gc.freeze()  # or a collection would copy all that the test's process has
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Write the files of this process's control group, or of the one above all, as the kernel does; in GiB."""

    def call(version: int, *, most: float | str, used: float = 0, cached: float = 0, above: bool = False) -> Path:
        mark, _, *names = CONTROL_GROUPS[version]
        own = [line.split(mark)[1] for line in Path("/proc/self/cgroup").read_text().splitlines() if mark in line]
        if not own:
            pytest.skip(f"this machine has no control groups of version {version}")
        folder = tmp_path if above else tmp_path / own[0].lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / names[0]).write_text(f"{most if isinstance(most, str) else round(most * 2**30)}\n")
        (folder / names[1]).write_text(f"{round(used * 2**30)}\n")
        (folder / "memory.stat").write_text(f"anon 17\n{names[2]} {round(cached * 2**30)}\nshmem 0\n")
        monkeypatch.setitem(CONTROL_GROUPS, version, (mark, str(tmp_path), *names))
        return folder

    return call


@pytest.fixture
def slurm_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
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
