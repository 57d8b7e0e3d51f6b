"""From a data config to audited, loadable splits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vibench.config.data import DataConfig, DemoConfig, DemoEEGConfig, EEGConfig, EEGDataConfig, StoreConfig
from vibench.data.audit import audit
from vibench.data.batch import Target
from vibench.data.drawing import draw_of
from vibench.data.eeg.preparation import check_preparation
from vibench.data.few_labels import few_labels
from vibench.data.loader import Data
from vibench.data.normalisation import check_samples, scaling_of
from vibench.data.splits import NAMES, Segment, column, make_splits
from vibench.data.store import Recording, Store
from vibench.data.synthetic import demo_store
from vibench.data.windows import Windows, covering_starts, span_of, window_starts
from vibench.errors import DataError


def build(config: DataConfig, targets: dict[str, Target]) -> Data:
    """Open the store, split it, audit the splits.

    Args:
        targets: task -> how its target is read from a recording.

    Raises:
        DataError: names the file, the recording or the split that cannot be used.
    """
    store, recordings, splits, classes = _opened(config)
    path, span = store.path, span_of(config.window, targets)
    places, short = _cut(store, recordings, splits, config, span)
    unlabelled = None
    if config.labels_per_class is not None:
        places["train"], unlabelled = few_labels(recordings, places["train"], targets, classes, config)
    check_samples(store, recordings)
    certificate = audit(store, recordings, places, span, config.window, config.allow_leaky)
    n_channels = _channels(store, recordings)
    entities = {name: i for i, name in enumerate(sorted({r.entity for r in recordings}))}
    scaling = scaling_of(config.normalisation, store, recordings, splits["train"], n_channels)
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
            clip=config.clip if isinstance(config, EEGDataConfig) else None,
            unlabelled=unlabelled if name == "train" else None,
        )
        for name, rows in places.items()
    }
    for name, split in windows.items():
        certificate["splits"][name]["labelled_windows"] = _labelled(split, name, path)
    for part, split in zip(certificate["splits"].values(), windows.values(), strict=True):
        labels = [recordings[i].label for i in split.places[~split.unlabelled, 0].tolist()]
        part["windows_per_class"] = {name: labels.count(number) for number, name in enumerate(classes)}
    if config.labels_per_class is not None:
        certificate["splits"]["train"]["labels_per_class"] = config.labels_per_class
    certificate |= {"store": str(path), "by": config.split.by, "short_recordings": short, "classes": classes}
    return Data(
        splits=windows,
        draw=draw_of(recordings, places["train"], config),
        n_channels=n_channels,
        classes=classes,
        certificate=certificate,
        workers=config.workers,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a plan must know of data, and no sample of it is read for.

    Attributes:
        n_channels: C, of the widest system.
        n_classes: of the recordings in use.
        windows: split -> how many; of the training those of an epoch.
    """

    n_channels: int
    n_classes: int
    windows: dict[str, int]


def survey(config: DataConfig, targets: dict[str, Target]) -> Survey:
    """Sizes of the data that :func:`build` would load; nothing is audited.

    Raises:
        DataError: as ``build`` does for what is wrong with the store or its splits.
    """
    store, recordings, splits, classes = _opened(config)
    places, _ = _cut(store, recordings, splits, config, span_of(config.window, targets))
    if config.labels_per_class is not None:
        places["train"], _ = few_labels(recordings, places["train"], targets, classes, config)
    return Survey(
        n_channels=_channels(store, recordings),
        n_classes=len(classes),
        windows={name: len(rows) for name, rows in places.items()}
        | {"train": len(draw_of(recordings, places["train"], config))},
    )


def _opened(config: DataConfig) -> tuple[Store, list[Recording], dict[str, list[Segment]], list[str]]:
    """The store, its recordings in use, their splits, and the names of their classes."""
    store = Store(_path(config))
    if isinstance(config, EEGDataConfig):
        check_preparation(store, config.preprocessing)
    recordings = _chosen(store, config)
    splits = make_splits(recordings, config.split, lambda r: f"{r.system} {r.columns.get(config.label, '')}")
    recordings, splits = _in_use(recordings, splits)
    return store, recordings, splits, _label(recordings, config.label)


def _channels(store: Store, recordings: list[Recording]) -> int:
    return max(store.channels(r.system) for r in recordings)


def _path(config: DataConfig) -> Path:
    if isinstance(config, DemoConfig):
        return demo_store(config)
    if isinstance(config, DemoEEGConfig):
        from vibench.data.eeg.records import demo_eeg_store  # here: it needs the extra eeg

        return demo_eeg_store(config)
    assert isinstance(config, (StoreConfig, EEGConfig))
    return Path(config.store).expanduser()


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
    fills = isinstance(config, EEGDataConfig) and span == config.window  # a forecast has nothing to be filled with
    places: dict[str, np.ndarray] = {}
    short: dict[str, tuple[Recording, int]] = {}
    for name in (name for name in NAMES if name in splits):
        rows = []
        for segment in splits[name]:
            recording, length = recordings[segment.recording], segment.stop - segment.start
            whole = length >= span or segment.stop == recording.length  # else what follows is of another split
            cut = covering_starts if fills and whole else window_starts
            starts = cut(segment.start, segment.stop, span, config.stride)
            rows += [(segment.recording, start) for start in starts]
            if length < span:
                short.setdefault(recording.id, (recording, length))
        if not rows:
            raise DataError(_no_window(store, name, splits[name], config.window, span))
        places[name] = np.array(rows, np.int64)
    if short and not config.allow_short:
        first, length = next(iter(short.values()))
        raise DataError(
            f"{store.path}: {len(short)} recordings are shorter than the {span} samples of a window and its forecast, "
            f"first {first.id} (from {first.source}) with {length}; use a shorter data.window, or "
            f"data.allow_short=true to {'fill them up' if fills else 'leave them out'}"
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
        chooses = name == "val" and target.per_sample  # thresholds are found there
        if (name == "test" or chooses) and len(values) < target.distinct:
            raise DataError(
                f"{path}: the labels of {name} for {task} are all {values.pop()}, so its metrics are not defined; "
                f"leave the task out (~task.{task}) or split otherwise"
            )
    return counts


def _extremes(label: Any, target: Target) -> tuple[Any, ...] | None:
    """The one value of a label, or the least and the largest of those of its samples; None where there is none."""
    if label is None or target.per_channel:
        return None if label is None else ()
    return (label.min(), label.max()) if target.per_sample else (label,)


def _count(windows: Windows, target: Target) -> tuple[int, set[float]]:
    """Windows with a target, and the values of the first and last window of every recording, or of every sample's."""
    count, values = 0, set()
    numbers, first, per_recording = np.unique(windows.places[:, 0], return_index=True, return_counts=True)
    for number, at, n in zip(numbers.tolist(), first.tolist(), per_recording.tolist(), strict=True):
        chosen = slice(at, at + n) if target.per_sample else [at, at + n - 1]
        starts = windows.places[chosen, 1].tolist()
        found = [_extremes(windows.label(target, number, start), target) for start in starts]
        told = n - int(windows.unlabelled[at : at + n].sum()) if target.of_class else n
        if found[0] is not None and told:
            count += told
            values |= {0.0} if target.per_channel else {float(value) for label in found for value in label}
    return count, values
