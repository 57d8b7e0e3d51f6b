"""A simulated corpus of EEG with seizures: EDF+ files as clinics have them, in the folders of BIDS.

Made to be learnt from, not to be measured against: who looks at it sees the seizures, while what is loudest is mostly
muscle, movement and electrodes. The waves and their sources are in ``waves`` and ``artefacts``.
"""

import math
import os
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng

from vibench.data.eeg.annotations import write_events
from vibench.data.eeg.artefacts import heart
from vibench.data.eeg.edf import write_edf
from vibench.data.eeg.montage import OLD_NAMES
from vibench.data.eeg.scalp import CHANNELS
from vibench.data.eeg.simulated import Patient, Seizure, simulate
from vibench.data.progress import shown
from vibench.errors import DataError

SIMULATION = 1  # raised whenever the same arguments would write other samples
START = datetime(2020, 1, 1, 9)
SHORTEST_S, LONGEST_S = 15, 90  # a seizure
MARGIN_S, APART_S = 10, 91  # from the edges of the record, and from the next: scoring makes one of two within 90 s


def write_corpus(
    folder: Path,
    *,
    seed: int,
    patients: int,
    records_per_patient: int,
    record_s: float,
    seizures_per_hour: float,
    rate_hz: float,
) -> None:
    """Write ``sub-XX/eeg/sub-XX_task-szMonitoring_run-YY_eeg.edf`` and ``..._events.tsv``, all of them or none.

    Every patient and every record has random numbers of its own, so that more of them do not change those there are.
    Of a patient's records the first has a seizure; the second, fifth, eighth, ... have none. Every other patient has
    generalised seizures, and every third comes from the same clinic: they name their channels differently.

    Args:
        folder: does not exist yet.
        seizures_per_hour: of an average patient.
        rate_hz: of the files, above 125; times ``record_s`` a whole number.

    Raises:
        DataError: the folder exists, edfio is missing, or a record is too short for a seizure.
        OSError: the folder cannot be written.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; delete it, or name a new folder")
    if seizures_per_hour and record_s < SHORTEST_S + 2 * MARGIN_S:
        raise DataError(f"record_s={record_s:g} is too short for a seizure; use {SHORTEST_S + 2 * MARGIN_S} or more")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        whole = Path(temporary) / folder.name
        for number in shown(range(patients), "simulating patients", patients):
            name = f"sub-{f'{seed}x' if seed else ''}{number + 1:02d}"  # another corpus is of other people
            patient = Patient.draw(default_rng([seed, *name.encode()]), generalised=number % 2 == 1)
            mean = seizures_per_hour * patient.activity * record_s / 3600
            for record in range(records_per_patient):
                rng = default_rng([seed, *name.encode(), record + 1])
                seizures = placed(rng, how_many(record, mean), record_s)
                signal = simulate(rng, duration_s=record_s, rate_hz=rate_hz, seizures=seizures, patient=patient)
                signal = np.column_stack([signal, heart(rng, len(signal), rate_hz)])
                _write(whole / name / "eeg", record, signal, labels(number), rate_hz, seizures, patient)
        try:
            os.rename(whole, folder)
        except OSError:
            if not folder.is_dir():  # else another process has just made the same
                raise


def labels(number: int) -> list[str]:
    """Of the 19 electrodes and the electrocardiogram, as the clinic of a patient writes them."""
    before = {now: old for old, now in OLD_NAMES.items()}
    old = [before.get(name, name) for name in CHANNELS]
    return (
        [*CHANNELS, "EKG"],
        [*(f"EEG {name.upper()}-REF" for name in old), "EEG EKG1-REF"],
        [*(f"EEG {name}-LE" for name in old), "ECG EKG-LE"],
    )[number % 3]


def how_many(record: int, mean: float) -> int:
    """Seizures of a patient's n-th record, from 0, of which each has ``mean`` on average."""
    if record % 3 == 1:
        return 0
    before = record - (record + 1) // 3  # records that have seizures: two of three
    until, after = (math.ceil(round(1.5 * mean * records, 9)) for records in (before, before + 1))
    return after - until


def placed(rng: Generator, wanted: int, record_s: float) -> list[Seizure]:
    """That many seizures somewhere in a record, in order; or as many as there is room for."""
    room_s = record_s - 2 * MARGIN_S + APART_S
    wanted = min(wanted, int(room_s / (SHORTEST_S + APART_S)))
    room_s -= wanted * (SHORTEST_S + APART_S)
    longer_s = rng.uniform(0, LONGEST_S - SHORTEST_S, wanted)  # than the shortest
    longer_s *= min(1, 0.8 * room_s / max(longer_s.sum(), 1e-9))
    found, begin_s = [], MARGIN_S
    for free_s, extra_s in zip(np.sort(rng.uniform(0, room_s - longer_s.sum(), wanted)), longer_s, strict=True):
        found.append(Seizure(onset_s=round(begin_s + free_s, 2), duration_s=round(SHORTEST_S + extra_s, 2)))
        begin_s += SHORTEST_S + extra_s + APART_S
    return found


def _write(
    folder: Path,
    record: int,
    signal: np.ndarray,
    channels: list[str],
    rate_hz: float,
    seizures: list[Seizure],
    patient: Patient,
) -> None:
    """One file and its events; the clock of a patient's records goes on by a day each."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{folder.parent.name}_task-szMonitoring_run-{record + 1:02d}"
    start = START + timedelta(days=record)
    write_edf(
        folder / f"{stem}_eeg.edf",
        signal,
        channels,
        rate_hz,
        start=start,
        patient=folder.parent.name,
        annotations=[(seizure.onset_s, seizure.duration_s, "seizure") for seizure in seizures],
    )
    write_events(
        folder / f"{stem}_events.tsv",
        [(seizure.onset_s, seizure.end_s) for seizure in seizures],
        duration_s=len(signal) / rate_hz,
        start=start,
        confidences=None,
        event_type="sz_gen_nm" if patient.focus is None else "sz_foc",
    )
