"""Memory that grows from epoch to epoch: whether it will last to the end, and who takes it.

The slope is the median of the slopes of all pairs of epochs (Theil 1950, Sen 1968), believed where the trend is
significant (Mann 1945, Kendall 1975) and both halves of what is looked at grow, and carried on as it develops:
neither a jump, nor noise, nor a plateau that is being approached is an alarm.
"""

import gc
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vibench.memory.device import GIB, peak_gib
from vibench.memory.host import free_gib, limit_left_gib

SKIPPED, WINDOW = 3, 12  # epochs at the beginning, when caches fill, and the last ones that are looked at
LEAST_BYTES = 3 * 10**6  # an epoch; less is noise
Z_SEEN, Z_LEAST, Z_SURE = 1.6, 2.3, 3.2  # of four epochs that all grow; of six; and of noise in one of 1,500 epochs
STEADY = 0.8  # of the slope of the first half: less in the second is growth that slows down
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Trend:
    """How memory develops.

    Attributes:
        slope: bytes an epoch.
        z: significance of the trend, in standard deviations; ``most`` is that of a series that always grows.
        halves: slopes of the first and of the second half of what was looked at.
        apart: epochs between the middles of the halves.
    """

    slope: float
    z: float
    most: float
    halves: tuple[float, float]
    apart: float

    @property
    def seen(self) -> bool:
        """Enough to begin counting who holds what."""
        return self.slope >= LEAST_BYTES and self.z >= Z_SEEN

    @property
    def sure(self) -> bool:
        """Both halves grow: a jump is in one of them."""
        certain = self.most >= Z_LEAST and self.z >= min(Z_SURE, self.most)
        return certain and self.slope >= LEAST_BYTES and min(self.halves) >= LEAST_BYTES / 2

    def to_come(self, epochs: int) -> float:
        """Bytes of so many more epochs. Growth that slows down is taken to slow down on, as towards a plateau."""
        first, second = self.halves
        if first <= 0 or not 0 < second / first < STEADY:
            return self.slope * epochs
        time = self.apart / -math.log(second / first)
        return second * time * (1 - math.exp(-epochs / time))


def trend(levels: Sequence[float]) -> Trend:
    """Of the bytes at the same point of successive epochs, the first ones of the run among them."""
    recent = levels[SKIPPED:][-WINDOW:]
    n = len(recent)
    pairs = list(combinations(range(n), 2))
    score = sum((recent[j] > recent[i]) - (recent[j] < recent[i]) for i, j in pairs)
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(recent).values())
    spread = math.sqrt(max(n * (n - 1) * (2 * n + 5) - ties, 0) / 18) or math.inf
    most = (len(pairs) - 1) / spread if pairs else 0.0
    z = (score - math.copysign(1, score)) / spread if score else 0.0
    half = n // 2
    halves = (_slope(recent[:half]), _slope(recent[n - half :]))
    return Trend(_slope(recent), z, most, halves, n - half)


