"""FEMTO (PRONOSTIA) run-to-failure data: a folder of .csv files per bearing to recordings.

Nectoux et al. 2012, PRONOSTIA: an experimental platform for bearings accelerated degradation tests. File k of a
bearing holds 0.1 s at 25.6 kHz, taken 10 (k-1) s after its start; the last file is the failure. Traps, each met in the
files: Bearing1_4 and the temperature files are separated by ``;``, the others by ``,``; microseconds come in
scientific notation; ``Test_set`` is cut before the failure, ``Full_Test_Set`` is not.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vibench.data.prepare import NotWantedError
from vibench.data.writing import RawRecording
from vibench.errors import DataError

RATE_HZ = 25_600
PERIOD_S = 10
CONDITIONS = {"1": ("1800", "4000"), "2": ("1650", "4200"), "3": ("1500", "5000")}  # rpm, radial load in N
COLUMNS = 6  # hour, minute, second, microsecond, horizontal and vertical acceleration in g


def reader(files: list[Path]) -> Callable[[Path], RawRecording]:
    """A function that reads one file.

    Args:
        files: all files, since the last number of a bearing is when it failed.
    """
    last: dict[str, int] = {}
    for path in files:
        if (place := _place(path)) is not None:
            last[place[0]] = max(last.get(place[0], 0), place[1])

    def read(path: Path) -> RawRecording:
        place = _place(path)
        if place is None:
            raise NotWantedError(_why_not(path))
        bearing, k = place
        rpm, load = CONDITIONS[bearing[len("Bearing")]]
        return RawRecording(
            signal=_samples(path),
            id=f"{bearing}-{k:05d}",
            system="femto",
            entity=bearing,
            source=str(path),
            rate_hz=RATE_HZ,
            rul_s=float((last[bearing] - k) * PERIOD_S),
            columns={"condition": bearing[len("Bearing")], "rpm": rpm, "load": load},
        )

    return read


def _place(path: Path) -> tuple[str, int] | None:
    """Bearing and number of an acceleration file."""
    folder, name = path.resolve().parent.name, path.name
    bearing, file = re.fullmatch(r"Bearing[123]_\d+", folder), re.fullmatch(r"acc_(\d+)\.csv", name)
    if not bearing or not file or _is_cut(path):
        return None
    return bearing[0], int(file[1])


def _numbers(line: list[str]) -> bool:
    try:
        return len([float(text) for text in line]) == COLUMNS
    except ValueError:
        return False


def _is_cut(path: Path) -> bool:
    return path.resolve().parent.parent.name.lower() == "test_set"


def _why_not(path: Path) -> str:
    if _is_cut(path):
        return "Test_set ends before the failure, so its remaining life is unknown; take Full_Test_Set"
    if path.name.startswith("temp_"):
        return "temperature, 0.1 Hz"
    return "not BearingX_Y/acc_NNNNN.csv"


def _samples(path: Path) -> np.ndarray:
    """(samples, 2): horizontal and vertical acceleration in g."""
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}") from error
    first = text.split("\n", 1)[0]
    separator = next((mark for mark in ",;" if first.count(mark) == COLUMNS - 1), None)
    if separator is None:
        raise DataError(
            f"{path} does not have {COLUMNS} columns separated by , or ; in its first line: {first.strip()[:60]!r}"
        )
    lines = [line.split(separator) for line in text.splitlines()]
    while lines and lines[-1] == [""]:
        lines.pop()
    try:
        table = np.array(lines, np.float64).reshape(len(lines), COLUMNS)
    except ValueError as error:
        number = next((i for i, line in enumerate(lines, 1) if not _numbers(line)), len(lines))
        said = separator.join(lines[number - 1])[:60]
        raise DataError(f"{path}: line {number} is not {COLUMNS} numbers: {said!r}") from error
    if len(table) < 2:
        raise DataError(f"{path} holds {len(table)} samples, which is no recording")
    return table[:, 4:]
