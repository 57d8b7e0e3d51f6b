"""What a run logs: ``metrics.csv``, a row at a time, on disk at once, cut back to a checkpoint when the run goes on."""

import csv
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
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
        self.path, self.rows = path, 0
        self.columns: list[str] = []
        with self._complaining():
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = self._first(rows) if rows and path.exists() else []
            self.columns, self.rows = list(kept[0]) if kept else [], len(kept)
            if kept:
                self._rewrite(kept)
            else:
                path.unlink(missing_ok=True)
        self.board = _board(tensorboard, step) if tensorboard is not None else None

    def write(self, values: Mapping[str, float], step: int) -> None:
        row = {"step": step} | values
        with self._complaining():
            new = [name for name in row if name not in self.columns]
            if new:
                self.columns += new
                self._rewrite(self._first(self.rows) if self.rows else [])
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        self.rows += 1
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()

    def sync(self) -> None:
        """To the disk, before a checkpoint that counts these rows."""
        if not self.rows:
            return
        with self._complaining(), self.path.open("rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def _first(self, rows: int) -> list[dict[str, Any]]:
        """What comes after them, a line that was cut or zeros after a power cut, is not looked at."""
        with self.path.open(newline="", errors="replace") as file:
            return list(islice(csv.DictReader(file), rows))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)
            os.replace(temporary, self.path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror}; make room, then vibench-resume {self.path.parent}"
            ) from error


def _board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step + 1)
