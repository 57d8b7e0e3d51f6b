"""The training step, as Lightning sees it: manual optimization around micro-batches of one global batch."""

import math
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from vibench.config.task import TaskConfig
from vibench.config.training import Optimizer, TrainingConfig
from vibench.data.batch import Batch
from vibench.errors import NanError
from vibench.memory.micro_batch import accumulate
from vibench.memory.plan import MemoryPlan
from vibench.model import Model
from vibench.training.precision import autocast, grad_scaler
from vibench.training.schedule import lr_factor
from vibench.training.scores import Scores, total_loss


class TrainingModule(LightningModule):
    """Trains a model as planned.

    Args:
        model: what is trained.
        config: how.
        plan: micro-batch and precision.
        total_steps: optimizer steps the run promises.
        log_every: steps between two logged training losses.
        identity: plain types that say which model this is; kept in every checkpoint.
    """

    def __init__(
        self,
        model: Model,
        config: TrainingConfig,
        plan: MemoryPlan,
        *,
        total_steps: int,
        log_every: int,
        identity: dict[str, Any],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.config, self.plan = model, config, plan
        self.total_steps, self.log_every, self.identity = total_steps, log_every, identity
        self.steps_done, self.skipped_steps = 0, 0
        self.scores = Scores(model)
        self.last_losses: dict[str, float] = {}
        self.last_loss = math.nan

    def on_fit_start(self) -> None:
        self.scaler = grad_scaler(self.plan.precision, self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        lr, decay = self.config.lr, self.config.weight_decay
        if self.config.optimizer is Optimizer.sgd:
            return torch.optim.SGD(self.model.parameters(), lr=lr, weight_decay=decay, momentum=0.9)
        kind = torch.optim.AdamW if self.config.optimizer is Optimizer.adamw else torch.optim.Adam
        return kind(self.model.parameters(), lr=lr, weight_decay=decay)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch  # stays on the host: its parts are moved one by one

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        rate = self.config.lr * lr_factor(
            self.steps_done, self.total_steps, self.config.warmup_steps, self.config.schedule
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = accumulate(
            self.model,
            batch,
            micro_batch=self.plan.micro_batch,
            device=self.device,
            autocast=partial(autocast, self.plan.precision, self.device),
            backward=lambda loss: self.scaler.scale(loss).backward(),
        )
        self._refuse_nan(losses)
        self.scaler.unscale_(optimizer)
        norm = self._clip()
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)  # at once: old gradients need not live through the next forward pass
        self.steps_done += 1
        self.skipped_steps += self.scaler.get_scale() < scale
        self._log_step(norm, rate)
        if self.steps_done >= self.total_steps:
            self.trainer.should_stop = True

    def _refuse_nan(self, losses: dict[str, Tensor]) -> None:
        values = torch.stack(list(losses.values())).tolist()  # one wait for the device
        self.last_losses = dict(zip(losses, values, strict=True))
        self.last_loss = sum(task.weight * self.last_losses[name] for name, task in self.model.tasks.items())
        for name, value in self.last_losses.items():
            if not math.isfinite(value):
                raise NanError(
                    f"the loss of {name} is {value} at step {self.steps_done + 1} of {self.total_steps}; "
                    f"use a smaller training.lr={self.config.lr:g}, a training.clip_norm, or precision=fp32"
                )

    def _clip(self) -> Tensor | None:
        if self.config.clip_norm is None:
            return None
        return nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)

    def _log_step(self, norm: Tensor | None, rate: float) -> None:
        if self.steps_done % self.log_every and self.steps_done != self.total_steps:
            return
        values = {f"train/{name}/loss": value for name, value in self.last_losses.items()}
        values |= {"train/lr": rate} | ({} if norm is None else {"train/grad_norm": float(norm)})
        self._write(values)

    def _write(self, values: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(values, step=self.steps_done)
            logger.save()  # now: what a killed run had learned is on disk

    def on_train_epoch_end(self) -> None:
        if self.skipped_steps == self.steps_done:
            raise NanError(
                f"none of the {self.steps_done} steps changed a weight: every fp16 gradient overflowed; "
                "use training.precision=bf16 or fp32"
            )

    def on_validation_epoch_start(self) -> None:
        self.scores.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        score_batch(self.model, batch, self.scores, self.plan, self.device)

    def on_validation_epoch_end(self) -> None:
        results = self.scores.results()
        values = {f"val/{task}/{name}": v for task, result in results.items() for name, v in result.metrics.items()}
        values |= {"val/loss": total_loss(self.model, results)}
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
        checkpoint["vibench"] = self.identity | {"steps_done": self.steps_done}


def score_batch(model: Model, batch: Batch, scores: Scores, plan: MemoryPlan, device: torch.device) -> None:
    """Predict one batch in micro-batches and count it."""
    for start in range(0, len(batch), plan.micro_batch):
        part = batch.part(start, start + plan.micro_batch).to(device)
        with autocast(plan.precision, device):
            predictions = model(part)
        scores.add(model, part, predictions)


def directions(tasks: dict[str, TaskConfig]) -> dict[str, str]:
    """What can be monitored -> whether more (max) or less (min) of it is better."""
    return {"loss": "min"} | {f"{name}/{m}": mode for name, task in tasks.items() for m, mode in task.METRICS.items()}
