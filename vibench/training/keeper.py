"""Keeps a training on disk: after every epoch, every so many seconds within one, and when the run is asked to stop."""

import signal
import time
from pathlib import Path
from typing import Any

from vibench.signals import Stopped, asked
from vibench.step.ranks import any_rank, rank
from vibench.training.checkpoints import BEST, FORMAT, LAST, PREVIOUS, write_checkpoint
from vibench.training.metrics_log import MetricsLog
from vibench.training.state import state_of
from vibench.training.training import Training


class Keeper:
    """Writes the checkpoints of a run. All ranks must call it at the same moments; the first one writes.

    Args:
        training: what is kept.
        folder: of the checkpoints.
        identity: plain types that say which model this is; in every checkpoint.
        log: what was logged so far; a checkpoint knows how much.
        every_s: seconds between two checkpoints within an epoch.
    """

    def __init__(
        self,
        training: Training,
        folder: Path,
        identity: dict[str, Any],
        log: MetricsLog | None,
        every_s: float,
    ) -> None:
        self.training, self.folder, self.identity, self.log, self.every_s = training, folder, identity, log, every_s
        self._saved = time.monotonic()

    def after_step(self) -> None:
        """
        Raises:
            Stopped: as was asked for; the step is saved.
        """
        self.stop_if_asked()
        if any_rank(time.monotonic() - self._saved >= self.every_s):
            self.save()

    def stop_if_asked(self) -> None:
        """Between two steps, or two batches of a validation, of which nothing has to be kept.

        Raises:
            Stopped: after a checkpoint.
        """
        number = asked()
        if not any_rank(number is not None):
            return
        self.save()
        raise Stopped(number or signal.SIGTERM)  # another rank was asked, this one will be

    def save(self) -> None:
        """The state of the training, as the last checkpoint; the one before is kept."""
        self._write(LAST, previous=self.folder / PREVIOUS)
        self._saved = time.monotonic()

    def save_best(self) -> None:
        self._write(BEST, previous=None)

    def _write(self, name: str, previous: Path | None) -> None:
        state = state_of(self.training)
        if rank():
            return
        rows = 0
        if self.log is not None:
            self.log.sync()
            rows = self.log.rows
        state["vibench"] |= self.identity | {"format": FORMAT, "log_rows": rows}
        write_checkpoint(state, self.folder / name, previous=previous)
