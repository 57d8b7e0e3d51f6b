"""Seizures of a record from a table beside it: BIDS events and the files of TUSZ.

BIDS with HED-SCORE types (SzCORE, https://doi.org/10.1111/epi.18113): ``X_events.tsv`` of ``X_eeg.edf``. TUSZ
(https://doi.org/10.3389/fninf.2018.00083): ``X.csv_bi``, one line for all channels, or ``X.csv``, one for each.
"""

import re
from pathlib import Path

from vibench.data.eeg.annotation_formats import Event, Found, lines_of, seconds
from vibench.errors import DataError

BIDS = "BIDS events"
TYPES = ("eventtype", "event_type", "trial_type", "event")  # columns, the first that is there
BACKGROUND = ("bckg", "background")
TUSZ_COLUMNS = ["channel", "start_time", "stop_time", "label", "confidence"]
TUSZ_SEIZURES = frozenset(  # nesz, not epileptic, is one too in csv_bi
    {"seiz", "fnsz", "gnsz", "spsz", "cpsz", "absz", "tnsz", "cnsz", "tcsz", "atsz", "mysz", "nesz"}
)
NOT_SEIZURES = ("no", "non", "not", "pre", "post", "inter", "pseudo", "psychogenic")  # of X-seizure


def bids_events(edf: Path) -> Found | None:
    """What the events file of a record says; None where there is none.

    Raises:
        DataError: it cannot be read, or a line of it is malformed.
    """
    path = edf.with_name(f"{edf.stem.removesuffix('_eeg')}_events.tsv")
    if not path.is_file():
        return None
    rows = [(number, [cell.strip() for cell in line.split("\t")]) for number, line in lines_of(path)]
    if not rows:
        return Found(events=None, source=f"{path.name} is empty")
    head = [name.lower() for name in rows[0][1]]
    if absent := sorted({"onset", "duration"} - set(head)):
        raise DataError(f"{path}: line {rows[0][0]} names no column {' and no '.join(absent)}; it must head the table")
    column = next((head.index(name) for name in TYPES if name in head), None)
    if column is None:
        return Found(events=None, source=f"{path.name} has no column eventType")
    events, known = [], False
    for number, cells in rows[1:]:
        place = f"{path}: line {number}"
        if len(cells) != len(head):
            raise DataError(f"{place} has {len(cells)} columns, the head has {len(head)}; separate them by tabs")
        known |= cells[column].lower() in BACKGROUND
        if _is_seizure(cells[column]):
            onset = seconds(cells[head.index("onset")], "the onset of a seizure", place)
            lasts = seconds(cells[head.index("duration")], "the duration of a seizure", place)
            events.append(Event(onset, onset + lasts, place))
    if not known and not events:
        return Found(events=None, source=f"{path.name} names neither a seizure nor bckg")
    return Found(events=events, source=f"{path.name} ({BIDS})", format=BIDS)


def _is_seizure(kind: str) -> bool:
    """``sz``, ``sz_foc_ia``, ``seizure``, or a tag of HED-SCORE that ends in it (Focal-onset-epileptic-seizure)."""
    return any(
        tag == "sz" or tag.startswith("sz_") or tag == "seizure" or _ends_in_seizure(tag.split("-"))
        for tag in re.split(r"[/,()\s]+", kind.lower())
    )


def _ends_in_seizure(words: list[str]) -> bool:
    return words[-1] == "seizure" and words[0] not in NOT_SEIZURES


def tusz(edf: Path) -> Found | None:
    """What the files of TUSZ say of a record; None where there is none.

    Raises:
        DataError: a file cannot be read, or a line of it is malformed.
    """
    for path in (edf.with_suffix(".csv_bi"), edf.with_suffix(".csv")):
        if path.is_file() and (found := _tusz(path)) is not None:
            return found
    return None


def _tusz(path: Path) -> Found | None:
    lines = lines_of(path)
    rows = [(number, [cell.strip() for cell in line.split(",")]) for number, line in lines if line[0] != "#"]
    if not rows or rows[0][1] != TUSZ_COLUMNS:
        if path.suffix == ".csv" and not (lines and lines[0][1].startswith("# version = csv")):
            return None  # a table of somebody else
        raise DataError(f"{path} has no line {','.join(TUSZ_COLUMNS)} before its events; fetch it again")
    events, known = [], False
    for number, cells in rows[1:]:
        place = f"{path}: line {number}"
        if len(cells) != len(TUSZ_COLUMNS):
            raise DataError(f"{place} has {len(cells)} columns, not {','.join(TUSZ_COLUMNS)}; correct it")
        start, stop = seconds(cells[1], "the start", place), seconds(cells[2], "the stop", place)
        seizure = cells[3].lower() in TUSZ_SEIZURES
        known |= seizure or cells[3].lower() in BACKGROUND
        if seizure and start != stop:  # aaaaapks_s016_t000 has one from 0 s to 0 s
            events.append(Event(start, stop, place))
    if not known:
        return Found(events=None, source=f"{path.name} names neither a seizure nor bckg")
    return Found(events=events, source=f"{path.name} (TUSZ)", format=f"TUSZ {path.suffix[1:]}")
