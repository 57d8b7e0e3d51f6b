"""A training in progress: a model, its optimizer, and everything that changes from step to step.

All of that is in ``training/state.py``, so that another process goes on with the next step as this one would have.
"""

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from vibench.config.task import TaskConfig
from vibench.config.training import OnNan, TaskOrder, TrainingConfig
from vibench.data.batch import Batch
from vibench.errors import NanError, Restart
from vibench.memory.plan import MemoryPlan
from vibench.memory.recovery import Recovery
from vibench.model import Model
from vibench.step.micro_batch import Share
from vibench.step.optimizer import build_optimizer, set_rates
from vibench.step.precision import grad_scaler
from vibench.step.recovery import Snapshot
from vibench.step.scores import Scores, TaskResult, score_batch
from vibench.step.step import Step
from vibench.step.task_weights import Weighing, caught_up, in_turn
from vibench.training.not_finite import find_not_finite
from vibench.training.schedule import lr_factor

log = logging.getLogger("vibench")
Note = Callable[[dict[str, Any]], None]  # writes an event into the status of the run
SLOWER = 0.5  # factor of the learning rate after a rewind
SETTLED = 40  # steps after which the scale of fp16 has become so small that no gradient overflows that could be used


class Training:
    """Trains a model as planned.

    Args:
        model: what is trained, on its device.
        tasks: what its tasks weigh, and when they are trained.
        config: how.
        plan: how the step is made.
        device: where.
        total_steps: optimizer steps the run promises.
        per_epoch: optimizer steps of an epoch.
        log_every: steps between two logged training losses.
        write: takes what is logged, by name.
        windows: names of the windows of a step, given its epoch and its number there, both from 0.
        note: takes what happened to the run.
        lr_scale: of the learning rate, below 1 after a rewind.
        nans: steps that were not finite and were skipped or rewound before.

    Attributes:
        epoch: epochs that are over, their validation included.
        steps_done, skipped_steps: optimizer steps, and those without an update.
        labels_seen: task -> windows with a label that steps were made of.
        turns: task -> steps that trained it.
    """

    def __init__(
        self,
        model: Model,
        tasks: dict[str, TaskConfig],
        config: TrainingConfig,
        plan: MemoryPlan,
        *,
        device: torch.device,
        total_steps: int,
        per_epoch: int,
        log_every: int,
        write: Callable[[dict[str, float]], None],
        windows: Callable[[int, int], list[str]],
        note: Note,
        lr_scale: float,
        nans: int,
    ) -> None:
        self.model, self.tasks, self.config, self.plan, self.device = model, tasks, config, plan, device
        self.total_steps, self.per_epoch, self.log_every = total_steps, per_epoch, log_every
        self.write, self.windows, self.note = write, windows, note
        self.lr_scale, self.nans = lr_scale, nans
        self.weighing = Weighing(model, tasks, config.task_weights).to(device)
        self.optimizer = build_optimizer(model, self.weighing, config, plan.precision, plan.optimizer_state)
        self.scaler = grad_scaler(plan.precision, device)
        self.step = Step(
            model,
            self.weighing,
            config,
            precision=plan.precision,
            scaler=self.scaler,
            device=device,
            sharded=plan.sharding == "full",
        )
        self.scores = Scores(model).to(device)
        self.snapshot = Snapshot([model], device)
        self.recovery = Recovery(model, config, plan, device, note)
        self.epoch, self.steps_done, self.skipped_steps = 0, 0, 0
        self.last_losses: dict[str, float] = {}
        self.last_loss = math.nan
        self.labels_seen = dict.fromkeys(tasks, 0)
        self.epoch_sums: dict[str, tuple[float, int]] = {}
        self.turns = dict.fromkeys(tasks, 0)
        self.best: dict[str, Any] = {"value": None, "waited": 0, "early_stop": None}

    @property
    def steps_in_epoch(self) -> int:
        """Steps of the present epoch that are done."""
        return self.steps_done - self.epoch * self.per_epoch

    @property
    def epoch_trained(self) -> bool:
        """Whether all steps of the present epoch are done; its validation may not be."""
        return self.steps_in_epoch >= self.per_epoch or self.steps_done >= self.total_steps

    @property
    def finished(self) -> bool:
        over = self.steps_done >= self.total_steps and self.epoch * self.per_epoch >= self.steps_done
        return over or self.best["early_stop"] is not None

    @property
    def epoch_losses(self) -> dict[str, float]:
        """Task -> its mean loss over the epoch so far; without those that had no label."""
        return {name: total / count for name, (total, count) in self.epoch_sums.items()}

    def begin_epoch(self) -> None:
        self.epoch_sums = {}
        self.turns = caught_up(self.tasks, self.turns, self.epoch + 1)

    def train_on(self, batch: Batch) -> None:
        """One optimizer step.

        Raises:
            NanError: a loss or the gradient is not finite, and nothing more may be tried.
            Restart: the run has to go on from its last checkpoint.
            OutOfMemoryError: nothing is left that takes less.
        """
        factor = lr_factor(self.steps_done, self.total_steps, self.config.warmup_steps, self.config.schedule)
        factor *= self.lr_scale
        set_rates(self.optimizer, self.config.lr, factor)
        turns = len(self.tasks) if self.config.task_order is TaskOrder.alternating else 1
        due = (self.steps_done // turns + 1) % self.log_every == 0 or self.steps_done + turns >= self.total_steps
        factors = self._factors(batch)
        scale = self.scaler.get_scale()
        shares = self._gradient(batch, factors, measure=due)
        sound: list[bool] = []

        def check(shares: dict[str, Share], norm: Tensor) -> bool:
            sound.append(self._keep(batch, shares, factors, norm))
            return sound[0]

        norm = self.step.update(self.optimizer, shares, check, lambda: self.recovery.of_optimizer(self.steps_done))
        self.steps_done += 1
        self.skipped_steps += self.scaler.get_scale() < scale or not sound[0]
        if due and sound[0]:
            self._log_step(shares, factors, norm, self.config.lr * factor, scale)

    def _gradient(self, batch: Batch, factors: dict[str, float], *, measure: bool) -> dict[str, Share]:
        """The gradient of the batch, made again with less memory until it can be made."""
        self.snapshot.take()

        def attempt(micro_batch: int) -> dict[str, Share]:
            return self.step.gradient(batch, factors, micro_batch=micro_batch, measure=measure)

        def again() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            self.weighing.zero_grad(set_to_none=True)
            self.snapshot.restore()

        shares = self.recovery.of_step(attempt, again, len(batch), self.steps_done)
        self.step.join(shares)
        return shares

    def _factors(self, batch: Batch) -> dict[str, float]:
        """Task -> weight, of the tasks that this step trains."""
        names = in_turn(
            self.tasks,
            self.config.task_order,
            epoch=self.epoch + 1,
            epochs=self.config.epochs,
            turns=self.turns,
            has_label=lambda name: bool(batch.present[name].any()),
        )
        for name in names:
            self.turns[name] += 1
        factors = self.weighing.factors()
        return {name: factors[name] for name in names}

    def _keep(self, batch: Batch, shares: dict[str, Share], factors: dict[str, float], norm: Tensor) -> bool:
        """Keep what the tasks' losses are; False where the step is to be left out."""
        *values, size = torch.stack([*(share.loss for share in shares.values()), norm.float()]).tolist()  # one wait
        losses = dict(zip(shares, values, strict=True))
        broken = next((name for name, value in losses.items() if not math.isfinite(value)), None)
        if broken is not None:
            self._not_finite(batch, factors, f"the loss of {broken} is {losses[broken]}")
            return False
        if not math.isfinite(size) and not self.scaler.is_enabled():  # in fp16 the scaler sees to it
            self._not_finite(batch, factors, f"the norm of the gradient is {size}")
            return False
        for (name, share), value in zip(shares.items(), values, strict=True):
            samples = int(share.samples)
            if not samples:
                continue
            self.last_losses[name] = value
            self.labels_seen[name] += samples
            total, count = self.epoch_sums.get(name, (0.0, 0))
            self.epoch_sums[name] = (total + value * samples, count + samples)
        self.last_loss = sum(self.tasks[name].weight * value for name, value in self.last_losses.items())
        return True

    def _not_finite(self, batch: Batch, factors: dict[str, float], what: str) -> None:
        """Say which windows and which layer it was, and do what ``training.on_nan`` says.

        Raises:
            NanError: the run ends.
            Restart: it goes on from its last checkpoint, at a lower learning rate.
        """
        self.snapshot.restore()
        names = self.windows(self.epoch, self.steps_in_epoch)
        found = find_not_finite(self.step, batch, factors, names)
        self.snapshot.restore()
        text = f"{what} at step {self.steps_done + 1} of {self.total_steps}, in {found}"
        policy, limit = self.config.on_nan, self.config.nan_limit
        if policy is OnNan.stop or self.nans >= limit:
            told = "" if policy is OnNan.stop else f"; training.nan_limit={limit} is reached"
            raise NanError(
                f"{text}{told}; use a smaller training.lr={self.config.lr * self.lr_scale:g}, a training.clip_norm, "
                "precision=fp32, or training.on_nan=skip or rewind"
            )
        self.nans += 1
        if policy is OnNan.rewind:
            changes = {"lr_scale": self.lr_scale * SLOWER, "nans": self.nans}
            raise Restart(text, kind=NanError.kind, changes=changes, step=self.steps_done + 1)
        log.warning(f"STEP LEFT OUT: {text}")
        text += f"; left out, {self.nans} of at most {limit}"
        self.note({"kind": "nan", "step": self.steps_done + 1, "text": text, "changes": {}})

    def _log_step(
        self, shares: dict[str, Share], factors: dict[str, float], norm: Tensor, rate: float, scale: float
    ) -> None:
        values = {"train/lr": rate, "train/grad_norm": float(norm)}
        for name, share in shares.items():
            values[f"train/{name}/samples"] = int(share.samples)
            if share.samples:
                values[f"train/{name}/loss"] = self.last_losses[name]
                values[f"train/{name}/grad_norm"] = float(share.squared_norm) ** 0.5 / scale
            if self.weighing.log_variance:
                values[f"train/{name}/weight"] = factors[name]
        self.write(values)

    def validate(self, batches: Iterable[Batch]) -> dict[str, TaskResult]:
        """Task -> what the model reaches; the modes of its modules are then as they were.

        Args:
            batches: of the validation; asked for from the first again where memory runs out.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            self.recovery.of_scores(
                lambda micro_batch: self._score(batches, micro_batch), self.config.global_batch_size, self.steps_done
            )
            self.scores.settle(self.model)
            return self.scores.results()
        finally:
            for module, mode in modes:
                module.training = mode

    @torch.no_grad()
    def _score(self, batches: Iterable[Batch], micro_batch: int) -> None:
        """Of this rank's share alone: nothing is asked of the others that one without memory could not answer."""
        self.scores.reset()
        for batch in batches:
            score_batch(
                self.model,
                batch,
                self.scores,
                micro_batch=micro_batch,
                precision=self.plan.precision,
                device=self.device,
            )

    def end_epoch(self, measured: dict[str, float]) -> None:
        """
        Args:
            measured: what is logged beside the losses.

        Raises:
            NanError: not one step of the training has changed a weight.
        """
        self.write({f"train/{name}/epoch_loss": loss for name, loss in self.epoch_losses.items()} | measured)
        self.epoch += 1
        hopeless = self.finished or self.steps_done >= SETTLED
        if self.skipped_steps == self.steps_done and hopeless:
            raise NanError(
                f"none of the {self.steps_done} steps changed a weight: every fp16 gradient overflowed, or was left "
                "out; use training.precision=bf16 or fp32"
            )


def directions(tasks: dict[str, TaskConfig]) -> dict[str, str]:
    """What can be monitored -> whether more (max) or less (min) of it is better."""
    return {"loss": "min"} | {f"{name}/{m}": mode for name, task in tasks.items() for m, mode in task.METRICS.items()}
