"""Recordings made for a test, in a store of their own, and the shipped config that reads it."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

from vibench.config.data import HDF5, DataConfig, EEGConfig
from vibench.config.experiment import ExperimentConfig
from vibench.data.batch import Target
from vibench.data.build import build
from vibench.data.eeg.preparation import preparation_of
from vibench.data.loader import Data
from vibench.data.writing import RawRecording, write_store
from vibench.model import targets


def raw(
    name: str, entity: str | None = None, *, samples: int = 256, channels: int = 1, **fields: object
) -> RawRecording:
    """A recording whose samples follow from its name, unless ``signal`` is given."""
    noise = default_rng(zlib.crc32(name.encode())).standard_normal((samples, channels))
    given = {"signal": noise, "system": "rig", "source": f"{name}.raw", "rate_hz": 1000.0} | fields
    return RawRecording(id=name, entity=entity or name, **given)


def walk(name: str, samples: int, channels: int = 1) -> np.ndarray:
    """(samples, channels) around 3: neither its mean nor its scale is that of the next recording."""
    rng = default_rng(zlib.crc32(name.encode()))
    return 3 + rng.uniform(0.5, 5) * rng.standard_normal((samples, channels)) * np.arange(1, channels + 1)


@pytest.fixture(scope="session")
def shipped(resolved: Callable[..., ExperimentConfig], tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """``data=cwru`` with the four tasks; its store is replaced by the tests."""
    some = tmp_path_factory.mktemp("store") / "some.h5"
    some.write_bytes(HDF5)
    return resolved("data=cwru", f"data.store={some}", "task.signal_prediction.horizon=32")


@pytest.fixture(scope="session")
def shipped_eeg(
    resolved: Callable[..., ExperimentConfig], tmp_path_factory: pytest.TempPathFactory
) -> ExperimentConfig:
    """``data=eeg`` with seizure detection; its store is replaced by the tests."""
    some = tmp_path_factory.mktemp("store") / "some.h5"
    some.write_bytes(HDF5)
    return resolved("data=eeg", f"data.store={some}", "task=seizure_detection")


@pytest.fixture(scope="session")
def all_targets(shipped: ExperimentConfig) -> dict[str, Target]:
    """Targets of the four tasks; the forecast is of 32 samples."""
    return targets(shipped)


@pytest.fixture
def config_of(shipped: ExperimentConfig) -> Callable[..., DataConfig]:
    """The shipped config of a store with other values; ``split`` takes a dict of them."""

    def call(store: Path, *, split: dict | None = None, **values: object) -> DataConfig:
        values = {"window": 32, "stride": 32} | values
        return replace(shipped.data, store=str(store), split=replace(shipped.data.split, **(split or {})), **values)

    return call


@pytest.fixture
def built(config_of: Callable[..., DataConfig], tmp_path: Path) -> Callable[..., Data]:
    """Write recordings to ``made.h5`` and build their splits."""

    def call(recordings: Iterable[RawRecording], wanted: dict[str, Target] | None = None, **values: object) -> Data:
        write_store(tmp_path / "made.h5", recordings)
        return build(config_of(tmp_path / "made.h5", **values), wanted or {})

    return call


def patient(name: str, samples: int, *spans: tuple[int, int], unknown: bool = False, **fields: object) -> RawRecording:
    """A record of two channels at 8 Hz with seizures there; ``unknown``: nobody has looked for any."""
    events = None if unknown else np.array(spans, np.int64).reshape(-1, 2)
    signal = walk(name, samples, 2)
    return raw(name, **{"signal": signal, "rate_hz": 8.0, "system": "eeg", "events": events} | fields)


@pytest.fixture
def eeg_of(shipped_eeg: ExperimentConfig) -> Callable[..., EEGConfig]:
    """The shipped config of a store of EEG: windows of 32 samples, every 16; ``split`` takes a dict of values."""

    def call(store: Path, *, split: dict | None = None, **values: object) -> EEGConfig:
        values = {"window": 32, "stride": 16} | values
        data = shipped_eeg.data
        return replace(data, store=str(store), split=replace(data.split, **(split or {})), **values)

    return call


@pytest.fixture
def seizures_of(shipped_eeg: ExperimentConfig) -> Callable[[EEGConfig], dict[str, Target]]:
    """The target of seizure detection, for windows as long as those of some data."""
    return lambda data: targets(replace(shipped_eeg, data=data))


@pytest.fixture
def eeg(
    eeg_of: Callable[..., EEGConfig], seizures_of: Callable[[EEGConfig], dict[str, Target]], tmp_path: Path
) -> Callable[..., Data]:
    """Write records to ``eeg.h5``, prepared as the shipped config says, and build their splits."""

    def call(recordings: Iterable[RawRecording], **values: object) -> Data:
        config = eeg_of(tmp_path / "eeg.h5", **values)
        write_store(tmp_path / "eeg.h5", recordings, preparation_of(config.preprocessing))
        return build(config, seizures_of(config))

    return call
