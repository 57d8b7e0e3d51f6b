"""Losses and metrics of one pass over a split, with what stands behind them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from vibench.config.task import TaskConfig
from vibench.data.batch import Batch, labelled
from vibench.errors import ConfigError, NanError
from vibench.model import Model
from vibench.step.precision import autocast
from vibench.step.ranks import own_share, ranks, sum_over_ranks, union_over_ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """What one task reached on one split.

    Attributes:
        loss: mean over all labels.
        metrics: name -> value.
        samples: windows with a label.
        entities: bearings or lives among them.
        naive: the same metrics of what is predicted without a model; None where that was not asked.
    """

    loss: float
    metrics: dict[str, float]
    samples: int
    entities: int
    naive: dict[str, float] | None = None


def check_bounded(model: Model) -> None:
    """Refuse metrics that keep everything they are told: their memory grows for as long as a run goes on.

    Raises:
        ConfigError: names each, with its task.
    """
    complaints = [
        f"task.{task}: the metric {name} ({type(metric).__name__}) keeps every value in its state {state}, so its "
        "memory has no bound; use one with a state of fixed size, as torchmetrics has with thresholds=N, or "
        "vibench.tasks.ranking"
        for task, module in model.tasks.items()
        for name, metric in module.metrics().items(keep_base=True, copy_state=False)
        for state, default in metric._defaults.items()
        if isinstance(default, list)
    ]
    if complaints:
        raise ConfigError(complaints)


class Scores(nn.Module):
    """Collects a split, batch by batch. A module, so that its metrics live where the model lives."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict({name: task.metrics() for name, task in model.tasks.items()})
        self.reset()

    def reset(self) -> None:
        for metrics in self.metrics.values():
            metrics.reset()
        self.sums = dict.fromkeys(self.metrics, 0.0)
        self.counts = dict.fromkeys(self.metrics, 0)
        self.samples = dict.fromkeys(self.metrics, 0)
        self.entities: dict[str, set[int]] = {name: set() for name in self.metrics}

    def add(self, model: Model, batch: Batch, predictions: dict[str, Tensor]) -> None:
        """Count what some of the tasks predict of one batch; everything on the model's device."""
        for name, prediction in predictions.items():
            task = model.tasks[name]
            target, present = batch.targets[name], batch.present[name]
            windows = labelled(present)
            if not prediction.isfinite().all():
                raise NanError(f"a prediction of {name} is not a finite number; use a smaller training.lr or fp32")
            self.sums[name] += task.loss(prediction, target, present).item()
            self.counts[name] += int(task.count(present))
            self.samples[name] += int(windows.sum())
            self.entities[name].update(batch.entity[windows].tolist())
            task.update(self.metrics[name], prediction, target, present, batch)

    def settle(self, model: Model) -> None:
        """Let every task choose by what was counted; of a validation only."""
        for name, metrics in self.metrics.items():
            model.tasks[name].settle(metrics)

    def results(self) -> dict[str, TaskResult]:
        """Task -> what it reached, of all ranks together; NaN where nothing was counted."""
        self._gather()
        return {
            name: TaskResult(
                loss=self.sums[name] / self.counts[name] if self.counts[name] else float("nan"),
                metrics={
                    metric: _value(value) if self.samples[name] else math.nan
                    for metric, value in metrics.items(keep_base=True, copy_state=False)
                },
                samples=self.samples[name],
                entities=len(self.entities[name]),
            )
            for name, metrics in self.metrics.items()
        }

    def _gather(self) -> None:
        """Sums and counts of all ranks; the metrics ask for each other's states themselves."""
        if ranks() == 1:
            return
        device = next(module.device for module in self.modules() if isinstance(module, Metric))  # NCCL knows no host
        names = list(self.metrics)
        told = torch.tensor(
            [[self.sums[n], self.counts[n], self.samples[n]] for n in names], dtype=torch.float64, device=device
        )
        sum_over_ranks([told])
        for name, (total, count, samples) in zip(names, told.tolist(), strict=True):
            self.sums[name], self.counts[name], self.samples[name] = total, int(count), int(samples)
            self.entities[name] = union_over_ranks(self.entities[name])


def _value(metric: Metric) -> float:
    """NaN where it is not defined, as R2 of a single label."""
    try:
        return float(metric.compute())
    except ValueError:
        return math.nan


def score_batch(
    model: Model,
    batch: Batch,
    scores: Scores,
    *,
    micro_batch: int,
    precision: str,
    device: torch.device,
    naive: tuple[Scores, dict[str, Tensor]] | None = None,
) -> None:
    """Predict one batch in micro-batches and count it.

    Args:
        naive: where to count what is predicted without a model, and the training labels of each task.
    """
    own = own_share(batch)
    for start in range(0, len(own), micro_batch):
        part = own.part(start, start + micro_batch).to(device)
        for seen, names in model.views(part, list(model.tasks)):
            with autocast(precision, device):
                tokens, real = model.encode(seen)
                predictions = {name: model.tasks[name](tokens, real) for name in names}
            scores.add(model, seen, predictions)
            if naive is not None:
                lines, known = naive
                lines.add(model, seen, {name: model.tasks[name].naive(seen, known[name]) for name in names})


def total_loss(tasks: dict[str, TaskConfig], results: dict[str, TaskResult]) -> float:
    """Sum of the tasks' mean losses by their configured weights, learned ones or not: epochs stay comparable."""
    return sum(task.weight * results[name].loss for name, task in tasks.items())
