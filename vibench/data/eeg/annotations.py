"""Seizures of a record: what is known of it, from whichever file says it, and how events are written.

Looked for in this order: BIDS events, TUSZ, the summary of CHB-MIT, the seizure list of Siena, EDF+ annotations. A
record that none of them speaks of is not free of seizures: nothing is known of it.
"""

import os
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from vibench.data.eeg.annotation_formats import Event
from vibench.data.eeg.annotation_lists import chb_mit, siena
from vibench.data.eeg.annotation_marks import annotated
from vibench.data.eeg.annotation_tables import bids_events, tusz
from vibench.data.eeg.edf import EDFRecording
from vibench.errors import DataError

SLACK_S = 1.0  # clocks of a second: an event may run over an end of the record by less
COLUMNS = ("onset", "duration", "eventType", "confidence", "channels", "dateTime", "recordingDuration")


@dataclass(kw_only=True, slots=True)
class Seizures:
    """What is known of the seizures of a record.

    Attributes:
        events: onset and end in seconds of the record, in order, apart from each other; None: nothing is known.
        source: the file and format that says so, or why nothing is known.
        format: "BIDS events", "TUSZ csv_bi", "TUSZ csv", "CHB-MIT summary", "Siena seizure list" or
            "EDF+ annotations"; "" where nothing is known.
    """

    events: list[tuple[float, float]] | None
    source: str
    format: str


def seizures_of(recording: EDFRecording) -> Seizures:
    """Look up the seizures of a record, beside its file and in it.

    Raises:
        DataError: a line is malformed, or an event does not lie in the record; names file and line.
    """
    edf = recording.path
    silent = []
    for look_up in (
        bids_events,
        tusz,
        chb_mit,
        partial(siena, start=recording.start),
        partial(annotated, annotations=recording.annotations),
    ):
        found = look_up(edf)
        if found is not None and found.events is not None:
            merged = _merged(found.events, recording.duration_s)
            return Seizures(events=merged, source=found.source, format=found.format)
        if found is not None:
            silent.append(found.source)
    said = "; ".join(silent) or "no file beside it and no annotation in it says"
    return Seizures(events=None, source=said, format="")


def _merged(events: list[Event], duration_s: float) -> list[tuple[float, float]]:
    """Events in order, within the record; those that overlap or touch are one."""
    merged: list[tuple[float, float]] = []
    for onset, end in sorted(_clipped(event, duration_s) for event in events):
        if merged and onset <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((onset, end))
    return merged


def _clipped(event: Event, duration_s: float) -> tuple[float, float]:
    said = f"{event.place}: a seizure from {event.onset_s:g} s to {event.end_s:g} s"
    if event.end_s <= event.onset_s:
        raise DataError(f"{said} does not end after it begins; correct it")
    if event.onset_s >= duration_s or event.end_s <= 0:
        raise DataError(f"{said} lies outside the record of {duration_s:g} s; correct it, or fetch the whole record")
    if event.onset_s <= -SLACK_S or event.end_s >= duration_s + SLACK_S:
        raise DataError(
            f"{said} runs over the record of {duration_s:g} s by {SLACK_S:g} s or more; correct it, or fetch the whole "
            f"record"
        )
    return max(event.onset_s, 0.0), min(event.end_s, duration_s)


def write_events(
    path: Path,
    events: list[tuple[float, float]],
    *,
    duration_s: float,
    start: datetime | None,
    confidences: list[float] | None,
    event_type: str = "sz",
) -> None:
    """Write the events of a record as BIDS events with HED-SCORE types, whole or not at all.

    The columns are those of SzCORE (https://doi.org/10.1111/epi.18113); a record without an event has one row ``bckg``
    over all of it.

    Args:
        events: onset and end in seconds of the record.
        duration_s: of the record.
        start: of the record, None: not known.
        confidences: from 0 to 1, one for each event; None: not known.

    Raises:
        DataError: the file cannot be written.
    """
    assert confidences is None or len(confidences) == len(events), f"{len(events)} events, {len(confidences or [])}"
    known = [None] * len(events) if confidences is None else confidences
    rows = [(onset, end - onset, event_type, sure) for (onset, end), sure in zip(events, known, strict=True)]
    begins = "n/a" if start is None else start.strftime("%Y-%m-%d %H:%M:%S")
    lines = [
        (_decimal(onset), _decimal(lasts), kind, _decimal(sure), "all", begins, _decimal(duration_s))
        for onset, lasts, kind, sure in rows or [(0.0, duration_s, "bckg", None)]
    ]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text("".join("\t".join(line) + "\n" for line in (COLUMNS, *lines)), "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; name a folder that can be written") from error
    finally:
        temporary.unlink(missing_ok=True)


def _decimal(value: float | None) -> str:
    """With nine decimals at most: a sample at 256 Hz has eight."""
    if value is None:
        return "n/a"
    return f"{value:.9f}".rstrip("0").rstrip(".")
