"""Audited splits, and the batches of one in the order of a seed."""

import atexit
import hashlib
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from vibench.data.batch import Batch
from vibench.data.drawing import Draw
from vibench.data.store import Recording
from vibench.data.windows import Windows, whole_batch
from vibench.errors import DataError, VibenchError


class WorkerError(VibenchError):
    """A process that loads data is gone."""


def batches(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """The batches of a loader; what goes wrong in its workers in one line, without their traceback.

    Raises:
        DataError: a file cannot be read any more.
        WorkerError: a worker was killed.
    """
    try:
        yield from loader
    except DataError as error:
        raise DataError(_own_words(error)) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "Caught" in str(error):
            raise
        said = str(error).splitlines()[0].rstrip(". ")
        raise WorkerError(
            f"{said}; the kernel does so when memory runs out; use fewer data.workers, then vibench-resume"
        ) from error


def _own_words(error: DataError) -> str:
    """What was said in a worker is the last line of the traceback that torch makes of it."""
    text = str(error)
    return text.rstrip().splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text


@dataclass(kw_only=True, slots=True)
class Data:
    """Audited splits.

    Attributes:
        splits: train, test and, where there is one, val.
        n_channels: C, of the widest system.
        classes: names of the classes, in the order of their numbers.
        certificate: what the audit found; written to ``split.json``.
        draw: which windows of the training split an epoch holds.
    """

    splits: dict[str, Windows]
    draw: Draw
    n_channels: int
    classes: list[str]
    certificate: dict[str, Any]
    workers: int

    def loader(self, split: str, batch_size: int, *, seed: int | None = None, pin: bool = False) -> DataLoader[Batch]:
        """Every window of a split once, in order; with a ``seed`` those of an epoch of the training, in an order drawn
        from it and the epoch."""
        windows = self.splits[split]
        if self.workers:
            atexit.register(_end_workers)  # after multiprocessing's own, so before it
        return DataLoader(
            windows,
            batch_size=batch_size,
            sampler=SequentialSampler(windows) if seed is None else EpochShuffle(self.draw, seed),
            generator=torch.Generator().manual_seed(0),  # its own: workers must not draw from the model's numbers
            worker_init_fn=_leave_signals,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=whole_batch,
            pin_memory=pin,
        )

    def fingerprint(self) -> str:
        """Of what is learned from: recordings, entities, labels and windows of every split; of no sample."""
        digest = hashlib.sha256(repr((self.n_channels, self.classes)).encode())
        for name, split in self.splits.items():
            used = [(r.id, r.entity, r.label, r.rul_s, r.rate_hz, r.length, *_events(r)) for r in split.recordings]
            digest.update(repr((name, split.window, used)).encode())
            digest.update(split.places.tobytes())
            digest.update(split.unlabelled.tobytes())
        return digest.hexdigest()

    def names(self, batch_size: int, *, seed: int, epoch: int, number: int) -> list[str]:
        """Of the windows of one batch of the training: its epoch and its number there, both from 0."""
        windows = self.splits["train"]
        order = self.draw.order(seed, epoch)
        return [windows.name(row) for row in order[number * batch_size : (number + 1) * batch_size].tolist()]


class EpochShuffle(Sampler[int]):
    """Another order in every pass, each drawn from the seed and the number of the pass alone."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self.draw, self.seed, self.epoch, self.done = draw, seed, 0, 0

    def begin(self, epoch: int, done: int) -> None:
        """Say which pass comes next, and how many of its windows were seen before."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return len(self.draw)

    def __iter__(self) -> Iterator[int]:
        order, done = self.draw.order(self.seed, self.epoch), self.done
        self.epoch, self.done = self.epoch + 1, 0
        return iter(order[done:].tolist())


def _events(recording: Recording) -> list[Any]:
    """Its events in plain types, where it may have any."""
    return [] if recording.events is None else [recording.events.tolist()]


def _end_workers() -> None:
    """At the end of the process, those that an error has left: they pass over the SIGTERM that others would send."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # by which torch would complain of their end
    for process in multiprocessing.active_children():
        process.kill()


def _leave_signals(worker: int) -> None:
    """They are the training process's affair, which ends its workers; SLURM and a terminal tell those as well."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
