"""Plans of many experiments: those that differ in their hardware alone share a look at the data, and traces."""

import dataclasses
import json

from vibench.config.experiment import ExperimentConfig
from vibench.config.plain import plain
from vibench.data.build import Survey, survey
from vibench.errors import VibenchError
from vibench.memory.device import as_found, choose_device
from vibench.memory.host import check_host
from vibench.memory.plan import MemoryPlan, Traces, fit
from vibench.model import targets

NO_MATTER = {  # to memory and time
    "lr",
    "weight_decay",
    "schedule",
    "warmup_steps",
    "monitor",
    "patience",
    "save_every_s",
    "on_nan",
    "nan_limit",
    "on_growth",
}
NOT_TRACED = NO_MATTER | {"epochs", "max_steps"}


class Planner:
    """Plans experiments as their runs would, each kind of them once."""

    def __init__(self) -> None:
        self._surveys: dict[str, Survey] = {}
        self._traces: dict[str, Traces] = {}
        self._plans: dict[str, MemoryPlan | VibenchError] = {}

    def plan(self, config: ExperimentConfig, *, on_cpu: bool, requeued: bool = False) -> MemoryPlan:
        """
        Args:
            on_cpu: trace it also where there is no card to plan for.
            requeued: where it runs, it goes on after its time limit.

        Raises:
            MemoryFitError, TimeFitError, ConfigError, DataError: it cannot be run.
        """
        key = f"{on_cpu} {requeued} {_key(config, without=('seed', 'logger'), training=NO_MATTER)}"
        if key not in self._plans:
            try:
                self._plans[key] = self._plan(config, on_cpu=on_cpu, requeued=requeued)
            except VibenchError as error:
                self._plans[key] = error
        found = self._plans[key]
        if isinstance(found, VibenchError):
            raise found
        return found

    def _plan(self, config: ExperimentConfig, *, on_cpu: bool, requeued: bool) -> MemoryPlan:
        if config.hardware.device.name == "auto":
            device = choose_device(config.hardware)
            config = dataclasses.replace(config, hardware=as_found(config.hardware, config.training.precision, device))
        data = self._survey(config)
        traces = self._traces.setdefault(
            _key(config, without=("seed", "logger", "hardware"), training=NOT_TRACED), Traces()
        )
        sizes = {"n_channels": data.n_channels, "n_classes": data.n_classes, "windows": data.windows}
        requeues = config.hardware.slurm.requeues if requeued else 0
        plan = fit(config, **sizes, traces=traces, on_cpu=on_cpu, requeues=requeues)
        if config.hardware.host_gib is not None:  # else it is what is free where the run will be
            check_host(config.hardware, plan.host)
        return plan

    def _survey(self, config: ExperimentConfig) -> Survey:
        key = json.dumps([plain(config.data), plain(config.task)], sort_keys=True)
        if key not in self._surveys:
            self._surveys[key] = survey(config.data, targets(config))
        return self._surveys[key]


def _key(config: ExperimentConfig, *, without: tuple[str, ...], training: set[str]) -> str:
    """What an experiment is, but for what does not matter."""
    kept = {name: value for name, value in plain(config).items() if name not in without}
    kept["training"] = {name: value for name, value in kept["training"].items() if name not in training}
    return json.dumps(kept, sort_keys=True)
