"""What a run logs: ``metrics.csv``, a row at a time, on disk at once, cut back to a checkpoint when the run goes on."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vibench.errors import OutputError


class MetricsLog:
    """Appends rows of numbers; columns come as they are needed. A row that was begun and not ended is not read again.

    Args:
        path: of the file.
        rows: how many of its rows are kept: what a checkpoint knows of.
        tensorboard: folder for TensorBoard, None for none.
        step: optimizer steps that are done; what TensorBoard has of later ones is dropped.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, *, rows: int, tensorboard: Path | None, step: int) -> None:
        self.path, self.rows = path, rows
        self.columns: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if rows and path.exists():
            with path.open(newline="") as file:
                kept = list(csv.DictReader(file))[:rows]
            self.columns = list(kept[0]) if kept else []
            self.rows = len(kept)
            self._rewrite(kept)
        else:
            self.rows = 0
            path.unlink(missing_ok=True)
        self.board = _board(tensorboard, step) if tensorboard is not None else None

    def write(self, values: Mapping[str, float], step: int) -> None:
        row = {"step": step} | values
        try:
            new = [name for name in row if name not in self.columns]
            if new:
                self.columns += new
                kept = []
                if self.rows:
                    with self.path.open(newline="") as file:
                        kept = list(csv.DictReader(file))[: self.rows]
                self._rewrite(kept)
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror}; make room, then vibench-resume {self.path.parent}"
            ) from error
        self.rows += 1
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()

    def sync(self) -> None:
        """To the disk, before a checkpoint that counts these rows."""
        if not self.rows:
            return
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)
            os.replace(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from error


def _board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step + 1)
