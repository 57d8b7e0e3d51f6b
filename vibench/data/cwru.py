"""Case Western Reserve University bearing data: .mat files to recordings.

What each file number is, as published with the data (Smith and Randall 2015, 10.1016/j.ymssp.2015.04.021, tables A
and B). Traps, each met in the files: the numbers of the variables need not be the file's (174.mat holds
``X173_DE_time``, 99.mat also holds those of 98.mat), ``RPM`` may be absent, and the normal files are sampled at 48 kHz
by most tables while the fault files beside them are at 12 kHz.
"""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vibench.data.prepare import NotWantedError
from vibench.data.writing import RawRecording
from vibench.errors import DataError


class Test(NamedTuple):
    """What one file recorded."""

    fault: str
    mils: str  # diameter of the fault in thousandths of an inch
    end: str  # whose bearing is faulty: DE drive end, FE fan end
    position: str  # of an outer-race fault on the clock
    load_hp: int
    rate_hz: int


def _tests() -> dict[int, Test]:
    """File number -> what it recorded; four loads a row, 0 to 3 hp."""
    table = {number: Test("healthy", "", "", "", number - 97, 48_000) for number in range(97, 101)}
    rows = [
        # 12 kHz, drive end
        ("inner", "007", "DE", "", 12, (105, 106, 107, 108)),
        ("ball", "007", "DE", "", 12, (118, 119, 120, 121)),
        ("outer", "007", "DE", "6", 12, (130, 131, 132, 133)),
        ("outer", "007", "DE", "3", 12, (144, 145, 146, 147)),
        ("outer", "007", "DE", "12", 12, (156, 158, 159, 160)),
        ("inner", "014", "DE", "", 12, (169, 170, 171, 172)),
        ("ball", "014", "DE", "", 12, (185, 186, 187, 188)),
        ("outer", "014", "DE", "6", 12, (197, 198, 199, 200)),
        ("inner", "021", "DE", "", 12, (209, 210, 211, 212)),
        ("ball", "021", "DE", "", 12, (222, 223, 224, 225)),
        ("outer", "021", "DE", "6", 12, (234, 235, 236, 237)),
        ("outer", "021", "DE", "3", 12, (246, 247, 248, 249)),
        ("outer", "021", "DE", "12", 12, (258, 259, 260, 261)),
        ("inner", "028", "DE", "", 12, (3001, 3002, 3003, 3004)),
        ("ball", "028", "DE", "", 12, (3005, 3006, 3007, 3008)),
        # 48 kHz, drive end
        ("inner", "007", "DE", "", 48, (109, 110, 111, 112)),
        ("ball", "007", "DE", "", 48, (122, 123, 124, 125)),
        ("outer", "007", "DE", "6", 48, (135, 136, 137, 138)),
        ("outer", "007", "DE", "3", 48, (148, 149, 150, 151)),
        ("outer", "007", "DE", "12", 48, (161, 162, 163, 164)),
        ("inner", "014", "DE", "", 48, (174, 175, 176, 177)),
        ("ball", "014", "DE", "", 48, (189, 190, 191, 192)),
        ("outer", "014", "DE", "6", 48, (201, 202, 203, 204)),
        ("inner", "021", "DE", "", 48, (213, 214, 215, 217)),
        ("ball", "021", "DE", "", 48, (226, 227, 228, 229)),
        ("outer", "021", "DE", "6", 48, (238, 239, 240, 241)),
        ("outer", "021", "DE", "3", 48, (250, 251, 252, 253)),
        ("outer", "021", "DE", "12", 48, (262, 263, 264, 265)),
        # 12 kHz, fan end; not every load was recorded
        ("inner", "007", "FE", "", 12, (278, 279, 280, 281)),
        ("ball", "007", "FE", "", 12, (282, 283, 284, 285)),
        ("outer", "007", "FE", "6", 12, (294, 295, 296, 297)),
        ("outer", "007", "FE", "3", 12, (298, 299, 300, 301)),
        ("outer", "007", "FE", "12", 12, (302, 305, 306, 307)),
        ("inner", "014", "FE", "", 12, (274, 275, 276, 277)),
        ("ball", "014", "FE", "", 12, (286, 287, 288, 289)),
        ("outer", "014", "FE", "3", 12, (310, 309, 311, 312)),
        ("outer", "014", "FE", "6", 12, (313, None, None, None)),
        ("inner", "021", "FE", "", 12, (270, 271, 272, 273)),
        ("ball", "021", "FE", "", 12, (290, 291, 292, 293)),
        ("outer", "021", "FE", "6", 12, (315, None, None, None)),
        ("outer", "021", "FE", "3", 12, (None, 316, 317, 318)),
    ]
    for fault, mils, end, position, khz, numbers in rows:
        for load_hp, number in enumerate(numbers):
            if number is not None:
                table[number] = Test(fault, mils, end, position, load_hp, khz * 1000)
    return table


