"""Hydra's view of it: a launcher that is handed the overrides of all jobs (https://hydra.cc/docs/advanced/plugins)."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from vibench.config.launcher import SCHEMAS as LAUNCHERS
from vibench.config.plain import plain
from vibench.config.setting import complaints_about
from vibench.config.sweeper import SCHEMAS as SWEEPERS
from vibench.errors import ConfigError
from vibench.launch.launch import launch
from vibench.launch.preflight import Checked, composed
from vibench.launch.search import Search
from vibench.launch.sweep import Job

NUMBERED = "${hydra.job.num}"


def prepared(
    context: HydraContext, master: DictConfig, overrides: Sequence[Sequence[str]], first: int
) -> list[Checked]:
    """Compose every job; what each varies is its name."""
    common = set(overrides[0]).intersection(*overrides[1:])
    found = []
    for number, own in enumerate(overrides, first):
        folder = _folder(context, master, own, number)
        name = " ".join(text for text in own if text not in common) or f"job {number}"
        found.append(composed(Job(number=number, name=name, overrides=list(own), folder=folder), config_dir_of(master)))
    return found


def _folder(context: HydraContext, master: DictConfig, overrides: Sequence[str], number: int) -> str:
    """``hydra.sweep.subdir`` of a job; composed for it only where it is not its number."""
    if OmegaConf.to_container(master.hydra.sweep, resolve=False)["subdir"] == NUMBERED:
        return str(number)
    cfg = context.config_loader.load_sweep_config(master, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    return str(cfg.hydra.sweep.subdir)


def config_dir_of(master: DictConfig) -> str | None:
    """The folder of ``--config-dir``."""
    for source in master.hydra.runtime.config_sources:
        if source.provider == "command-line":
            return str(source.path)
    return None


def search(master: DictConfig, options: dict[str, Any], arguments: Sequence[str]) -> None:
    """Run a search, or go on with it.

    Raises:
        VibenchError, Stopped: as ``Search``.
    """
    launcher = OmegaConf.to_container(master.hydra.launcher, resolve=True)
    assert isinstance(launcher, dict)
    launcher = {str(key): value for key, value in launcher.items() if key != "_target_"}
    checked(launcher, "launcher", LAUNCHERS[launcher["name"]])
    checked(options, "sweeper", SWEEPERS["optuna"])
    folder = Path(master.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    Search(folder, plain(launcher), plain(options), arguments, config_dir_of(master)).run()


def checked(options: dict[str, Any], node: str, schema: type) -> None:
    """
    Raises:
        ConfigError: with every value that is out of range.
    """
    known = {field.name: field.metadata for field in fields(schema)}
    complaints = [
        text for key, value in options.items() for text in complaints_about(f"hydra.{node}.{key}", value, known[key])
    ]
    if complaints:
        raise ConfigError(complaints)


def run(
    context: HydraContext,
    master: DictConfig,
    launcher: dict[str, Any],
    overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Launch the jobs of a sweep and wait for them; one return per job, whose value is its status.

    Raises:
        RefusedError, SweepError, Stopped, ConfigError: as ``launch``.
    """
    checked(launcher, "launcher", LAUNCHERS[launcher["name"]])
    jobs = prepared(context, master, overrides, first)
    folder = Path(master.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    found = launch(folder, plain(launcher), jobs, config_dir_of(master))
    returns = []
    for one in jobs:
        done = JobReturn()
        done.overrides, done.working_dir = one.job.overrides, str(folder / one.job.folder)
        done.status, done.return_value = JobStatus.COMPLETED, found[one.job.number].status if found else None
        returns.append(done)
    return returns
