"""Data schemas: which store, how it is cut into windows, and how the windows are split."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vibench.config.setting import missing_packages, setting

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
        yield from _no_store(self.store, "cwru|femto")


def _no_store(store: str, kind: str) -> Iterator[str]:
    """Why a file is not a store that can be opened."""
    path = Path(store).expanduser()
    if path.is_dir():
        yield f"data.store={store} is a folder; name the file that vibench-data prepare wrote"
    elif not path.is_file():
        yield f"data.store={store} does not exist; make it with `vibench-data prepare {kind} raw=DIR`"
    else:
        with path.open("rb") as file:
            if file.read(len(HDF5)) != HDF5:
                yield f"data.store={store} is not an HDF5 file; name the one that vibench-data prepare wrote"


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


@dataclass(kw_only=True, slots=True)
class PreprocessingConfig:
    """From the files of a recorder to the signal of a store."""

    channels: list[str] = setting("electrodes (Fp1), or differences of two (Fp1-F7), in the order of the channels")
    interpolate: list[str] = setting("electrodes that may be made of their neighbours where a file lacks them")
    rate_hz: float = setting("sampling rate of the store in Hz", above=0)
    low_hz: float | None = setting("lower edge of the band that is kept in Hz; null: no high-pass", above=0)
    high_hz: float | None = setting("upper edge of the band that is kept in Hz; null: no low-pass", above=0)
    notch_hz: float | None = setting("frequency of the mains in Hz, which is taken out; null: it stays", above=0)
    max_gap_s: float = setting("seconds without a number that are filled in; a longer gap refuses the file", low=0)

    def complaints(self) -> Iterator[str]:
        key, half = "data.preprocessing", self.rate_hz / 2
        if not self.channels:
            yield f"{key}.channels is empty; use e.g. [Fp1,F3,C3]"
        if twice := sorted({name for name in self.channels if self.channels.count(name) > 1}):
            yield f"{key}.channels names {', '.join(twice)} twice; name each once"
        if absent := sorted(set(self.interpolate) - set(self.channels)):
            yield f"{key}.interpolate names {', '.join(absent)}, which is not in {key}.channels; name only those"
        if half <= 0:
            return
        for name in ("low_hz", "high_hz"):
            value = getattr(self, name)
            if value is not None and value >= half:
                yield (
                    f"{key}.{name}={value:g} is not below half of {key}.rate_hz={self.rate_hz:g}; "
                    f"use {key}.{name}<{half:g}, null, or a higher rate"
                )
        if self.notch_hz is not None and (0 < self.notch_hz <= 1 or self.notch_hz >= half - 1):
            yield (
                f"{key}.notch_hz={self.notch_hz:g} is not between 1 Hz and 1 Hz below half of "
                f"{key}.rate_hz={self.rate_hz:g}, where a notch has room; use {key}.notch_hz=null"
                + (f" or {key}.rate_hz>{2 * (self.notch_hz + 1):g}" if self.notch_hz > 1 else "")
            )
        if self.low_hz is not None and self.high_hz is not None and self.low_hz >= self.high_hz:
            yield (
                f"{key}.low_hz={self.low_hz:g} is not below {key}.high_hz={self.high_hz:g}, so nothing would be kept; "
                f"use {key}.low_hz<{self.high_hz:g}"
            )


@dataclass(kw_only=True, slots=True)
class EEGDataConfig(DataConfig):
    """Fields that every data set of continuous records with events has."""

    allow_short: bool = setting("fill up records shorter than a window, unlabelled; counted in every result")
    preprocessing: PreprocessingConfig
    clip: float | None = setting("samples farther than this from the mean, in normalised units, are cut off", above=0)
    ictal_per_partial: float | None = setting(
        "training windows within a seizure for each at its beginning or end, drawn anew every epoch; null: all", low=0
    )
    background_per_partial: float | None = setting(
        "training windows without a seizure for each at its beginning or end, drawn anew every epoch; null: all", low=0
    )

    def complaints(self, *, future: int) -> Iterator[str]:
        yield from self.preprocessing.complaints()
        if self.stride > self.window > 0:
            yield (
                f"data.stride={self.stride} exceeds data.window={self.window}, so samples between windows would never "
                f"be scored; use data.stride<={self.window}"
            )


@dataclass(kw_only=True, slots=True)
class EEGConfig(EEGDataConfig):
    """Records of EEG in a store written by ``vibench-data prepare eeg``."""

    store: str = setting("HDF5 file written by vibench-data prepare eeg")

    def missing_paths(self) -> Iterator[str]:
        yield from _no_store(self.store, "eeg")


@dataclass(kw_only=True, slots=True)
class DemoEEGConfig(EEGDataConfig):
    """A synthetic corpus of EEG, written as EDF+ files and prepared once, kept in a cache."""

    cache_dir: str = setting("folder that keeps the files and the store")
    corpus_seed: int = setting("seed of the patients", low=0)
    patients: int = setting("patients", low=3)
    records_per_patient: int = setting("files of each patient", low=1)
    record_s: float = setting("seconds of a record", low=120, high=7200)
    seizures_per_hour: float = setting("seizures of a patient, on average", above=0, high=20)
    raw_rate_hz: float = setting("sampling rate of the files in Hz", low=128)

    def complaints(self, *, future: int) -> Iterator[str]:
        yield from EEGDataConfig.complaints(self, future=future)
        yield from missing_packages("data=demo_eeg", "eeg", "edfio", "scipy")
        for name, why in (("record_s", "a data record of a file is a second"), ("raw_rate_hz", "it has whole samples")):
            value = getattr(self, name)
            if value != (whole := round(value)):
                yield f"data.{name}={value:g} is no whole number, and {why}; use data.{name}={whole}"


SCHEMAS = {"store": StoreConfig, "demo": DemoConfig, "eeg": EEGConfig, "demo_eeg": DemoEEGConfig}
