"""Seizures of a record from a list of its folder, written by hand: CHB-MIT and Siena.

CHB-MIT (https://doi.org/10.13026/C2K01R): ``chb01-summary.txt``, in seconds of the record. Siena
(https://doi.org/10.13026/5d4a-j060): ``Seizures-list-PN00.txt``, by the clock. Traps, each in the published files:
chb09 ends its second seizure as "Seizure 1"; PN01 names its file PN01.edf, PN06 PNO6-1.edf with a letter O, PN11
PN11-.edf; a time reads 16:13.23 or 1 6.49.25; PN12 names its file again but not its start; a line has two times
(clinical and electric onset); records cross midnight.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from vibench.data.eeg.annotation_formats import Found, Pairs, lines_of, seconds
from vibench.errors import DataError

CHB_MIT, SIENA = "CHB-MIT summary", "Siena seizure list"  # formats
DAY_S = 86_400
KNOWN_TYPOS = {("pn003", "19.29.29"): "18.29.29"}  # PN00-3, an hour beyond its end; so too 10.5281/zenodo.10640762
_NAME = re.compile(r"\s*file\s*name\s*:\s*(\S*)", re.IGNORECASE)
_COUNT = re.compile(r"\s*number\s+of\s+seizures\s+in\s+file\s*:\s*(.*?)\s*$", re.IGNORECASE)
_CHB_TIME = re.compile(r"\s*seizure\s*\d*\s*(start|end)\s+time\s*:\s*(.*?)\s*(?:seconds?|secs?|s)?\s*$", re.IGNORECASE)
_SIENA_TIME = re.compile(r"\s*(registration\s+|seizure\s+)?(start|end)\s+time\s*:?\s*(.*?)\s*$", re.IGNORECASE)
_CLOCK = re.compile(r"(?<!\d)(\d ?\d|\d)\s?[.:]\s?(\d\d?)\s?[.:]\s?(\d\d?)(?!\d)")


def chb_mit(edf: Path) -> Found | None:
    """What the summary of a folder says of a record; None where there is no summary.

    Raises:
        DataError: a line that speaks of the record is malformed, or starts, ends and their number do not agree.
    """
    paths = _beside(edf, r"chb\d+-summary\.txt")
    for path in paths:
        block = [(n, line) for n, name, line in _blocks(path) if _stem(name) == _stem(edf.name)]
        if block:
            return _chb_mit(path, block)
    return Found(events=None, source=f"{paths[0].name} does not name it") if paths else None


def _chb_mit(path: Path, block: list[tuple[int, str]]) -> Found:
    pairs, said = Pairs(), None
    for number, line in block:
        place = f"{path}: line {number}"
        if match := _COUNT.match(line):
            if not match[1].isdigit():
                raise DataError(f"{place}: the number of seizures is {match[1]!r}; correct the line")
            said = int(match[1]) + (said or 0)
        elif match := _CHB_TIME.match(line):
            kind = match[1].lower()
            (pairs.start if kind == "start" else pairs.end)(seconds(match[2], f"the {kind} of a seizure", place), place)
    pairs.close()
    if said is None and not pairs.events:
        return Found(events=None, source=f"{path.name} names it but not its number of seizures")
    if said not in (None, len(pairs.events)):
        raise DataError(
            f"{path}: line {block[0][0]}: the file has {said} seizures by their number and {len(pairs.events)} by "
            f"their times; correct the one or the others"
        )
    return Found(events=pairs.events, source=f"{path.name} ({CHB_MIT})", format=CHB_MIT)


def siena(edf: Path, start: datetime | None) -> Found | None:
    """What the seizure list of a folder says of a record; None where there is no list.

    Args:
        start: of the record by its own header. It counts before the start that the list gives: where they differ by
            hours (PN14-3), the header agrees with the end of the recording. Midnight sharp is no time of day but an
            anonymised header.

    Raises:
        DataError: a line that speaks of the record is malformed, a seizure begins or ends alone, or the start of the
            record is unknown.
    """
    paths = _beside(edf, r"seizures?[-_ ]list.*\.txt")
    for path in paths:
        block = [(n, line) for n, name, line in _blocks(path) if _is_siena_name(name, edf)]
        if block:
            return _siena(path, block, edf, start)
    return Found(events=None, source=f"{paths[0].name} does not name it") if paths else None


def _siena(path: Path, block: list[tuple[int, str]], edf: Path, start: datetime | None) -> Found:
    times = [(n, *match.groups("")) for n, line in block if (match := _SIENA_TIME.match(line))]
    listed = [
        _clock(text, f"{path}: line {n}", edf)
        for n, whose, kind, text in times
        if (whose.strip().lower(), kind.lower()) == ("registration", "start")
    ]
    own = start.hour * 3600 + start.minute * 60 + start.second + start.microsecond / 1e6 if start else 0
    if not own and not listed:
        raise DataError(
            f"{path}: line {block[0][0]}: neither the list nor the header of {edf.name} says when the recording "
            f"starts; add a line `Registration start time: hh.mm.ss`"
        )
    base = own or listed[0]
    pairs = Pairs()
    for n, whose, kind, text in times:
        if whose.strip().lower() != "registration":
            place = f"{path}: line {n}"
            when = _since(base, _clock(text, place, edf))
            if kind.lower() == "start":
                pairs.start(when, place)
            else:
                pairs.end(when, place)
    pairs.close()
    events = [event._replace(end_s=event.end_s + DAY_S * (event.end_s < event.onset_s)) for event in pairs.events]
    if not events:
        return Found(events=None, source=f"{path.name} names it but no seizure")
    off = abs(listed[0] - base) if listed else 0
    off = f", whose start is {off:g} s off that of the file" if off >= 1 else ""
    return Found(events=events, source=f"{path.name} ({SIENA}{off})", format=SIENA)


def _since(base: float, when: float) -> float:
    """Seconds from one time of day to the next other; just before it where that is less than a second away."""
    later = (when - base) % DAY_S
    return later - DAY_S if later > DAY_S - 1 else later


def _clock(text: str, place: str, edf: Path) -> float:
    """Seconds since midnight; of two times the one that is marked electric, else the first."""
    found = list(_CLOCK.finditer(text))
    if not found:
        raise DataError(f"{place}: {text!r} has no time of day like 19.58.36 or 19:58:36; correct the line")
    ends = [match.start() for match in found[1:]] + [len(text)]
    marked = [m for m, end in zip(found, ends, strict=True) if "electr" in text[m.end() : end].lower()]
    match = (marked or found)[0]
    if (_stem(edf.name), match[0]) in KNOWN_TYPOS:
        match = _CLOCK.search(KNOWN_TYPOS[_stem(edf.name), match[0]])
    hour, minute, second = (int(part.replace(" ", "")) for part in match.groups())
    if hour > 23 or minute > 59 or second > 59:
        raise DataError(f"{place}: {match[0]!r} is no time of day; correct the line")
    return hour * 3600 + minute * 60 + second


def _is_siena_name(name: str, edf: Path) -> bool:
    """Whether a list means this file; PN01.edf and PN11-.edf are the only file of their patient."""
    if _stem(name) == _stem(edf.name):
        return True
    alone = sum(other.suffix.lower() == ".edf" for other in edf.parent.iterdir()) == 1
    return alone and re.fullmatch(r"pn\d\d", _stem(name)) is not None and _stem(edf.name) == f"{_stem(name)}1"


def _stem(name: str) -> str:
    """A file's name as far as the lists agree on it: no dash, no .edf, zero for the letter O."""
    return re.sub(r"[^a-z0-9+]", "", re.sub(r"\.?edf$", "", name.lower())).replace("o", "0")


def _blocks(path: Path) -> Iterator[tuple[int, str, str]]:
    """Lines with the file that the last ``File name:`` before them names."""
    name = ""
    for number, line in lines_of(path):
        if match := _NAME.match(line):
            name = match[1]
        yield number, name, line


def _beside(edf: Path, pattern: str) -> list[Path]:
    return sorted(path for path in edf.parent.iterdir() if re.fullmatch(pattern, path.name, re.IGNORECASE))
