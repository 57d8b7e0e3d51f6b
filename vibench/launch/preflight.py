"""Everything that is wrong with a sweep, before anything of it is queued: configs, plans, requests."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from vibench.config.compose import compose_all
from vibench.config.experiment import ExperimentConfig
from vibench.config.frozen import freeze
from vibench.config.plain import plain
from vibench.config.resolve import examine
from vibench.errors import ConfigError, VibenchError
from vibench.launch.place import Place, Request
from vibench.launch.sweep import Job, Sweep
from vibench.report.known_runs import hash_of, remember
from vibench.run import changes, refusal
from vibench.signals import deferred

Plan = Callable[[ExperimentConfig], Any]  # gives a MemoryPlan
WIDE = 200  # characters, where nobody's terminal says otherwise


@dataclass(slots=True)
class Checked:
    """A job that may be submitted, or its refusals.

    Attributes:
        plan: in words.
    """

    job: Job
    config: ExperimentConfig | None = None
    host_gib: float = 0.0
    plan: str = ""
    mem_mb: int | None = None
    refused: list[str] = field(default_factory=list)

    def request(self) -> Request:
        assert self.config is not None
        return Request(job=self.job, config=self.config, host_gib=self.host_gib, mem_mb=self.mem_mb)


class RefusedError(VibenchError):
    """Some jobs of a sweep cannot be run, so none was submitted."""


Composer = Callable[[Job], Checked]


def composed(job: Job, config_dir: str | None) -> Checked:
    """The config of a job, as ``vibench-train`` composes it, or all that is wrong with it."""
    return examined(job, *compose_all(job.overrides, config_dir))


def examined(job: Job, cfg: DictConfig | None, complaints: list[str]) -> Checked:
    """The config of a job, or all that is wrong with it.

    Args:
        complaints: of composing it.
    """
    config = None
    if cfg is not None:
        found, config = examine(cfg)
        complaints = complaints + found
    if complaints or config is None:
        return Checked(job, refused=complaints)
    return accepted(job, config)


def accepted(job: Job, config: ExperimentConfig) -> Checked:
    """A job whose config is checked."""
    job.hardware, job.config_hash = config.hardware.name, hash_of(plain(config))
    return Checked(job, config)


def check(sweep: Sweep, jobs: list[Checked], place: Place, plan: Plan | None = None) -> None:
    """Plan every job and ask its place; what is refused is written into it.

    Args:
        plan: plans one, with what it knows of others; None: a new one.
    """
    for one in jobs:
        if one.config is not None and (changed := changes(one.config, sweep.run_dir(one.job))):
            one.refused = refusal(changed, sweep.run_dir(one.job))
    _plan([one for one in jobs if not one.refused], plan or new_plan(on_cluster=place.is_cluster))
    for number, text in place.refusals([one.request() for one in jobs if not one.refused]).items():
        next(one for one in jobs if one.job.number == number).refused.append(text)
    for one in jobs:
        one.job.refused = one.refused


def new_plan(*, on_cluster: bool) -> Plan:
    """Plans experiments, each kind of them once; torch from its first call on.

    Args:
        on_cluster: it is asked for the host's memory, so what a step takes of it without a card is traced as well; and
            it lets a run go on after its time limit.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler says on stderr that it starts and stops
    planner: list[Any] = []

    def plan(config: ExperimentConfig) -> Any:
        if not planner:
            with deferred("what is being imported comes first"):
                from vibench.memory.planner import Planner

            planner.append(Planner())
        return planner[0].plan(config, on_cpu=on_cluster, requeued=on_cluster)

    return plan


def _plan(jobs: list[Checked], plan_one: Plan) -> None:
    """Memory and time of every job."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal
    ) as bar:
        task = bar.add_task("planning", total=len(jobs))
        for one in jobs:
            assert one.config is not None
            try:
                plan = plan_one(one.config)
                one.host_gib, one.plan = sum(plan.host.values()), plan.in_words()
            except ConfigError as error:
                one.refused += error.complaints
            except VibenchError as error:
                one.refused.append(str(error).strip())
            bar.advance(task)


def freeze_all(sweep: Sweep, jobs: list[Checked]) -> None:
    """Write the config of every job that may run: nothing is composed again where it runs, and others find it."""
    for one in jobs:
        if one.config is not None and not one.refused:
            run_dir = sweep.run_dir(one.job)
            run_dir.mkdir(parents=True, exist_ok=True)
            freeze(plain(one.config), run_dir)
            remember(str(one.job.config_hash), run_dir)


def print_checks(jobs: list[Checked], console: Console | None = None) -> None:
    """One row per job: what it varies, its plan, or why it is refused."""
    console = console or Console(width=None if Console().is_terminal else WIDE)
    table = Table("job", Column("varies", overflow="fold"), "hardware", "verdict", Column("plan", overflow="fold"))
    for one in jobs:
        verdict = "refused" if one.refused else "same" if one.job.same_as else "good"
        said = f"the result of {one.job.same_as}" if one.job.same_as else one.plan
        table.add_row(str(one.job.number), escape(one.job.name), one.job.hardware, verdict, escape(said))
    console.print(table)
    for one in jobs:
        for text in one.refused:
            console.print(f"{one.job.number}: {text}", markup=False, highlight=False, soft_wrap=True)
