"""Hydra's view of it: what it hands a launcher and a sweeper (https://hydra.cc/docs/advanced/plugins)."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vibench.config.describe import describe
from vibench.config.launcher import SCHEMAS as LAUNCHERS
from vibench.config.plain import plain
from vibench.config.setting import complaints_about
from vibench.config.sweeper import SCHEMAS as SWEEPERS
from vibench.errors import ConfigError
from vibench.launch.launch import SweepError, launch
from vibench.launch.preflight import Checked, Composer, composed, examined
from vibench.launch.search import Search
from vibench.launch.sweep import Job, Sweep

NUMBERED = "${hydra.job.num}"
OURS = ("train", "vibench.conf")  # primary config, and where it lies


def grid(launcher: Launcher, master: DictConfig, arguments: list[str], size: int | None) -> list[Any]:
    """Launch every combination, in parts of that size; what was typed is written to ``multirun.yaml``.

    Raises:
        SweepError: of the last part in which not all jobs were completed, after all parts.
    """
    checked({"max_batch_size": size}, "sweeper", SWEEPERS["grid"])
    folder = Path(master.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(master, folder / "multirun.yaml")
    returns, first, failed = [], 0, None
    for batch in BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(arguments), size):
        try:
            returns.append(launcher.launch(batch, initial_job_idx=first))
        except SweepError as error:
            failed = error
        first += len(batch)
    if failed is not None:
        raise failed
    return returns


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
    checked(launcher, "launcher", _schema(launcher))
    sweep = _sweep(master, plain(launcher))
    compose = _composer(context, master)
    common = set(overrides[0]).intersection(*overrides[1:])
    jobs = []
    for number, own in enumerate(overrides, first):
        name = " ".join(text for text in own if text not in common) or f"job {number}"
        folder = _folder(context, master, own, number)
        jobs.append(compose(Job(number=number, name=name, overrides=list(own), folder=folder)))
    found = launch(sweep, jobs)
    returns = []
    for one in jobs:
        done = JobReturn()
        done.overrides, done.working_dir = one.job.overrides, str(sweep.run_dir(one.job))
        done.status, done.return_value = JobStatus.COMPLETED, found[one.job.number].status if found else None
        returns.append(done)
    return returns


def search(context: HydraContext, master: DictConfig, options: dict[str, Any], arguments: Sequence[str]) -> None:
    """Run a search, or go on with it.

    Raises:
        VibenchError, Stopped: as ``Search``.
    """
    launcher = OmegaConf.to_container(master.hydra.launcher, resolve=True)
    assert isinstance(launcher, dict)
    options_of_it = {str(key): value for key, value in launcher.items() if key != "_target_"}
    checked(options_of_it, "launcher", _schema(options_of_it))
    checked(options, "sweeper", SWEEPERS["optuna"])
    for key in ("detach", "skip_refused"):
        if options_of_it.get(key):
            raise ConfigError(
                [f"hydra.launcher.{key}=true has no meaning in a search, which waits for all; leave it out"]
            )
    sweep = _sweep(master, plain(options_of_it))
    Search(sweep, plain(options), arguments, _composer(context, master)).run()


def checked(options: dict[str, Any], node: str, schema: type) -> None:
    """
    Raises:
        ConfigError: with every value that is out of range.
    """
    known = {field.name: field.metadata for field in fields(schema)}
    complaints = [
        f"hydra.{node}.{key} does not exist; there are {', '.join(known)}" for key in options if key not in known
    ]
    for key in known.keys() & options.keys():
        complaints += complaints_about(f"hydra.{node}.{key}", options[key], known[key])
    if complaints:
        raise ConfigError(complaints)


def _schema(launcher: dict[str, Any]) -> type:
    """
    Raises:
        ConfigError: it is none of vibench's.
    """
    name = launcher.get("name")
    if name not in LAUNCHERS:
        raise ConfigError([f"hydra.launcher.name={name} is no launcher of vibench; use hydra/launcher=local or slurm"])
    return LAUNCHERS[name]


def _sweep(master: DictConfig, launcher: dict[str, Any]) -> Sweep:
    folder = Path(master.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    own = None if _is_ours(master) else str(master.hydra.job.config_name)
    sweep = Sweep(folder=folder, launcher=launcher, jobs=[], config_dir=_config_dir(master), config_name=own)
    sweep.claim()
    return sweep


def _is_ours(master: DictConfig) -> bool:
    """Whether the primary config is vibench's, and so is its search path: it is composed as that of a single run."""
    main = [source.path for source in master.hydra.runtime.config_sources if source.provider == "main"]
    return (master.hydra.job.config_name, *main) == OURS and not master.hydra.searchpath


def _config_dir(master: DictConfig) -> str | None:
    """The folder of ``--config-dir``."""
    found = [source.path for source in master.hydra.runtime.config_sources if source.provider == "command-line"]
    return str(found[0]) if found else None


def _composer(context: HydraContext, master: DictConfig) -> Composer:
    """Composes a job: from a primary config of the user's own as Hydra does, which stops at the first mistake."""
    if _is_ours(master):
        return partial(composed, config_dir=_config_dir(master))

    def compose(job: Job) -> Checked:
        try:
            cfg = context.config_loader.load_sweep_config(master, list(job.overrides))
        except (HydraException, OmegaConfBaseException) as error:
            return Checked(job, refused=[describe(error)])
        with open_dict(cfg):
            del cfg["hydra"]
        return examined(job, cfg, [])

    return compose


def _folder(context: HydraContext, master: DictConfig, overrides: Sequence[str], number: int) -> str:
    """``hydra.sweep.subdir`` of a job; composed for it only where it is not its number."""
    if OmegaConf.to_container(master.hydra.sweep, resolve=False)["subdir"] == NUMBERED:
        return str(number)
    cfg = context.config_loader.load_sweep_config(master, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    return str(cfg.hydra.sweep.subdir)
