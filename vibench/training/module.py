"""The training step, as Lightning sees it: manual optimization around micro-batches of one global batch."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils._pytree import tree_map

from vibench.config.task import TaskConfig
from vibench.config.training import TaskOrder, TrainingConfig
from vibench.data.batch import Batch
from vibench.errors import NanError
from vibench.memory.plan import MemoryPlan
from vibench.model import Model
from vibench.step.micro_batch import Share
from vibench.step.optimizer import build_optimizer, set_rates
from vibench.step.precision import grad_scaler
from vibench.step.ranks import whole
from vibench.step.scores import Scores, score_batch, total_loss
from vibench.step.step import Step
from vibench.step.task_weights import Weighing, caught_up, in_turn
from vibench.training.schedule import lr_factor


class TrainingModule(LightningModule):
    """Trains a model as planned.

    Args:
        model: what is trained.
        tasks: what its tasks weigh, and when they are trained.
        config: how.
        plan: micro-batch and precision.
        total_steps: optimizer steps the run promises.
        log_every: steps between two logged training losses.
        identity: plain types that say which model this is; kept in every checkpoint.
    """

    def __init__(
        self,
        model: Model,
        tasks: dict[str, TaskConfig],
        config: TrainingConfig,
        plan: MemoryPlan,
        *,
        total_steps: int,
        log_every: int,
        identity: dict[str, Any],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.tasks, self.config, self.plan = model, tasks, config, plan
        self.total_steps, self.log_every, self.identity = total_steps, log_every, identity
        self.weighing = Weighing(model, tasks, config.task_weights)
        self.steps_done, self.skipped_steps = 0, 0
        self.scores = Scores(model)
        self.last_losses: dict[str, float] = {}
        self.last_loss = math.nan
        self.labels_seen = dict.fromkeys(tasks, 0)  # windows with a label that a step was made of
        self.epoch_sums: dict[str, tuple[float, int]] = {}
        self.turns = dict.fromkeys(tasks, 0)  # steps that trained each task

    def on_fit_start(self) -> None:
        self.scaler = grad_scaler(self.plan.precision, self.device)
        self.step = Step(
            self.model,
            self.weighing,
            self.config,
            precision=self.plan.precision,
            scaler=self.scaler,
            device=self.device,
            sharded=self.plan.sharding == "full",
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.weighing, self.config, self.plan.precision, self.plan.optimizer_state)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # stays on the host: its parts are moved one by one

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        factor = lr_factor(self.steps_done, self.total_steps, self.config.warmup_steps, self.config.schedule)
        rate = self.config.lr * factor
        set_rates(optimizer, self.config.lr, factor)
        turns = len(self.tasks) if self.config.task_order is TaskOrder.alternating else 1
        due = (self.steps_done // turns + 1) % self.log_every == 0 or self.steps_done + turns >= self.total_steps
        factors = self._factors(batch)
        scale = self.scaler.get_scale()
        shares, norm = self.step(
            batch, optimizer, factors, micro_batch=self.plan.micro_batch, measure=due, check=self._note
        )
        self.steps_done += 1
        self.skipped_steps += self.scaler.get_scale() < scale
        if due:
            self._log_step(shares, factors, norm, rate, scale)
        if self.steps_done >= self.total_steps:
            self.trainer.should_stop = True

    def _factors(self, batch: Batch) -> dict[str, float]:
        """Task -> weight, of the tasks that this step trains."""
        names = in_turn(
            self.tasks,
            self.config.task_order,
            epoch=self.current_epoch + 1,
            epochs=self.config.epochs,
            turns=self.turns,
            has_label=lambda name: bool(batch.present[name].any()),
        )
        for name in names:
            self.turns[name] += 1
        factors = self.weighing.factors()
        return {name: factors[name] for name in names}

    def _note(self, shares: dict[str, Share]) -> None:
        """Keep what the tasks' losses are.

        Raises:
            NanError: one is not a finite number.
        """
        values = torch.stack([share.loss for share in shares.values()]).tolist()  # one wait for the device
        for (name, share), value in zip(shares.items(), values, strict=True):
            if not math.isfinite(value):
                raise NanError(
                    f"the loss of {name} is {value} at step {self.steps_done + 1} of {self.total_steps}; "
                    f"use a smaller training.lr={self.config.lr:g}, a training.clip_norm, or precision=fp32"
                )
            samples = int(share.samples)
            if not samples:
                continue
            self.last_losses[name] = value
            self.labels_seen[name] += samples
            total, count = self.epoch_sums.get(name, (0.0, 0))
            self.epoch_sums[name] = (total + value * samples, count + samples)
        self.last_loss = sum(self.tasks[name].weight * value for name, value in self.last_losses.items())

    def _log_step(
        self, shares: dict[str, Share], factors: dict[str, float], norm: Tensor | None, rate: float, scale: float
    ) -> None:
        values = {"train/lr": rate} | ({} if norm is None else {"train/grad_norm": float(norm)})
        for name, share in shares.items():
            values[f"train/{name}/samples"] = int(share.samples)
            if share.samples:
                values[f"train/{name}/loss"] = self.last_losses[name]
                values[f"train/{name}/grad_norm"] = float(share.squared_norm) ** 0.5 / scale
            if self.weighing.log_variance:
                values[f"train/{name}/weight"] = factors[name]
        self._write(values)

    def _write(self, values: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(values, step=self.steps_done)
            logger.save()  # now: what a killed run had learned is on disk

    @property
    def epoch_losses(self) -> dict[str, float]:
        """Task -> its mean loss over the epoch so far; without those that had no label."""
        return {name: total / count for name, (total, count) in self.epoch_sums.items()}

    def on_train_epoch_start(self) -> None:
        self.epoch_sums = {}
        self.turns = caught_up(self.tasks, self.turns, self.current_epoch + 1)

    def on_train_epoch_end(self) -> None:
        self._write({f"train/{name}/epoch_loss": loss for name, loss in self.epoch_losses.items()})
        if self.skipped_steps == self.steps_done:
            raise NanError(
                f"none of the {self.steps_done} steps changed a weight: every fp16 gradient overflowed; "
                "use training.precision=bf16 or fp32"
            )

    def on_validation_epoch_start(self) -> None:
        self.scores.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        score_batch(
            self.model,
            batch,
            self.scores,
            micro_batch=self.plan.micro_batch,
            precision=self.plan.precision,
            device=self.device,
        )

    def on_validation_epoch_end(self) -> None:
        results = self.scores.results()
        values = {f"val/{task}/{name}": v for task, result in results.items() for name, v in result.metrics.items()}
        values |= {f"val/{task}/loss": result.loss for task, result in results.items()}
        values |= {"val/loss": total_loss(self.tasks, results)}
        self.log_dict(values, logger=False)  # for the callbacks that watch one of them
        self._write(values)
        self._refuse_undefined(values)

    def _refuse_undefined(self, values: dict[str, float]) -> None:
        watched = f"val/{self.config.monitor}"
        if self.config.monitor and not math.isfinite(values[watched]):
            raise NanError(
                f"training.monitor={self.config.monitor} is {values[watched]} on the validation split after step "
                f"{self.steps_done}; monitor loss, or give the validation labels of more than one kind"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for part in ("state_dict", "optimizer_states"):
            checkpoint[part] = tree_map(whole, checkpoint[part])
        checkpoint["vibench"] = self.identity | {"steps_done": self.steps_done, "turns": self.turns}


def directions(tasks: dict[str, TaskConfig]) -> dict[str, str]:
    """What can be monitored -> whether more (max) or less (min) of it is better."""
    return {"loss": "min"} | {f"{name}/{m}": mode for name, task in tasks.items() for m, mode in task.METRICS.items()}