def _slope(levels: Sequence[float]) -> float:
    pairs = [(b - a) / (j - i) for (i, a), (j, b) in combinations(enumerate(levels), 2)]
    return statistics.median(pairs) if pairs else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What is taken at one moment, in bytes.

    Attributes:
        device: allocated on the card; None on a CPU.
        host: of this process and its workers, without pages that are shared or read from files.
        device_peak: most that was allocated on the card so far; None on a CPU.
    """

    device: int | None
    host: int
    device_peak: int | None


def measure(device: torch.device) -> Memory:
    """What is taken now."""
    if device.type != "cuda":
        return Memory(device=None, host=_host_bytes(), device_peak=None)
    taken, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return Memory(device=taken, host=_host_bytes(), device_peak=peak)


def _host_bytes() -> int:
    pids = ["self"]
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            pids += path.read_text().split()
    return sum(map(_private_bytes, pids)) or int(peak_gib(torch.device("cpu")) * GIB)  # not on Linux: taken at most


def _private_bytes(pid: str) -> int:
    """What is in no file; of what several processes share, each is counted its part."""
    for file, keys in (("smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")), ("status", ("RssAnon:", "RssShmem:"))):
        with suppress(OSError):  # it has ended, or the kernel is old
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
            if found := [int(line.split()[1]) * 1024 for line in lines if line.startswith(keys)]:
                return sum(found)
    return 0


class Growth:
    """Measures at the end of every epoch, and says when what is left will not last.

    Args:
        device: where is trained.
        device_gib: what the card offers to the run; None where there is none.
        ram_gib: what the host offers to the run; None for what is free.
    """

    def __init__(self, device: torch.device, device_gib: float | None, ram_gib: float | None) -> None:
        self.device, self.device_gib, self.ram_gib = device, device_gib, ram_gib
        self.levels: dict[str, list[float]] = {"device": [], "host": []}
        self._census: dict[str, Counter[str]] = {}
        self._said = False

    def after_epoch(self, left: int) -> tuple[dict[str, float], str | None]:
        """GiB to log, and once, when it is sure, what grows and when it will be too much.

        Args:
            left: epochs that are still to come.
        """
        now = measure(self.device)
        taken = {"host": float(now.host)} | ({} if now.device is None else {"device": float(now.device)})
        for name, level in taken.items():
            self.levels[name].append(level)
        values = {f"memory/{name}_gib": level / GIB for name, level in taken.items()}
        if now.device_peak is not None:
            values["memory/device_peak_gib"] = now.device_peak / GIB
        peaks = {"host": 0.0, "device": (now.device_peak or 0) - (now.device or 0)}
        said = [self._look(name, level, peaks[name], left) for name, level in taken.items()]
        return values, next((text for text in said if text), None)

    def _look(self, name: str, level: float, peak: float, left: int) -> str | None:
        found = trend(self.levels[name])
        if not found.seen:
            self._census.pop(name, None)
            return None
        if name not in self._census:
            gc.collect()  # what waits for it is no leak
            self._census[name] = census()
            return None
        room = self._room(name, level)
        if self._said or not found.sure or room is None or found.to_come(left) + peak <= room:
            return None
        self._said = True
        gc.collect()
        epochs = max(int((room - peak) / found.slope), 0)
        where = "the card" if name == "device" else "the host"
        return (
            f"the memory of {where} grows by {found.slope / MIB:.1f} MiB an epoch, from {level / GIB:.2f} GiB, and is "
            f"exhausted in {epochs} epochs; there are {left} to come; {_growing(self._census[name], census())}"
        )

    def _room(self, name: str, level: float) -> float | None:
        """Bytes that can still be taken; None where that is not known."""
        offered = self.device_gib if name == "device" else self.ram_gib
        if offered is not None:
            return offered * GIB - level
        known = [gib for gib in (free_gib(), limit_left_gib()) if gib is not None] if name == "host" else []
        return min(known) * GIB if known else None


def census() -> Counter[str]:
    """Bytes of tensors by who holds them, as far as Python knows: the states of metrics, wherever they are, and other
    tensors by shape."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    objects = gc.get_objects()
    # isinstance would wake lazy modules, and remember every class that is no metric: 50 MB
    for metric in (one for one in objects if Metric in type(one).__mro__):
        for name in metric._defaults:
            state = getattr(metric, name)
            for tensor in state if isinstance(state, list) else [state]:
                if isinstance(tensor, Tensor):
                    seen.add(id(tensor))
                    found[f"state {name} of the metric {type(metric).__name__}"] += _bytes(tensor)
    for tensor in (one for one in objects if type(one) in (Tensor, torch.nn.Parameter)):
        if id(tensor) not in seen:
            kind = str(tensor.dtype).removeprefix("torch.")
            found[f"tensors {tuple(tensor.shape)} of {kind}"] += _bytes(tensor)
    return found


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() if tensor.layout is torch.strided else 0


def _growing(before: "Counter[str]", now: "Counter[str]") -> str:
    """The largest differences, in words."""
    more: list[tuple[str, Any]] = [(name, size - before[name]) for name, size in now.items() if size > before[name]]
    more = sorted(more, key=lambda item: -item[1])[:3]
    if not more or more[0][1] < LEAST_BYTES / 4:
        return "no tensor that Python knows of grows, so it is a library or an object of another kind"
    return "growing: " + ", ".join(f"{name} (+{size / MIB:.1f} MiB)" for name, size in more)
