"""One bar over all steps of a run where there is a terminal, one line per epoch everywhere."""

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger("vibench")


class ProgressLine(Callback):
    """Shows how far the training is, its losses, and what the last validation said.

    Args:
        total_steps: optimizer steps the run promises.
        monitor: key of the validation to show, None for none.
    """

    def __init__(self, total_steps: int, monitor: str | None) -> None:
        self.total_steps, self.monitor = total_steps, monitor
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
            transient=True,
        )

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.job = self.bar.add_task("training", total=self.total_steps, loss="")
        if self.bar.console.is_terminal:
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if self.bar.console.is_terminal:
            self.bar.update(self.job, completed=module.steps_done, loss=f"loss {module.last_loss:.3f}")

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {module.steps_done}/{self.total_steps}"
        line += f"  train: {_losses(module.epoch_losses)}"
        if self.monitor in trainer.callback_metrics:
            line += f"  {self.monitor} {float(trainer.callback_metrics[self.monitor]):.4g}"
        log.info(line)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar.live.is_started:  # else it would print an empty line
            self.bar.stop()


def _losses(losses: dict[str, float]) -> str:
    return "  ".join(f"{name.split('_')[0]} {value:.3f}" for name, value in losses.items())
