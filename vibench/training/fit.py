"""Fit: from a model and audited data to checkpoints on disk."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vibench.config.experiment import ExperimentConfig
from vibench.config.logger import Writer
from vibench.config.training import TaskOrder
from vibench.data.loader import Data
from vibench.errors import ConfigError
from vibench.memory.growth import Growth
from vibench.memory.host import keep_freed_memory
from vibench.memory.plan import MemoryPlan
from vibench.model import Model, freeze
from vibench.step.checkpointing import checkpoint_blocks
from vibench.step.ranks import rank, shard
from vibench.training.checkpoints import BEST, LAST
from vibench.training.keeper import Keeper
from vibench.training.loop import Loop
from vibench.training.metrics_log import MetricsLog
from vibench.training.pace import Pace, time_to_come
from vibench.training.state import load_into
from vibench.training.training import Note, Training, directions
from vibench.training.watch import Watch


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """What a training came to.

    Attributes:
        promised_steps, steps: optimizer steps that were due, and that were done.
        skipped_steps: steps without an update, since fp16 gradients overflowed.
        early_stop: why fewer steps were done than promised; None where all were.
        checkpoint: file of the weights to evaluate: the best where one is monitored, else the last.
        labels_seen: task -> windows with a label in the steps that trained it.
        task_weights: task -> factor of its loss in the last step.
        step_seconds: median of a step, waiting for data included; None where there were too few.
        micro_batch: windows at once on a device in the last step; fewer than planned where memory ran out.
    """

    promised_steps: int
    steps: int
    skipped_steps: int
    early_stop: str | None
    checkpoint: Path
    labels_seen: dict[str, int]
    task_weights: dict[str, float]
    step_seconds: float | None
    micro_batch: int


def promised_steps(data: Data, config: ExperimentConfig) -> int:
    """Optimizer steps of the whole training.

    Raises:
        ConfigError: the warm-up would not end within them, or a task would not begin.
    """
    training = config.training
    per_epoch = -(-len(data.draw) // training.global_batch_size)
    steps = training.steps(len(data.draw))
    if training.warmup_steps >= steps:
        raise ConfigError(
            [
                f"training.warmup_steps={training.warmup_steps} does not end within the {steps} steps of this training "
                f"({training.epochs} epochs of {per_epoch}); use training.warmup_steps<={steps - 1} or more epochs"
            ]
        )
    reached = -(-steps // per_epoch)
    for name, first in first_epochs(config).items():
        if first > reached:
            raise ConfigError(
                [
                    f"training.max_steps={training.max_steps} ends in epoch {reached} of {per_epoch} steps, but {name} "
                    f"is trained from epoch {first}; use training.max_steps>{(first - 1) * per_epoch} or null"
                ]
            )
    if training.task_order is TaskOrder.alternating and steps < len(config.task):
        raise ConfigError(
            [
                f"training.task_order=alternating needs a step for each of the {len(config.task)} tasks, there are "
                f"{steps}; use more of training.max_steps or training.epochs, or a smaller training.global_batch_size"
            ]
        )
    return steps


def first_epochs(config: ExperimentConfig) -> dict[str, int]:
    """Task -> the first epoch that trains it, counted from 1."""
    if config.training.task_order is not TaskOrder.sequential:
        return {name: task.first_epoch for name, task in config.task.items()}
    n = len(config.task)
    return {name: -(-number * config.training.epochs // n) + 1 for number, name in enumerate(config.task)}


def fit(
    model: Model,
    data: Data,
    config: ExperimentConfig,
    plan: MemoryPlan,
    *,
    device: torch.device,
    run_dir: Path,
    identity: dict[str, Any],
    resume: dict[str, Any] | None = None,
    note: Note = lambda event: None,
    accepted: Callable[[], None] = lambda: None,
    lr_scale: float = 1.0,
    nans: int = 0,
) -> Fitted:
    """Train a model; it and its last checkpoint end in the same state.

    Args:
        identity: plain types that say which model this is; kept in every checkpoint.
        resume: a checkpoint of the same run, from which it goes on, and whose weights are in the model.
        note: takes what happens to the run besides.
        accepted: called when nothing is left to be refused, before the first step.
        lr_scale, nans: of the learning rate, and the steps that were not finite, after a rewind.

    Raises:
        Stopped: as was asked for by a signal that was deferred, after a checkpoint.
        VibenchError: it cannot go on; the last checkpoint is there.
    """
    if device.type == "cpu":
        keep_freed_memory()
    training = config.training
    freeze(model, training.freeze)
    checkpoint_blocks(model, plan.checkpointing)
    if plan.sharding == "full":
        shard(model, device)
    else:
        model.to(device)
    loader = data.loader("train", training.global_batch_size, seed=config.seed, pin=device.type == "cuda")
    validation = data.loader("val", training.global_batch_size) if "val" in data.splits else None
    log = None
    state = Training(
        model,
        config.task,
        training,
        plan,
        device=device,
        total_steps=promised_steps(data, config),
        per_epoch=len(loader),
        log_every=config.logger.every_n_steps,
        write=lambda values: log.write(values, state.steps_done) if log is not None else None,
        windows=lambda epoch, number: data.names(
            training.global_batch_size, seed=config.seed, epoch=epoch, number=number
        ),
        note=note,
        lr_scale=lr_scale,
        nans=nans,
    )
    if resume is not None:
        load_into(state, resume)
        for part in ("state_dict", "optimizer_states"):
            del resume[part]  # they are in the model and the optimizer by now, and may be large
    if not rank():
        board = run_dir / "tensorboard" if config.logger.writer is Writer.tensorboard else None
        rows = 0 if resume is None else resume["vibench"]["log_rows"]
        log = MetricsLog(run_dir / "metrics.csv", rows=rows, tensorboard=board, step=state.steps_done)
    accepted()
    pace = Pace(state.total_steps, time_to_come(config.hardware.slurm))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was called before the ``update``.*")  # by a rank without labels
        warnings.filterwarnings("ignore", message=".*returned a view tensor.*")  # nothing is done to it in place
        Loop(
            state,
            loader,
            validation,
            pace=pace,
            keeper=Keeper(state, run_dir / "checkpoints", identity, log, training.save_every_s),
            watch=_watch(config, state.best),
            growth=Growth(device, plan.usable_gib, config.hardware.host_gib),
        ).run()
    if log is not None:
        log.close()
    return Fitted(
        promised_steps=state.total_steps,
        steps=state.steps_done,
        skipped_steps=state.skipped_steps,
        early_stop=state.best["early_stop"] if state.steps_done < state.total_steps else None,
        checkpoint=run_dir / "checkpoints" / (BEST if training.monitor else LAST),
        labels_seen=state.labels_seen,
        task_weights=state.weighing.factors(),
        step_seconds=pace.seconds,
        micro_batch=state.recovery.micro_batch,
    )


def _watch(config: ExperimentConfig, best: dict[str, Any]) -> Watch | None:
    """What picks the best checkpoint and the early stop, from the epoch on in which the last task has begun."""
    training = config.training
    if training.monitor is None:
        return None
    mode, begin = directions(config.task)[training.monitor], max(first_epochs(config).values())
    return Watch(f"val/{training.monitor}", mode, training.patience, begin, best)
