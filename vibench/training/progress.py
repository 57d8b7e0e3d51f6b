"""One bar over all steps of a run where there is a terminal, one line per epoch everywhere."""

import logging

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vibench.training.training import Training

log = logging.getLogger("vibench")


class ProgressLine:
    """Shows how far the training is, its losses, and what the last validation said.

    Args:
        training: what is shown.
        monitor: key of the validation to show, None for none.
    """

    def __init__(self, training: Training, monitor: str | None) -> None:
        self.training, self.monitor = training, monitor
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
        self.job = self.bar.add_task("training", total=training.total_steps, completed=training.steps_done, loss="")

    def __enter__(self) -> "ProgressLine":
        if self.bar.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar.live.is_started:  # else it would print an empty line
            self.bar.stop()

    def after_step(self) -> None:
        if self.bar.console.is_terminal:
            loss = f"loss {self.training.last_loss:.3f}"
            self.bar.update(self.job, completed=self.training.steps_done, loss=loss)

    def after_epoch(self, values: dict[str, float]) -> None:
        """One line of the epoch that is over.

        Args:
            values: of its validation.
        """
        training = self.training
        line = f"epoch {training.epoch}/{training.config.epochs}  step {training.steps_done}/{training.total_steps}"
        line += f"  train: {_losses(training.epoch_losses)}"
        if self.monitor in values:
            line += f"  {self.monitor} {values[self.monitor]:.4g}"
        log.info(line)


def _losses(losses: dict[str, float]) -> str:
    return "  ".join(f"{name.split('_')[0]} {value:.3f}" for name, value in losses.items())
