"""Windows as views of recordings, read a batch at a time.

Shapes: B windows, C channels of the widest system, L samples of a window.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vibench.data.batch import Batch, Target
from vibench.data.normalisation import safe_scale
from vibench.data.store import Recording, Store


def window_starts(start: int, stop: int, span: int, stride: int) -> range:
    """First samples of the windows that lie whole between two samples, ``span`` samples each."""
    return range(start, stop - span + 1, stride)


def covering_starts(start: int, stop: int, window: int, stride: int) -> list[int]:
    """First samples of windows that leave out no sample: one more ends with the last; a short signal has one."""
    starts = list(window_starts(start, stop, window, stride)) or [start]
    if starts[-1] + window < stop:
        starts.append(stop - window)
    return starts


def span_of(window: int, targets: dict[str, Target]) -> int:
    """Samples that a window and the longest forecast of the tasks cover."""
    return window + max((t.future for t in targets.values()), default=0)


class Windows(Dataset):
    """The windows of one split. ``__getitems__`` builds a whole batch, so that nothing is collated twice.

    Args:
        store: where the samples lie.
        recordings: those in use.
        places: (windows, 2) int64: index into ``recordings``, first sample.
        window: L.
        n_channels: C.
        targets: task -> how its target is read.
        scaling: (recordings, 2, C) float32, mean and scale of each recording's channels; None takes each window's own.
        entities: name -> number.
        clip: normalised samples beyond it are cut off; None leaves them.
        unlabelled: (windows,) bool, those whose class is not told; None tells all.
    """

    def __init__(
        self,
        *,
        store: Store,
        recordings: list[Recording],
        places: np.ndarray,
        window: int,
        n_channels: int,
        targets: dict[str, Target],
        scaling: np.ndarray | None,
        entities: dict[str, int],
        clip: float | None = None,
        unlabelled: np.ndarray | None = None,
    ) -> None:
        self.store, self.recordings, self.places, self.window = store, recordings, places, window
        self.n_channels, self.targets, self.scaling, self.clip = n_channels, targets, scaling, clip
        self.span = span_of(window, targets)
        self.unlabelled = np.zeros(len(places), bool) if unlabelled is None else unlabelled
        systems = {name: i for i, name in enumerate(store.systems)}
        used = [recordings[i] for i in places[:, 0]]
        self.rate_hz = torch.tensor([r.rate_hz for r in used], dtype=torch.float32)
        self.system = torch.tensor([systems[r.system] for r in used])
        self.entity = torch.tensor([entities[r.entity] for r in used])
        self.channels = torch.tensor([store.channels(r.system) for r in used])

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """Of a window: its recording, and its samples there."""
        number, start = self.places[index].tolist()
        return f"{self.recordings[number].id}[{start}:{start + self.window}]"

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        size = len(indices)
        signal = np.zeros((size, self.n_channels, self.window), np.float32)
        scale = np.ones((size, self.n_channels), np.float32)
        targets, present = self._empty(size)
        for row, index in enumerate(indices):
            number, start = self.places[index].tolist()
            recording = self.recordings[number]
            samples = self.store.signal(recording, start, min(start + self.span, recording.length)).T
            c, n = len(samples), min(samples.shape[1], self.window)  # n < L where the recording is shorter
            mean, spread = self._scaling(number, samples[:, :n])
            normalised = (samples - mean[:c, None]) / spread[:c, None]
            if self.clip is not None:
                np.clip(normalised, -self.clip, self.clip, out=normalised)
            signal[row, :c, :n], scale[row, :c] = normalised[:, :n], spread[:c]
            for task, target in self.targets.items():
                if target.of_class and self.unlabelled[index]:
                    continue
                value = target.of(recording, normalised[:, self.window :], start + self.window)
                if value is not None:
                    where = (row, slice(c)) if target.per_channel else row
                    targets[task][where] = value
                    present[task][(row, slice(n)) if target.per_sample else where] = True
        rows = torch.as_tensor(indices)
        return Batch(
            signal=torch.from_numpy(signal),
            channels=self.channels[rows],
            rate_hz=self.rate_hz[rows],
            system=self.system[rows],
            entity=self.entity[rows],
            recording=torch.from_numpy(self.places[indices, 0]),
            start=torch.from_numpy(self.places[indices, 1]),
            scale=torch.from_numpy(scale),
            targets={task: _tensor(values, self.targets[task]) for task, values in targets.items()},
            present={task: torch.from_numpy(values) for task, values in present.items()},
        )

    def labels(self, task: str) -> Tensor:
        """(n,) every label of a task that is one number of a whole window, or the mean of those of its samples.

        Empty where channels have their own. Reads no signal.
        """
        target = self.targets[task]
        if target.per_channel:
            return torch.empty(0, dtype=target.dtype)
        values = []  # of the samples only the mean: all of them may be too many to hold
        for (number, start), hidden in zip(self.places.tolist(), self.unlabelled, strict=True):
            if not (target.of_class and hidden) and (value := self.label(target, number, start)) is not None:
                values.append(np.mean(value) if target.per_sample else value)
        return torch.tensor(values, dtype=target.dtype)

    def label(self, target: Target, number: int, start: int) -> Any:
        """What ``target.of`` says of a window; of its samples, those that the recording has. Reads no signal."""
        recording, future = self.recordings[number], np.zeros((self.n_channels, self.span - self.window), np.float32)
        value = target.of(recording, future, start + self.window)
        return value[: recording.length - start] if target.per_sample and value is not None else value

    def _empty(self, size: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        targets, present = {}, {}
        for task, target in self.targets.items():
            lead = (size, *target.lead(self.n_channels, self.window))
            kind = np.int64 if target.dtype is torch.int64 else np.float32
            targets[task], present[task] = np.zeros((*lead, *target.shape), kind), np.zeros(lead, bool)
        return targets, present

    def _scaling(self, number: int, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.scaling is not None:
            return self.scaling[number, 0], self.scaling[number, 1]
        mean, spread = samples.mean(1, np.float64), samples.std(1, np.float64)
        return mean.astype(np.float32), safe_scale(mean, spread)


def _tensor(values: np.ndarray, target: Target) -> Tensor:
    return torch.from_numpy(values).to(target.dtype)


def whole_batch(batch: Any) -> Any:
    """Collate function of a dataset that already returns batches."""
    return batch
