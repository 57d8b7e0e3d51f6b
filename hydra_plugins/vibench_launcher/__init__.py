"""Where Hydra 1.3 looks for launchers. The work is done in ``vibench.launch``."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class VibenchLauncher(Launcher):
    """Jobs of a sweep, on this machine or on SLURM."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from vibench.launch.launcher import run

        return run(self.context, self.config, self.options, job_overrides, initial_job_idx)
