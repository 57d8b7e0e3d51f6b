"""Rules between the parts of an experiment. Each names key, value, limit and remedy."""

import difflib
import os
from collections.abc import Callable, Iterator

from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import HardwareConfig
from vibench.config.task import TaskConfig
from vibench.config.training import OptimizerState, Precision, Sharding, TaskOrder


def parts(config: ExperimentConfig) -> Iterator[Callable[[], Iterator[str]]]:
    """Every rule as a call of its own, so that one that cannot be asked does not silence the others."""
    yield lambda: config.embedding.complaints(window=config.data.window)
    yield lambda: config.backbone.complaints(
        d_model=config.d_model, n_tokens=config.embedding.n_tokens(config.data.window)
    )
    for name in config.task or {}:
        yield lambda name=name: config.task[name].complaints(name=name, window=config.data.window)
    yield lambda: config.data.split.complaints()
    yield lambda: config.data.complaints(future=config.future)
    yield lambda: config.data.missing_paths()
    yield lambda: config.hardware.complaints()
    yield lambda: config.training.complaints(devices=max(config.hardware.devices, 1))
    yield lambda: config.training.missing_paths()
    yield lambda: config.logger.complaints()
    yield lambda: ranks_share(config)
    yield lambda: some_task(config)
    yield lambda: every_task_trains(config)
    yield lambda: monitor_exists(config)
    yield lambda: some_task_has_classes(config)
    yield lambda: workers_fit(config)
    yield lambda: precision_exists(config.hardware, config.training.precision)


def ranks_share(config: ExperimentConfig) -> Iterator[str]:
    """What several cards must be able to share."""
    hardware, devices, training = config.hardware, config.hardware.devices, config.training
    if training.global_batch_size % devices:
        told = f"hardware.gpus={hardware.gpus}" + (f" x hardware.nodes={hardware.nodes}" if hardware.nodes > 1 else "")
        yield (
            f"training.global_batch_size={training.global_batch_size} is not a multiple of {told}; "
            f"use training.global_batch_size={-(-training.global_batch_size // devices) * devices}"
        )
    if training.sharding is not Sharding.full:
        return
    if devices == 1:
        yield "training.sharding=full needs more cards than hardware.gpus=1; use more, or training.sharding=auto"
    if training.precision is Precision.fp16:
        yield (
            "training.sharding=full does not know the loss scaling of training.precision=fp16; use bf16, fp32, or "
            "training.sharding=none"
        )
    if training.optimizer_state is OptimizerState.host:
        yield (
            "training.optimizer_state=host and training.sharding=full are not made for each other; use "
            "training.optimizer_state=device, or training.sharding=none"
        )


def some_task(config: ExperimentConfig) -> Iterator[str]:
    if config.task == {}:
        yield "task is empty, so nothing would be trained; use e.g. task=classification"


def some_task_has_classes(config: ExperimentConfig) -> Iterator[str]:
    if config.data.labels_per_class is not None and not any(task.of_class for task in config.task.values()):
        yield (
            f"data.labels_per_class={config.data.labels_per_class} limits no task: {', '.join(config.task)} is not "
            "learned from classes; add classification or anomaly_detection, or use data.labels_per_class=null"
        )


def every_task_trains(config: ExperimentConfig) -> Iterator[str]:
    """In some epoch of the training; and no epoch is without a task."""
    epochs, tasks = config.training.epochs, config.task
    if epochs < 1:
        return
    if config.training.task_order is TaskOrder.sequential:
        yield from _sequence(epochs, tasks)
        return
    broken = [complaint for name, task in tasks.items() for complaint in _schedule(f"task.{name}", task, epochs)]
    yield from broken
    starts = {1} | {task.last_epoch + 1 for task in tasks.values() if task.last_epoch is not None}
    idle = [e for e in sorted(starts) if e <= epochs and not any(task.trains_in(e) for task in tasks.values())]
    if tasks and idle and not broken:
        over = all(task.first_epoch < idle[0] for task in tasks.values())  # none comes later
        yield (
            f"no task is trained in epoch {idle[0]} of training.epochs={epochs}; "
            "give one of them another first_epoch or last_epoch" + (", or use fewer epochs" if over else "")
        )


def _sequence(epochs: int, tasks: dict[str, TaskConfig]) -> Iterator[str]:
    if len(tasks) > epochs:
        yield (
            f"training.task_order=sequential needs an epoch for each of the {len(tasks)} tasks, there are "
            f"training.epochs={epochs}; use training.epochs>={len(tasks)}"
        )
    for name, task in tasks.items():
        if task.first_epoch > 1 or task.last_epoch is not None:
            yield (
                f"task.{name}.first_epoch and last_epoch say when {name} is trained, and so does "
                f"training.task_order=sequential; use task.{name}.first_epoch=1 and last_epoch=null, or another order"
            )


def _schedule(key: str, task: TaskConfig, epochs: int) -> Iterator[str]:
    if task.first_epoch > epochs:
        yield (
            f"{key}.first_epoch={task.first_epoch} exceeds training.epochs={epochs}, so it would never be trained; "
            f"use {key}.first_epoch<={epochs} or more epochs"
        )
    elif task.last_epoch is not None and task.last_epoch < task.first_epoch:
        yield (
            f"{key}.last_epoch={task.last_epoch} is before {key}.first_epoch={task.first_epoch}; "
            f"use {key}.last_epoch>={task.first_epoch} or null"
        )


def monitor_exists(config: ExperimentConfig) -> Iterator[str]:
    monitor = config.training.monitor
    if monitor is None:
        return
    produced = ["loss", *(f"{name}/{metric}" for name, task in config.task.items() for metric in task.METRICS)]
    if monitor not in produced:
        near = difflib.get_close_matches(monitor, produced, 1)
        remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(produced)}, or null"
        yield f"training.monitor={monitor} is produced by no enabled task; {remedy}"
    elif not config.data.split.has_validation:
        yield (
            f"training.monitor={monitor} needs a validation split, but data.split leaves none; "
            "use training.monitor=null or give data.split.val"
        )


def workers_fit(config: ExperimentConfig) -> Iterator[str]:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpus = config.hardware.cpus or here
    gpus = config.hardware.gpus
    if config.data.workers * gpus > cpus:
        told = f"data.workers={config.data.workers}" + (f" for each of hardware.gpus={gpus}" if gpus > 1 else "")
        there = f"the {cpus} CPU cores of hardware={config.hardware.name}"
        yield f"{told} exceeds {there}; use data.workers<={cpus // gpus}"


def precision_exists(hardware: HardwareConfig, precision: Precision) -> Iterator[str]:
    if precision is Precision.bf16 and not hardware.has_bf16:
        yield (
            f"training.precision=bf16 is not available on hardware={hardware.name} "
            f"(compute capability {hardware.compute_capability:g}, bf16 needs 8.0); use fp16, fp32 or auto"
        )
