"""How long a run will take, and whether it can end in its time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vibench.config.experiment import ExperimentConfig
from vibench.config.training import TaskOrder
from vibench.errors import TimeFitError
from vibench.memory.levers import parts_of
from vibench.memory.measured import is_sure, known, pace
from vibench.memory.trace import Levers
from vibench.memory.work import Work, count

log = logging.getLogger("vibench")


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of a step and of the whole run; None where the rates of the hardware are not known.

    Attributes:
        pace: measured runs over their first estimates, which is in these; None before there were any.
    """

    step: float | None
    run: float | None
    pace: float | None = None


UNKNOWN = Duration(None, None)


def duration(
    config: ExperimentConfig,
    levers: Levers,
    micro_batch: int,
    windows: dict[str, int],
    traced: Callable[[Any], Work],
    requeues: int = 0,
) -> Duration:
    """Estimate a run by its work and the rates of its hardware, corrected by runs that were measured.

    Args:
        windows: split -> how many.
        traced: gives the work, made by :func:`count`.
        requeues: how often the run will go on after its time limit.

    Raises:
        TimeFitError: it cannot end within hardware.slurm.time: not at the rates of the data sheet, where its work is
            known, or not at the pace of the runs that were measured.
    """
    hardware = config.hardware
    if hardware.fp32_tflops is None or hardware.bandwidth_gbs is None:
        return UNKNOWN
    try:
        work = traced(count)
    except RuntimeError:  # cannot be traced, as was said
        return UNKNOWN
    backbone = config.backbone._target_.rpartition(".")[2]
    runs = known(hardware.name)
    correction = pace(runs, backbone, levers.precision)
    estimate = _sum(config, micro_batch, windows, work, at_best=False)
    found = Duration(estimate.step * (correction or 1), estimate.run * (correction or 1), correction)
    if hardware.slurm.seconds is None:
        return found
    limit = hardware.slurm.seconds * (1 + requeues)
    given = f"hardware.slurm.time={hardware.slurm.time}"
    also = f", {requeues + 1} times by hardware.slurm.requeues," if requeues else ""
    sure = is_sure(runs, backbone, levers.precision)
    certain = found if sure else _sum(config, micro_batch, windows, work, at_best=True)
    if (sure or _has_known_work(config)) and certain.run > limit:
        why = "at the pace of the runs measured there" if sure else "at the rates of its data sheet"
        raise TimeFitError(
            f"{hardware.name} needs {words(certain.run)} for the {config.training.steps(windows['train'])} steps of "
            f"this run, {why}, {certain.step:.3g} s each; {given}{also} ends it before; "
            "use more time, fewer training.epochs, or a faster hardware"
        )
    if found.run > limit:
        log.warning(
            f"THIS RUN MAY NOT END: about {words(found.run)}, and {given}; "
            "an estimate, since no such run was measured there often enough"
        )
    return found


def _sum(config: ExperimentConfig, micro_batch: int, windows: dict[str, int], work: Work, *, at_best: bool) -> Duration:
    seconds = work.seconds(micro_batch, config.hardware, at_best=at_best)
    step = parts_of(config, micro_batch) * seconds.part + seconds.update
    steps = config.training.steps(windows["train"])
    epochs = -(-steps // -(-windows["train"] // config.training.global_batch_size))
    scored = windows.get("val", 0) * epochs / config.hardware.devices + windows["test"]  # one rank tests
    return Duration(step, steps * step + scored * seconds.score / micro_batch)


def _has_known_work(config: ExperimentConfig) -> bool:
    """Whether every step is the one that was traced: of all tasks, and of shapes that are known."""
    always = all(task.first_epoch == 1 and task.last_epoch is None for task in config.task.values())
    return always and config.training.task_order is TaskOrder.joint and config.backbone.has_known_shapes


def words(seconds: float) -> str:
    """A duration in the unit one would say it in."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
