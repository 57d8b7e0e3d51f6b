"""What a model sees at once.

Shapes: B windows, C channels of the widest system, L samples of a window.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vibench.data.store import Recording


class Target(NamedTuple):
    """How a task reads its target from a recording.

    Attributes:
        of: called with the recording, the normalised samples that follow the window (channels, ``future`` or more),
            and the index of the first of them in the recording; None where the recording has no such label.
        shape: of one target; of one channel's target if ``per_channel``, of one sample's if ``per_sample``.
        dtype: of the target.
        per_channel: whether every channel has a target, stacked to (C, \\*shape).
        per_sample: whether every sample of the window has one, stacked to (L, \\*shape); ``of`` gives all of them,
            those behind the end of the recording included, which count for nothing.
        future: samples after the window that ``of`` needs.
        distinct: different values the test must hold for the task's metrics to be defined.
        of_class: whether who labels a window with its class gives this label, too (``data.labels_per_class``).
    """

    of: Callable[[Recording, np.ndarray, int], np.ndarray | float | int | None]
    shape: tuple[int, ...]
    dtype: torch.dtype
    per_channel: bool = False
    per_sample: bool = False
    future: int = 0
    distinct: int = 1
    of_class: bool = False

    def lead(self, n_channels: int, window: int) -> tuple[int, ...]:
        """Shape of the mask of labels of one window, which its targets' shape begins with."""
        return (n_channels,) if self.per_channel else (window,) if self.per_sample else ()


@dataclass(kw_only=True, slots=True)
class Batch:
    """B windows with their targets. A missing label is ``present=False``, never a magic number.

    Attributes:
        signal: (B, C, L) float32, normalised; channels that a system does not have are zero.
        channels: (B,) int64, how many of the C channels are real.
        rate_hz: (B,) float32, sampling rate.
        system: (B,) int64.
        entity: (B,) int64, the bearing, life or patient that the window was cut from.
        recording: (B,) int64, the recording it was cut from.
        start: (B,) int64, its first sample there.
        scale: (B, C) float32, what one unit of ``signal`` is in the unit of the recording.
        targets: task -> (B, ...) tensor.
        present: task -> (B,) bool; (B, C) for tasks with a target per channel, (B, L) with one per sample.
    """

    signal: Tensor
    channels: Tensor
    rate_hz: Tensor
    system: Tensor
    entity: Tensor
    recording: Tensor
    start: Tensor
    scale: Tensor
    targets: dict[str, Tensor]
    present: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.signal)

    def values(self) -> dict[str, Tensor | dict[str, Tensor]]:
        """Every attribute by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return type(self)(
            **{
                name: {task: change(t) for task, t in value.items()} if isinstance(value, dict) else change(value)
                for name, value in self.values().items()
            }
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        return self._each(lambda tensor: tensor.pin_memory())

    def take(self, rows: Tensor) -> "Batch":
        """The windows of those numbers, as copies."""
        return self._each(lambda tensor: tensor[rows])

    def part(self, start: int, stop: int) -> "Batch":
        """Windows ``start`` to ``stop``, as views."""
        return self._each(lambda tensor: tensor[start:stop])


def blank_batch(targets: dict[str, Target], size: int, n_channels: int, window: int) -> Batch:
    """A batch of that many windows of the widest system, all zero, every label there: what a trace is made with."""
    lead = {name: (size, *target.lead(n_channels, window)) for name, target in targets.items()}
    return Batch(
        signal=torch.zeros(size, n_channels, window),
        channels=torch.full((size,), n_channels),
        rate_hz=torch.ones(size),
        system=torch.zeros(size, dtype=torch.int64),
        entity=torch.zeros(size, dtype=torch.int64),
        recording=torch.zeros(size, dtype=torch.int64),
        start=torch.zeros(size, dtype=torch.int64),
        scale=torch.ones(size, n_channels),
        targets={name: torch.zeros(*lead[name], *target.shape, dtype=target.dtype) for name, target in targets.items()},
        present={name: torch.ones(*lead[name], dtype=torch.bool) for name in targets},
    )


def labelled(present: Tensor) -> Tensor:
    """(B, ...) -> (B,): windows with any label of a task."""
    return present.flatten(1).any(1) if present.ndim > 1 else present
