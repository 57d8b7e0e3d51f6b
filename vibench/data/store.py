"""Recordings on disk: one HDF5 file, each sample once.

Layout of a store (version 1)::

    /systems/NAME/signal    (samples of all its recordings, channels) float32, contiguous
    /recordings/COLUMN      one row per recording
    /events/known           (recordings,) whether anybody has looked for events in it
    /events/recording       (events,) row of the recording
    /events/spans           (events, 2) samples of the recording where one begins and ends

Columns every store has: ``id``, ``system``, ``entity``, ``source`` (file it came from), ``rate_hz``, ``start`` and
``length`` (samples, into the signal of its system), ``anomaly`` (1 faulty, 0 healthy, -1 unknown), ``rul_s`` (seconds
to failure at the first sample, NaN unknown). Every other column is text (fault, load, ...), empty where unknown, and
can be named by ``data.label``, ``data.split.by`` and ``data.only``. ``/events`` is there where the data has events
(seizures); the attribute ``preparation`` says how the signals were made of the raw ones, as JSON.

One contiguous dataset per system, not one per recording: FEMTO has 27,146 recordings, and a window is one read from a
position that HDF5 itself reports. It is read, not mapped: where a mapped file is cut short or its disk goes, the kernel
kills the process, and nobody can say why.
"""

import json
import math
import os
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vibench.errors import DataError, is_out_of_memory

FORMAT, VERSION = "vibench-store", 1
BLOCK = 1 << 18  # samples that are handled at once, where a recording may be longer than memory
NUMBERS = {"rate_hz": "f8", "start": "i8", "length": "i8", "anomaly": "i1", "rul_s": "f8"}
TEXTS = ("id", "system", "entity", "source")


@dataclass(kw_only=True, slots=True)
class Recording:
    """A continuous signal of one sensor set.

    Attributes:
        start, length: samples, into the signal of its system.
        anomaly: True faulty, False healthy, None unknown.
        rul_s: seconds to failure at the first sample, None unknown.
        columns: every text column of the store, e.g. ``fault``.
        events: (k, 2) samples of the recording where an event begins and ends; None where nobody has looked for any.
        label: index of its class; None until ``data.label`` was read, and where it has none.
    """

    id: str
    system: str
    entity: str
    source: str
    rate_hz: float
    start: int
    length: int
    anomaly: bool | None
    rul_s: float | None
    columns: dict[str, str] = field(default_factory=dict)
    events: np.ndarray | None = None
    label: int | None = None


