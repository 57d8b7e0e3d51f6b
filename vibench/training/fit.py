"""Fit: from a model and audited data to checkpoints on disk."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.environments import LightningEnvironment

from vibench.config.experiment import ExperimentConfig
from vibench.config.logger import Writer
from vibench.config.training import TaskOrder
from vibench.data.loader import Data
from vibench.errors import ConfigError
from vibench.memory.host import keep_freed_memory
from vibench.memory.plan import MemoryPlan
from vibench.model import Model, freeze
from vibench.step.checkpointing import checkpoint_blocks
from vibench.step.ranks import rank, shard
from vibench.training.checkpoints import AtomicCheckpointIO
from vibench.training.module import TrainingModule, directions
from vibench.training.pace import Pace
from vibench.training.progress import ProgressLine


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
    """

    promised_steps: int
    steps: int
    skipped_steps: int
    early_stop: str | None
    checkpoint: Path
    labels_seen: dict[str, int]
    task_weights: dict[str, float]
    step_seconds: float | None


def promised_steps(data: Data, config: ExperimentConfig) -> int:
    """Optimizer steps of the whole training.

    Raises:
        ConfigError: the warm-up would not end within them, or a task would not begin.
    """
    training = config.training
    per_epoch = -(-len(data.splits["train"]) // training.global_batch_size)
    steps = training.steps(len(data.splits["train"]))
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
) -> Fitted:
    """Train a model; it and its last checkpoint end in the same state.

    Args:
        identity: plain types that say which model this is; kept in every checkpoint.
    """
    if device.type == "cpu":
        keep_freed_memory()
    training = config.training
    freeze(model, training.freeze)
    checkpoint_blocks(model.backbone, plan.checkpointing)
    if plan.sharding == "full":
        shard(model, device)
    loader = data.loader("train", training.global_batch_size, seed=config.seed, pin=device.type == "cuda")
    validation = data.loader("val", training.global_batch_size) if "val" in data.splits else None
    promised = promised_steps(data, config)
    module = TrainingModule(
        model,
        config.task,
        training,
        plan,
        total_steps=promised,
        log_every=config.logger.every_n_steps,
        identity=identity,
    )
    monitor = f"val/{training.monitor}" if training.monitor else None
    watch = _watch(config, monitor, run_dir / "checkpoints")
    pace = Pace(promised)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,  # of this rank; the others are processes of ours
        max_epochs=training.epochs,
        logger=False if rank() else _loggers(config, run_dir),
        callbacks=[*([] if rank() else [ProgressLine(promised, monitor)]), pace, *watch],
        plugins=[LightningEnvironment(), AtomicCheckpointIO()],
        default_root_dir=run_dir,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # of no effect: the module writes to its loggers itself
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # the user's choice, data.workers
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # the run directory is ours alone
        warnings.filterwarnings("ignore", message=".*no `val_dataloader`.*")  # the user's choice, data.split
        warnings.filterwarnings("ignore", message=".*in eval mode at the start.*")  # the user's choice, training.freeze
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own affair
        warnings.filterwarnings("ignore", message=".*was called before the ``update``.*")  # by a rank without labels
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # the ranks have made it one already
        warnings.filterwarnings("ignore", message=".*returned a view tensor.*")  # nothing is done to it in place
        trainer.fit(module, loader, validation)
    stopped = any(isinstance(c, EarlyStopping) and c.stopped_epoch for c in watch)
    reason = f"{monitor} no better for {training.patience} validations" if stopped else None
    best = run_dir / "checkpoints" / "best.ckpt"
    return Fitted(
        promised_steps=promised,
        steps=module.steps_done,
        skipped_steps=module.skipped_steps,
        early_stop=reason if module.steps_done < promised else None,
        checkpoint=best if monitor else run_dir / "checkpoints" / "last.ckpt",
        labels_seen=module.labels_seen,
        task_weights=module.weighing.factors(),
        step_seconds=pace.seconds,
    )


def _watch(config: ExperimentConfig, monitor: str | None, folder: Path) -> list[Callback]:
    """The last checkpoint after every epoch; the best, and the early stop, by the monitored metric.

    Both of those from the epoch in which the last task has begun: a checkpoint before it cannot be the result.
    """
    common: dict[str, Any] = {"dirpath": folder, "save_top_k": 1, "enable_version_counter": False}
    last = ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **common)
    if monitor is None:
        return [last]
    mode = directions(config.task)[config.training.monitor]
    begin = max(first_epochs(config).values())
    callbacks = [last, Best(begin, filename="best", monitor=monitor, mode=mode, **common)]
    if config.training.patience is not None:
        callbacks.append(Patience(begin, monitor=monitor, mode=mode, patience=config.training.patience))
    return callbacks


class _FromEpoch:
    """A callback that watches a validation, from an epoch on, counted from 1."""

    def __init__(self, begin: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.begin = begin

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 >= self.begin:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 >= self.begin:
            super().on_train_epoch_end(trainer, pl_module)


class Best(_FromEpoch, ModelCheckpoint):
    """Keeps the best checkpoint."""


class Patience(_FromEpoch, EarlyStopping):
    """Stops a training that does not get better."""


def _loggers(config: ExperimentConfig, run_dir: Path) -> list[Logger]:
    loggers: list[Logger] = [CSVLogger(run_dir, name="", version="")]
    if config.logger.writer is Writer.tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(run_dir, name="tensorboard", version=""))
    return loggers
