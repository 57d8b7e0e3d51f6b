"""Audited splits, and the batches of one in the order of a seed."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from vibench.data.batch import Batch
from vibench.data.windows import Windows, whole_batch


@dataclass(kw_only=True, slots=True)
class Data:
    """Audited splits.

    Attributes:
        splits: train, test and, where there is one, val.
        n_channels: C, of the widest system.
        classes: names of the classes, in the order of their numbers.
        certificate: what the audit found; written to ``split.json``.
    """

    splits: dict[str, Windows]
    n_channels: int
    classes: list[str]
    certificate: dict[str, Any]
    workers: int

    def loader(self, split: str, batch_size: int, *, seed: int | None = None, pin: bool = False) -> DataLoader[Batch]:
        """Every window of a split once; in an order drawn from ``seed`` and the epoch, or in order without one."""
        windows = self.splits[split]
        return DataLoader(
            windows,
            batch_size=batch_size,
            sampler=SequentialSampler(windows) if seed is None else EpochShuffle(len(windows), seed),
            generator=torch.Generator().manual_seed(0),  # its own: workers must not draw from the model's numbers
            worker_init_fn=_leave_signals,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=whole_batch,
            pin_memory=pin,
        )


class EpochShuffle(Sampler[int]):
    """Another order in every pass, each drawn from the seed and the number of the pass alone."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says before every pass which it is."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        self.epoch += 1
        return iter(order.tolist())


def _leave_signals(worker: int) -> None:
    """Ctrl-C is the training process's affair; it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