class Store:
    """Reads a store. Its file is open as long as it is; processes that are forked share it, others open it anew.

    Raises:
        DataError: the file is no store, or is damaged; names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        try:
            with h5py.File(path, "r") as file:
                self._understand(file)
        except FileNotFoundError:
            raise DataError(f"{path} does not exist; make it with `vibench-data prepare`") from None
        except (OSError, KeyError, IndexError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise DataError(f"{path} cannot be read as a store: {said}; {_AGAIN}") from error

    def _understand(self, file: h5py.File) -> None:
        if file.attrs.get("format") != FORMAT:
            raise DataError(
                f"{self.path} is an HDF5 file but not a vibench store; make one with `vibench-data prepare`"
            )
        if file.attrs["version"] != VERSION:
            raise DataError(f"{self.path} has store version {file.attrs['version']}, this is {VERSION}; {_AGAIN}")
        self._places: dict[str, tuple[int, tuple[int, int]]] = {}
        for name, group in file["systems"].items():
            signal = group["signal"]
            offset = signal.id.get_offset()
            if signal.dtype != np.float32 or signal.ndim != 2 or offset is None:
                raise DataError(f"{self.path}: signal of system {name} is not contiguous float32; {_AGAIN}")
            self._places[name] = (offset, signal.shape)
        self.recordings = _recordings(file["recordings"])
        if "events" in file:
            _read_events(file["events"], self.recordings)
        self.preparation: dict[str, Any] = json.loads(file.attrs.get("preparation", "{}"))
        self.columns = list(self.recordings[0].columns) if self.recordings else []
        for recording in self.recordings:
            place = self._places.get(recording.system)
            inside = place is not None and 0 <= recording.start < recording.start + recording.length <= place[1][0]
            if not inside:
                raise DataError(f"{self.path}: recording {recording.id} lies outside its signal; {_AGAIN}")

    @property
    def systems(self) -> list[str]:
        return sorted(self._places)

    def channels(self, system: str) -> int:
        return self._places[system][1][1]

    def signal(self, recording: Recording, start: int, stop: int) -> np.ndarray:
        """(stop - start, channels) float32, read-only; fewer at the end of the recording.

        Raises:
            DataError: the file is gone, or shorter than it was.
        """
        offset, (length, channels) = self._places[recording.system]
        begin, end = (min(recording.start + min(sample, recording.length), length) for sample in (start, stop))
        width = channels * 4
        samples = self._read(offset + begin * width, (end - begin) * width)
        return np.frombuffer(samples, np.float32).reshape(end - begin, channels)

    def blocks(self, recording: Recording, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The same in parts, for what may be longer than memory."""
        stop = recording.length if stop is None else stop
        for begin in range(start, stop, BLOCK):
            yield self.signal(recording, begin, min(begin + BLOCK, stop))

    def _read(self, place: int, nbytes: int) -> bytes:
        found = b""
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._file)
            while len(found) < nbytes:  # the kernel reads 2 GiB at most
                more = os.pread(self._file, nbytes - len(found), place + len(found))
                if not more:
                    raise DataError(f"{self.path} was cut short while it was in use; bring it back as it was")
                found = found + more if found else more
        except OSError as error:
            if is_out_of_memory(error):
                raise
            raise DataError(f"{self.path} cannot be read any more: {error.strerror}; bring it back") from error
        return found

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}  # an open file is not inherited, it is opened


_AGAIN = "delete it and make it again"


def _recordings(table: h5py.Group) -> list[Recording]:
    columns = {name: [text.decode() for text in table[name][:].tolist()] for name in table if name not in NUMBERS}
    numbers = {name: table[name][:].tolist() for name in NUMBERS}
    if len({len(values) for values in (*columns.values(), *numbers.values())}) != 1:
        raise OSError("its columns differ in length")
    own = [name for name in columns if name not in TEXTS]
    return [
        Recording(
            **{name: columns[name][i] for name in TEXTS},
            rate_hz=numbers["rate_hz"][i],
            start=numbers["start"][i],
            length=numbers["length"][i],
            anomaly=None if numbers["anomaly"][i] < 0 else bool(numbers["anomaly"][i]),
            rul_s=None if math.isnan(numbers["rul_s"][i]) else numbers["rul_s"][i],
            columns={name: columns[name][i] for name in own},
        )
        for i in range(len(columns["id"]))
    ]


def _read_events(group: h5py.Group, recordings: list[Recording]) -> None:
    """Give every recording that somebody has looked through the events that were found."""
    owner, spans = group["recording"][:], group["spans"][:]
    for number in np.flatnonzero(group["known"][:]).tolist():
        recordings[number].events = spans[owner == number]


def check_finite(blocks: Iterable[np.ndarray], source: str) -> None:
    """Raise a DataError that names the first sample that is NaN or infinite, of a signal that comes in blocks."""
    count, done, first = 0, 0, ""
    for block in blocks:
        usable = np.isfinite(block)
        if not usable.all():
            sample, channel = np.argwhere(~usable)[0]
            first = first or f"sample {done + sample} of channel {channel}"
            count += int((~usable).sum())
        done += len(block)
    if count:
        raise DataError(
            f"{source} has {count} samples that are not finite numbers, the first at {first}; repair or remove the file"
        )
