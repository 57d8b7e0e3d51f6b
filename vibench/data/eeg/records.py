"""Records of EEG to a store: which files are records, whose they are, when there is a seizure, and their signal."""

import hashlib
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vibench.config.data import DemoEEGConfig, PreprocessingConfig
from vibench.data.eeg.annotations import Seizures, seizures_of
from vibench.data.eeg.corpus import SIMULATION, write_corpus
from vibench.data.eeg.edf import EDFRecording, open_edf
from vibench.data.eeg.patients import patient_of
from vibench.data.eeg.preparation import preparation_of
from vibench.data.eeg.preprocessing import Preprocessing
from vibench.data.prepare import Prepared, files_below, prepare
from vibench.data.progress import shown
from vibench.data.writing import RawRecording, Spool
from vibench.errors import DataError

SUFFIXES = (".edf", ".bdf", ".rec")
SYSTEM = "eeg"


def spooled(recording: EDFRecording, config: PreprocessingConfig, path: Path) -> tuple[Spool, int]:
    """The signal of a record as it stands in a store, in a file; and how many lost samples were filled in.

    Raises:
        DataError: it cannot be read, or has gaps longer than ``max_gap_s``.
    """
    spool = Spool(path, len(config.channels))
    steps = Preprocessing(
        rate_hz=config.rate_hz,
        low_hz=config.low_hz,
        high_hz=config.high_hz,
        notch_hz=config.notch_hz,
        max_gap_s=config.max_gap_s,
    )
    try:
        for block in steps.blocks(recording.microvolts, recording.length, recording.rate_hz):
            spool.append(block)
    except DataError as error:
        raise DataError(f"{recording.path}: {error}") from error
    return spool, steps.interpolated


class Reader:
    """Reads one record after another.

    Args:
        raw: folder that holds all of them.
        files: the records.
        config: what is done to their signals.
        folder: for the signal that is being read.

    Attributes:
        sources: who said where there are seizures -> records.
        interpolated: electrodes that were made of others -> records.
        filled: record -> samples that were lost, and filled in.
    """

    def __init__(self, raw: Path, files: list[Path], config: PreprocessingConfig, folder: Path) -> None:
        self.raw, self.config, self.folder = raw, config, folder
        self.sources: Counter[str] = Counter()
        self.interpolated: Counter[str] = Counter()
        self.filled: dict[Path, int] = {}
        self.found: dict[Path, tuple[EDFRecording, Seizures, str] | DataError] = {}
        for file in shown(files, "annotations", len(files)):
            try:
                recording = open_edf(file, config.channels, config.interpolate)
                self.found[file] = recording, seizures_of(recording), patient_of(file, raw, recording.patient)
            except DataError as error:
                self.found[file] = error
        known = [found for found in self.found.values() if not isinstance(found, DataError)]
        self.having = {patient for _, seizures, patient in known if seizures.events}
        self.watched = {patient for _, seizures, patient in known if seizures.events is not None}

    def __call__(self, file: Path) -> RawRecording:
        """
        Raises:
            DataError: the file is broken.
        """
        if isinstance(found := self.found[file], DataError):
            raise found
        recording, seizures, patient = found
        spool, filled = spooled(recording, self.config, self.folder / "record.f32")
        if filled:
            self.filled[file] = filled
        self.sources[seizures.format or seizures.source] += 1
        self.interpolated.update(recording.interpolated)
        answer = "yes" if patient in self.having else "no" if patient in self.watched else "unknown"
        return RawRecording(
            signal=spool,
            id=str(file.relative_to(self.raw).with_suffix("")),
            system=SYSTEM,
            entity=patient,
            source=str(file),
            rate_hz=self.config.rate_hz,
            columns={"seizures": answer},
            events=None if seizures.events is None else samples_of(seizures.events, self.config.rate_hz, spool.length),
        )


def samples_of(events: list[tuple[float, float]], rate_hz: float, length: int) -> np.ndarray:
    """(k, 2) first sample of each event and the one behind its last, from seconds."""
    spans = np.rint(np.array(events, np.float64).reshape(-1, 2) * rate_hz).astype(np.int64)
    spans[:, 0] = spans[:, 0].clip(0, length - 1)
    spans[:, 1] = spans[:, 1].clip(spans[:, 0] + 1, length)
    return spans


def prepare_eeg(
    raw: Path, store: Path, config: PreprocessingConfig, *, skip_broken: bool = False
) -> tuple[Prepared, Reader]:
    """Write every record below a folder to a new store.

    Raises:
        DataError: no record, or a broken one; the store is then not written.
    """
    files = [file for file in files_below(raw) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"raw={raw} holds no record ({', '.join(SUFFIXES)}); give the folder that holds the raw files")
    store.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.parent, prefix=f".{store.name}.") as folder:
        reader = Reader(raw, files, config, Path(folder))
        done = prepare(files, reader, store, skip_broken=skip_broken, preparation=preparation_of(config))
    return done, reader


def demo_eeg_store(config: DemoEEGConfig) -> Path:
    """Path of the store of a synthetic corpus, written and prepared now if the cache does not hold it."""
    keys = ("corpus_seed", "patients", "records_per_patient", "record_s", "seizures_per_hour", "raw_rate_hz")
    asked = {"simulation": SIMULATION} | {key: getattr(config, key) for key in keys}
    cache = Path(config.cache_dir).expanduser()
    corpus = cache / f"demo-eeg-{_digest(asked)}"
    store = cache / f"demo-eeg-{_digest(asked | preparation_of(config.preprocessing))}.h5"
    try:
        if not corpus.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            write_corpus(
                corpus,
                seed=config.corpus_seed,
                patients=config.patients,
                records_per_patient=config.records_per_patient,
                record_s=config.record_s,
                seizures_per_hour=config.seizures_per_hour,
                rate_hz=config.raw_rate_hz,
            )
        if not store.is_file():
            prepare_eeg(corpus, store, config.preprocessing)
    except OSError as error:
        raise DataError(f"data.cache_dir={config.cache_dir} cannot be written: {error}; name another") from error
    return store


def _digest(asked: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
