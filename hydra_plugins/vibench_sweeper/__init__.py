"""Where Hydra 1.3 looks for sweepers. The work is done in ``vibench.launch.search``."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Every combination of values. Hydra's own composes every job once more, only to see whether it can."""

    def __init__(self, max_batch_size: int | None, params: dict[str, str]) -> None:
        self.max_batch_size, self.params = max_batch_size, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Any]:
        from vibench.launch.launcher import grid

        typed = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        return grid(self.launcher, self.config, typed, self.max_batch_size)


class OptunaSweeper(Sweeper):
    """Trials of a search as the jobs of a sweep."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        from vibench.launch.launcher import search

        search(self.context, self.config, self.options, arguments)
