"""From a data config to audited, loadable splits."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from vibench.config.data import DataConfig, DemoConfig, Normalisation
from vibench.data.audit import audit
from vibench.data.batch import Batch, Target
from vibench.data.splits import NAMES, Segment, column, make_splits
from vibench.data.store import Recording, Store, check_finite
from vibench.data.synthetic import demo_store
from vibench.data.windows import Windows, safe_scale, whole_batch, window_starts
from vibench.errors import DataError


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


def build(config: DataConfig, targets: dict[str, Target]) -> Data:
    """Open the store, split it, audit the splits.

    Args:
        targets: task -> how its target is read from a recording.

    Raises:
        DataError: names the file, the recording or the split that cannot be used.
    """
    path = demo_store(config) if isinstance(config, DemoConfig) else Path(config.store).expanduser()  # type: ignore[attr-defined]
    store = Store(path)
    recordings = _chosen(store, config)
    splits = make_splits(recordings, config.split, lambda r: f"{r.system} {r.columns.get(config.label, '')}")
    recordings, splits = _in_use(recordings, splits)
    classes = _label(recordings, config.label)
    span = config.window + max((t.future for t in targets.values()), default=0)
    places, short = _cut(store, recordings, splits, config, span)
    moments = _moments(store, recordings)
    certificate = audit(store, recordings, places, span, config.window, config.allow_leaky)
    n_channels = max(store.channels(r.system) for r in recordings)
    entities = {name: i for i, name in enumerate(sorted({r.entity for r in recordings}))}
    scaling = _scaling(config.normalisation, store, recordings, splits["train"], moments, n_channels)
    windows = {
        name: Windows(
            store=store,
            recordings=recordings,
            places=rows,
            window=config.window,
            n_channels=n_channels,
            targets=targets,
            scaling=scaling,
            entities=entities,
        )
        for name, rows in places.items()
    }
    for name, split in windows.items():
        certificate["splits"][name]["labelled_windows"] = _labelled(split, name, path)
    for part, rows in zip(certificate["splits"].values(), places.values(), strict=True):
        labels = [recordings[i].label for i in rows[:, 0].tolist()]
        part["windows_per_class"] = {name: labels.count(number) for number, name in enumerate(classes)}
    certificate |= {"store": str(path), "by": config.split.by, "short_recordings": short, "classes": classes}
    return Data(splits=windows, n_channels=n_channels, classes=classes, certificate=certificate, workers=config.workers)


def _chosen(store: Store, config: DataConfig) -> list[Recording]:
    recordings = store.recordings
    for name, values in config.only.items():
        there = {column(r, name) for r in store.recordings}
        if absent := [value for value in values if value not in there]:
            raise DataError(
                f"data.only.{name} names {', '.join(absent)}, which is no {name} of {store.path}; "
                f"there are {', '.join(sorted(there))}"
            )
        recordings = [r for r in recordings if column(r, name) in values]
        if not recordings:
            raise DataError(f"data.only.{name}={values} leaves no recording of {store.path}; name other values")
    if not recordings:
        raise DataError(f"{store.path} holds no recording")
    return recordings


def _in_use(
    recordings: list[Recording], splits: dict[str, list[Segment]]
) -> tuple[list[Recording], dict[str, list[Segment]]]:
    """Without the recordings that no split holds: they add no class, no channel, no system."""
    used = sorted({segment.recording for segments in splits.values() for segment in segments})
    place = {old: new for new, old in enumerate(used)}
    moved = {name: [s._replace(recording=place[s.recording]) for s in segments] for name, segments in splits.items()}
    return [recordings[old] for old in used], moved


def _label(recordings: list[Recording], name: str) -> list[str]:
    """Number the classes in alphabetical order, healthy first; a store without the column has none."""
    names = {r.columns.get(name, "") for r in recordings} - {""}
    classes = sorted(names, key=lambda text: (text != "healthy", text))
    for recording in recordings:
        text = recording.columns.get(name, "")
        recording.label = classes.index(text) if text else None
    return classes


def _cut(
    store: Store, recordings: list[Recording], splits: dict[str, list[Segment]], config: DataConfig, span: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(windows, 2) per split: recording and first sample; and the recordings too short for a window."""
    places: dict[str, np.ndarray] = {}
    short: dict[str, tuple[Recording, int]] = {}
    for name in (name for name in NAMES if name in splits):
        rows = []
        for segment in splits[name]:
            starts = window_starts(segment.start, segment.stop, span, config.stride)
            rows += [(segment.recording, start) for start in starts]
            if not starts:
                recording = recordings[segment.recording]
                short.setdefault(recording.id, (recording, segment.stop - segment.start))
        if not rows:
            raise DataError(_no_window(store, name, splits[name], config.window, span))
        places[name] = np.array(rows, np.int64)
    if short and not config.allow_short:
        first, length = next(iter(short.values()))
        raise DataError(
            f"{store.path}: {len(short)} recordings are shorter than the {span} samples of a window and its forecast, "
            f"first {first.id} (from {first.source}) with {length}; use a shorter data.window, or "
            "data.allow_short=true to leave them out"
        )
    return places, list(short)