TESTS = _tests()
SENSORS = ("DE", "FE")  # in every file; BA, on the base, is missing in the normal ones


def reader(normal_rate_hz: int) -> Callable[[Path], RawRecording]:
    """A function that reads one file.

    Args:
        normal_rate_hz: sampling rate taken for 97.mat to 100.mat, which the sources disagree on: 48000 or 12000.
    """
    if importlib.util.find_spec("pymatreader") is None:
        raise DataError("reading .mat files needs the package pymatreader; run `pip install vibench[mat]`")

    def read(path: Path) -> RawRecording:
        test = _test(path)
        signal, rpm = _variables(path)
        fault = test.fault
        size = f"{fault}_{test.mils}" if test.mils else fault
        return RawRecording(
            signal=signal,
            id=path.stem,
            system="cwru",
            entity=f"{test.end}-{size}" if test.mils else fault,  # the physical bearing: location, size and end
            source=str(path),
            rate_hz=normal_rate_hz if fault == "healthy" else test.rate_hz,
            anomaly=fault != "healthy",
            columns={
                "fault": fault,
                "fault_size": size,
                "mils": test.mils,
                "end": test.end,
                "position": test.position,
                "load": str(test.load_hp),
                "rpm": rpm,
            },
        )

    return read


def _test(path: Path) -> Test:
    if path.suffix.lower() != ".mat":
        raise NotWantedError("not a .mat file")
    if not path.stem.isdigit() or int(path.stem) not in TESTS:
        raise NotWantedError("its name is not a file number of the data set (97.mat, 105.mat, ...)")
    return TESTS[int(path.stem)]


def _variables(path: Path) -> tuple[np.ndarray, str]:
    """(samples, 2) of the drive end and fan end sensors, and the RPM as text, empty where the file has none."""
    from pymatreader import read_mat

    try:
        content = read_mat(str(path))
    except Exception as error:  # scipy raises a dozen kinds on damaged files
        raise DataError(f"{path} cannot be read as a .mat file: {error or type(error).__name__}") from error
    signals = [_signal(path, content, f"_{sensor}_time") for sensor in SENSORS]
    if len(signals[0]) != len(signals[1]):
        raise DataError(
            f"{path} has {len(signals[0])} drive end and {len(signals[1])} fan end samples, not equally many"
        )
    rpm = _own(path, content, "RPM")
    return np.stack(signals, 1), f"{float(content[rpm[0]]):g}" if len(rpm) == 1 else ""


def _signal(path: Path, content: dict[str, Any], suffix: str) -> np.ndarray:
    names = _own(path, content, suffix)
    if len(names) != 1:
        found = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise DataError(f"{path} has no variable X...{suffix} of its own; it holds {found}")
    try:
        signal = np.asarray(content[names[0]], np.float64).ravel()
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {names[0]} is not a signal: {error}") from error
    if len(signal) < 2:
        raise DataError(f"{path}: {names[0]} holds {len(signal)} samples, which is no recording")
    return signal


def _own(path: Path, content: dict[str, Any], suffix: str) -> list[str]:
    """Variables with that suffix: those of the file's own number where there are any."""
    numbers = {name: int(m[1]) for name in content if (m := re.fullmatch(rf"X(\d+){suffix}", name))}
    return [name for name, number in numbers.items() if number == int(path.stem)] or list(numbers)
