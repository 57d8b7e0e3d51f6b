"""Seizures of a record from the EDF+ annotations in the file itself.

A text that says seizure and has a duration is one; without a duration, one begins at "seizure start" or "seizure
onset" and ends at "seizure end", "seizure offset" or "seizure stop". What else reviewers write is no statement.
"""

import re
from pathlib import Path

from vibench.data.eeg.annotation_formats import Event, Found, Pairs
from vibench.data.eeg.edf import Annotation

FORMAT = "EDF+ annotations"
SEIZURE = {"seizure", "seizures", "sz", "seiz"}
START = {"start", "starts", "onset", "begin", "begins", "beginning"}
END = {"end", "ends", "offset", "stop", "stops"}
NOT = {"no", "non", "not", "without", "possible", "pre", "post", "pseudo", "psychogenic", "pnes"}


def annotated(edf: Path, annotations: list[Annotation]) -> Found | None:
    """What the annotations of a record say; None where they speak of no seizure.

    Raises:
        DataError: a seizure begins or ends alone.
    """
    pairs, bare, background = Pairs(), None, False
    for onset, lasts, text in annotations:
        words = set(re.findall(r"[a-z]+", text.lower()))
        place = f"{edf}: annotation {text!r} at {onset:g} s"
        background |= "bckg" in words
        if not words & SEIZURE or words & NOT:
            continue
        if lasts and not words & END:
            pairs.events.append(Event(onset, onset + lasts, place))
        elif words & START:
            pairs.start(onset, place)
        elif words & END:
            pairs.end(onset, place)
        else:
            bare = bare or f"its annotation {text!r} at {onset:g} s has no duration"
    pairs.close()
    if pairs.events or (background and not bare):
        return Found(events=pairs.events, source=f"{edf.name} ({FORMAT})", format=FORMAT)
    return Found(events=None, source=bare) if bare else None
