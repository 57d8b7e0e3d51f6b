"""Data schemas: which store, how it is cut into windows, and how the windows are split."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vibench.config.setting import setting

HDF5 = b"\x89HDF\r\n\x1a\n"  # how every such file begins


class Normalisation(Enum):
    """Whose mean and standard deviation are taken from a window, per channel."""

    none = "none"
    window = "window"
    recording = "recording"
    train = "train"  # all training windows of the same system


@dataclass(kw_only=True, slots=True)
class SplitConfig:
    """Who is trained on, who is validated on, who is tested on."""

    by: str = setting(
        "column whose values stay whole: entity (bearing, run), system, or any of the store; time cuts each recording"
    )
    fractions: list[float] = setting("shares of train, validation and test; 0 leaves a split out", low=0, high=1)
    train: list[str] = setting(
        "values of the column to train on; empty: drawn by the fractions, or beside a named test all that is not named"
    )
    val: list[str] = setting("values of the column to validate on; empty beside a named test: no validation")
    test: list[str] = setting("values of the column to test on; empty: drawn by the fractions")
    seed: int = setting("seed of the draw; apart from the experiment's, so that seeds compare on one split", low=0)

    @property
    def named(self) -> bool:
        """Whether the splits are given by name."""
        return bool(self.train or self.val or self.test)

    @property
    def has_validation(self) -> bool:
        return bool(self.val) if self.named else len(self.fractions) != 3 or self.fractions[1] > 0

    def complaints(self) -> Iterator[str]:
        if len(self.fractions) != 3 or abs(sum(self.fractions) - 1) > 1e-6:
            yield (
                f"data.split.fractions={self.fractions} must be three shares (train, validation, test) that sum to 1; "
                "use e.g. [0.6,0.2,0.2]"
            )
        elif not self.named and not (self.fractions[0] and self.fractions[2]):
            yield f"data.split.fractions={self.fractions} leaves train or test empty; use e.g. [0.6,0.2,0.2]"
        if self.named and not self.test:
            yield (f"data.split names no test (train={self.train}, val={self.val}); name data.split.test too, or none")
        if self.named and self.by == "time":
            yield "data.split.by=time takes data.split.fractions, not names; empty data.split.train, val and test"
        named = {"train": self.train, "val": self.val, "test": self.test}
        for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
            if both := sorted(set(named[first]) & set(named[second])):
                yield f"data.split.{first} and data.split.{second} both name {', '.join(both)}; name each value once"


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Fields that every data set has."""

    window: int = setting("samples a model sees at once, which is L", low=2)
    stride: int = setting("samples from one window to the next", low=1)
    normalisation: Normalisation = setting("none, window, recording or train")
    label: str = setting("column of the store that holds the class")
    labels_per_class: int | None = setting("training windows of each class that keep their label; null: all", low=1)
    only: dict[str, list[str]] = setting("column: values to keep; empty keeps every recording")
    split: SplitConfig
    allow_leaky: bool = setting("go on although splits share an entity; named in every result")
    allow_short: bool = setting("leave out recordings shorter than a window; counted in every result")
    workers: int = setting("processes that read windows beside the training; 0 reads in the training process", low=0)

    def missing_paths(self) -> Iterator[str]:
        """Paths that must exist and do not."""
        yield from ()

    def complaints(self, *, future: int) -> Iterator[str]:
        """Broken rules between fields, those of the split aside."""
        yield from ()


@dataclass(kw_only=True, slots=True)
class StoreConfig(DataConfig):
    """A store written by ``vibench-data prepare``."""

    store: str = setting("HDF5 file written by vibench-data prepare")

    def missing_paths(self) -> Iterator[str]:
        path = Path(self.store).expanduser()
        if path.is_dir():
            yield f"data.store={self.store} is a folder; name the file that vibench-data prepare wrote"
        elif not path.is_file():
            yield f"data.store={self.store} does not exist; make it with `vibench-data prepare cwru|femto raw=DIR`"
        else:
            with path.open("rb") as file:
                if file.read(len(HDF5)) != HDF5:
                    yield f"data.store={self.store} is not an HDF5 file; name the one that vibench-data prepare wrote"


@dataclass(kw_only=True, slots=True)
class DemoConfig(DataConfig):
    """Synthetic machines, simulated once and kept in a cache (``vibench.data.synthetic``)."""

    cache_dir: str = setting("folder that keeps the simulated store")
    machine_seed: int = setting("seed of the simulated machines", low=0)
    bearings_per_class: int = setting("bearings of each system and class", low=3)
    conditions: int = setting("speeds and loads at which each bearing is recorded", low=1, high=6)
    duration_s: float = setting("seconds of a recording", above=0, high=600)
    lives: int = setting("run-to-failure lives", low=3)
    snapshots_per_life: int = setting("recordings along a life", low=4)

    def complaints(self, *, future: int) -> Iterator[str]:
        shortest = int(self.duration_s * 12_000)  # the slower of the two simulated systems
        span = self.window + future
        if span > shortest > 0:
            shorter = f"data.window<={shortest - future} or " if shortest - future > 1 else ""
            yield (
                f"data.window={self.window} plus the {future} samples to forecast exceed the {shortest} samples of a "
                f"recording (data.duration_s={self.duration_s:g} at 12 kHz); use {shorter}"
                f"data.duration_s>={math.ceil(span / 120) / 100:.2f}"
            )


SCHEMAS = {"store": StoreConfig, "demo": DemoConfig}