def _no_window(store: Store, name: str, segments: list[Segment], window: int, span: int) -> str:
    longest = max(segment.stop - segment.start for segment in segments)
    room = longest - (span - window)
    remedy = f"use data.window<={room}" if room > 1 else "forecast less, or name other recordings"
    return (
        f"{store.path}: {name} has no window: the longest of its {len(segments)} recordings offers {longest} samples, "
        f"data.window={window} and what is to be forecast need {span}; {remedy}"
    )


def _moments(store: Store, recordings: list[Recording]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance per channel of each recording; raises a DataError at a sample that is not finite."""
    moments = []
    for recording in recordings:
        signal = store.signal(recording, 0, recording.length)
        if not np.isfinite(signal.sum()):  # cheaper than asking every sample
            check_finite(signal, f"{store.path}: recording {recording.id} (from {recording.source})")
        moments.append((signal.mean(0, np.float64), signal.var(0, np.float64)))
    return moments


def _scaling(
    kind: Normalisation,
    store: Store,
    recordings: list[Recording],
    train: list[Segment],
    moments: list[tuple[np.ndarray, np.ndarray]],
    n_channels: int,
) -> np.ndarray | None:
    """(recordings, 2, C): mean and scale; None where every window takes its own."""
    if kind is Normalisation.window:
        return None
    scaling = np.zeros((len(recordings), 2, n_channels), np.float32)
    scaling[:, 1] = 1
    if kind is Normalisation.none:
        return scaling
    pooled = _pooled(store, recordings, train) if kind is Normalisation.train else {}
    for index, recording in enumerate(recordings):
        if pooled and recording.system not in pooled:
            raise DataError(
                f"data.normalisation=train has no training window of system {recording.system}; "
                "use data.normalisation=recording or window"
            )
        mean, variance = pooled[recording.system] if pooled else moments[index]
        scaling[index, 0, : len(mean)] = mean
        scaling[index, 1, : len(mean)] = safe_scale(mean, np.sqrt(variance))
    return scaling


def _pooled(
    store: Store, recordings: list[Recording], train: list[Segment]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """System -> mean and variance per channel over all of its training samples, and no others.

    Segments are merged by their centred moments (Chan et al. 1983), so that a large mean cancels nothing.
    """
    merged: dict[str, tuple[float, np.ndarray, np.ndarray]] = {}
    for segment in train:
        recording = recordings[segment.recording]
        signal = store.signal(recording, segment.start, segment.stop)
        n, mean, squares = len(signal), signal.mean(0, np.float64), len(signal) * signal.var(0, np.float64)
        before, mean_before, squares_before = merged.get(recording.system, (0, mean, 0 * mean))
        total, step = before + n, mean - mean_before
        merged[recording.system] = (
            total,
            mean_before + step * n / total,
            squares_before + squares + step**2 * before * n / total,
        )
    return {system: (mean, squares / n) for system, (n, mean, squares) in merged.items()}


def _labelled(windows: Windows, name: str, path: Path) -> dict[str, int]:
    """Windows with a target, per task; every split needs some, the test enough for every metric to be defined."""
    counts = {}
    for task, target in windows.targets.items():
        counts[task], values = _count(windows, target)
        if not counts[task]:
            raise DataError(
                f"{path}: no window of {name} has a label for {task}; leave the task out (~task.{task}), "
                "choose another data.label, or split otherwise"
            )
        if name == "test" and len(values) < target.distinct:
            raise DataError(
                f"{path}: the labels of {name} for {task} are all {values.pop()}, so its metrics are not defined; "
                f"leave the task out (~task.{task}) or split otherwise"
            )
    return counts


def _count(windows: Windows, target: Target) -> tuple[int, set[float]]:
    """Windows with a target, and the values of the first and last window of every recording."""
    count, values = 0, set()
    future = np.zeros((windows.n_channels, windows.span - windows.window), np.float32)
    numbers, first, per_recording = np.unique(windows.places[:, 0], return_index=True, return_counts=True)
    for number, at, n in zip(numbers.tolist(), first.tolist(), per_recording.tolist(), strict=True):
        ends = windows.places[[at, at + n - 1], 1] + windows.window
        found = [target.of(windows.recordings[number], future, int(end)) for end in ends]
        if found[0] is not None:
            count += n
            values |= {0.0} if target.per_channel else set(map(float, found))
    return count, values
