"""Launcher schemas: how the jobs of a sweep are sent off and waited for. Not part of what a run is."""

from dataclasses import dataclass
from enum import Enum

from vibench.config.setting import setting


class OnDuplicate(Enum):
    """What is done with a job whose config another run is at, or has completed."""

    skip = "skip"
    error = "error"
    allow = "allow"


@dataclass(kw_only=True, slots=True)
class LauncherConfig:
    """Fields of every launcher."""

    _target_: str = "hydra_plugins.vibench_launcher.VibenchLauncher"
    name: str = setting("local or slurm")
    skip_refused: bool = setting("start the others where some jobs are refused")
    on_duplicate: OnDuplicate = setting("skip, error or allow a config that another run is at or has completed")


@dataclass(kw_only=True, slots=True)
class LocalLauncherConfig(LauncherConfig):
    """This machine."""

    jobs: int | None = setting("at once; null: as many as there are cards for, one on a CPU", low=1)


@dataclass(kw_only=True, slots=True)
class SlurmLauncherConfig(LauncherConfig):
    """A SLURM cluster."""

    at_once: int | None = setting("jobs of one array that run at the same time; null: all", low=1)
    detach: bool = setting("do not wait for the jobs")
    poll_s: float = setting("seconds between two looks at the queue", above=0)


SCHEMAS = {"local": LocalLauncherConfig, "slurm": SlurmLauncherConfig}
