"""Recordings into a store (:mod:`vibench.data.store` says how it is laid out): whole or not at all."""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vibench.data.store import BLOCK, FORMAT, NUMBERS, TEXTS, VERSION, check_finite
from vibench.errors import DataError


class Spool:
    """A signal on its way into a store that may be longer than memory: raw float32 in a file.

    Args:
        path: of the file, which is made.
        channels: in a sample.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self.path, self.channels, self.length = path, channels, 0
        path.write_bytes(b"")

    def append(self, samples: np.ndarray) -> None:
        """Samples (n, channels) behind those that are there."""
        with self.path.open("ab") as file:
            np.ascontiguousarray(samples, np.float32).tofile(file)
        self.length += len(samples)

    def blocks(self) -> Iterator[np.ndarray]:
        """The whole signal, (n, channels) at a time."""
        for start in range(0, self.length, BLOCK):
            count = min(BLOCK, self.length - start) * self.channels
            yield np.fromfile(self.path, np.float32, count, offset=start * self.channels * 4).reshape(-1, self.channels)


@dataclass(kw_only=True, slots=True)
class RawRecording:
    """A recording on its way into a store.

    Attributes:
        signal: (samples, channels) of finite numbers.
        events: (k, 2) samples where an event begins and ends; None where nobody has looked for any.
    """

    signal: np.ndarray | Spool
    id: str
    system: str
    entity: str
    source: str
    rate_hz: float
    anomaly: bool | None = None
    rul_s: float | None = None
    columns: dict[str, str] = field(default_factory=dict)
    events: np.ndarray | None = None


def write_store(path: Path, recordings: Iterable[RawRecording], preparation: dict[str, Any] | None = None) -> int:
    """Write recordings to a new store and return their number; the file appears whole or not at all.

    Signals go to one raw file per system first, so that memory holds one recording, or a part of it, at a time.

    Args:
        preparation: how the signals were made of the raw ones, in plain types; None where nothing was done to them.

    Raises:
        DataError: no recording, samples that are not finite, or systems whose recordings differ in channels.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        rows, events, signals = _spool(Path(folder), recordings)
        if not rows:
            raise DataError(f"{path}: nothing to write, no recording was read")
        whole = Path(folder) / "store.h5"
        with h5py.File(whole, "w", libver="v110") as file:
            file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
            if preparation:
                file.attrs["preparation"] = json.dumps(preparation, sort_keys=True)
            _write_table(file.create_group("recordings"), rows)
            if any(spans is not None for spans in events):
                _write_events(file.create_group("events"), events)
            for system, spool in sorted(signals.items()):
                shape = (spool.length, spool.channels)
                signal = file.create_dataset(f"systems/{system}/signal", shape, np.float32, track_times=False)
                for number, block in enumerate(spool.blocks()):
                    signal[number * BLOCK : number * BLOCK + len(block)] = block
        os.replace(whole, path)
    return len(rows)


def _spool(
    folder: Path, recordings: Iterable[RawRecording]
) -> tuple[list[dict[str, Any]], list[np.ndarray | None], dict[str, Spool]]:
    """Rows of the table, events of each, and the signal of every system."""
    rows: list[dict[str, Any]] = []
    events: list[np.ndarray | None] = []
    signals: dict[str, Spool] = {}
    for recording in recordings:
        raw, source = recording.signal, recording.source
        spooled = isinstance(raw, Spool)
        blocks = _sound(raw, source) if spooled else [finite(raw, source)]
        channels = raw.channels if spooled else raw.shape[1]
        _check_names(recording, rows)
        if recording.system not in signals:
            signals[recording.system] = Spool(folder / f"{recording.system}.f32", channels)
        there = signals[recording.system]
        if channels != there.channels:
            raise DataError(
                f"{recording.source} has {channels} channels, the other recordings of system "
                f"{recording.system} have {there.channels}; make them systems of their own"
            )
        start = there.length
        for block in blocks:
            there.append(block)
        rows.append(
            {name: getattr(recording, name) for name in (*TEXTS, "rate_hz")}
            | recording.columns
            | {
                "start": start,
                "length": there.length - start,
                "anomaly": -1 if recording.anomaly is None else int(recording.anomaly),
                "rul_s": math.nan if recording.rul_s is None else recording.rul_s,
            }
        )
        events.append(recording.events)
    return rows, events, signals


def _sound(spool: Spool, source: str) -> Iterator[np.ndarray]:
    """Its blocks, of which every sample is finite."""
    for block in spool.blocks():
        if not np.isfinite(block).all():
            check_finite(spool.blocks(), source)
        yield block


def _write_events(group: h5py.Group, events: list[np.ndarray | None]) -> None:
    known = [spans for spans in events if spans is not None]
    owner = [number for number, spans in enumerate(events) if spans is not None for _ in spans]
    spans = np.concatenate([np.asarray(spans, np.int64).reshape(-1, 2) for spans in known])
    group.create_dataset("known", data=np.array([spans is not None for spans in events]), track_times=False)
    group.create_dataset("recording", data=np.array(owner, np.int64), track_times=False)
    group.create_dataset("spans", data=spans, track_times=False)


def _check_names(recording: RawRecording, rows: list[dict[str, Any]]) -> None:
    if "/" in recording.system:
        raise DataError(f"{recording.source}: the system {recording.system} has a / in its name; use another character")
    if any(row["entity"] == recording.entity and row["system"] != recording.system for row in rows):
        raise DataError(f"{recording.source}: entity {recording.entity} is in two systems; name every entity once")


def _write_table(table: h5py.Group, rows: list[dict[str, Any]]) -> None:
    for name in sorted({name for row in rows for name in row}):
        if name in NUMBERS:
            table.create_dataset(name, data=np.array([row[name] for row in rows], NUMBERS[name]), track_times=False)
        else:
            texts = [str(row.get(name, "")).encode() for row in rows]  # fixed width: HDF5's heap is not reproducible
            width = max(1, *map(len, texts))
            table.create_dataset(name, data=np.array(texts, f"S{width}"), track_times=False)


def finite(signal: np.ndarray, source: str) -> np.ndarray:
    """A raw signal in float32.

    Raises:
        DataError: it is empty, or a sample is NaN, infinite or beyond float32.
    """
    if not len(signal):
        raise DataError(f"{source} holds no sample")
    with np.errstate(over="ignore"):
        signal = np.asarray(signal, dtype=np.float32)
    check_finite([signal], source)
    return signal
