"""Sweeper schemas: how the values of a search are chosen. Not part of what a run is."""

from dataclasses import dataclass
from enum import Enum

from vibench.config.setting import setting


class Sampler(Enum):
    """How the next values are chosen."""

    tpe = "tpe"
    random = "random"


class Pruner(Enum):
    """Which trials are stopped before their end."""

    none = "none"
    median = "median"


@dataclass(kw_only=True, slots=True)
class OptunaSweeperConfig:
    """A search by Optuna."""

    _target_: str = "hydra_plugins.vibench_sweeper.OptunaSweeper"
    trials: int = setting("in all, also over several starts", low=1)
    at_once: int = setting("trials that run at the same time", low=1)
    metric: str | None = setting("of the validation, as TASK/METRIC or loss; null: training.monitor")
    sampler: Sampler = setting("tpe or random")
    pruner: Pruner = setting("none, or median: what is worse than half of the others at the same step is stopped")
    seed: int = setting("of the sampler", low=0, high=2**32 - 1)
    study: str = setting("name in the storage")
    storage: str | None = setting("URL of a database; null: study.db in the sweep's directory")


@dataclass(kw_only=True, slots=True)
class GridSweeperConfig:
    """Every combination."""

    _target_: str = "hydra_plugins.vibench_sweeper.GridSweeper"
    max_batch_size: int | None = setting("jobs that are handed to the launcher at once; null: all", low=1)
    params: dict[str, str] = setting("key -> values, beside those of the command line")


SCHEMAS = {"grid": GridSweeperConfig, "optuna": OptunaSweeperConfig}
