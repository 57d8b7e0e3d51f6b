"""What the readers of annotations share: an event with its place, and how a text file is taken apart."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vibench.errors import DataError


class Event(NamedTuple):
    """A seizure as a file says it.

    Attributes:
        onset_s, end_s: seconds of the record.
        place: file and line, for errors.
    """

    onset_s: float
    end_s: float
    place: str


@dataclass(kw_only=True, slots=True)
class Found:
    """What one format says of a record.

    Attributes:
        events: None where it says nothing of seizures.
        source: which file and format; or why it says nothing.
        format: its name, "" where it says nothing.
    """

    events: list[Event] | None
    source: str
    format: str = ""


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers; Latin-1 where the file is not UTF-8."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "\0" in text:
        raise DataError(f"{path} is not a text file; fetch it again")
    return [(number, line) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1) if line.strip()]


def seconds(text: str, what: str, place: str) -> float:
    """A number of seconds.

    Raises:
        DataError: it is none; names the place.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: {what} is {text!r}, not a number of seconds; correct the line")
    return value


class Pairs:
    """Seizures of which a file gives the start first and the end later."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._open: tuple[float, str] | None = None

    def start(self, when_s: float, place: str) -> None:
        self.close()
        self._open = when_s, place

    def end(self, when_s: float, place: str) -> None:
        if self._open is None:
            raise DataError(f"{place}: a seizure ends that did not begin; add its start before it")
        self.events.append(Event(self._open[0], when_s, self._open[1]))
        self._open = None

    def close(self) -> None:
        """Raise a DataError where a start has no end."""
        if self._open is not None:
            raise DataError(f"{self._open[1]}: a seizure begins that does not end; add its end after it")
