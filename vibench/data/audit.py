"""Does anything of the test stand in the training? Asked before anything is trained; the answer is a certificate."""

import hashlib
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np

from vibench.data.store import Recording, Store
from vibench.errors import DataError

SHOWN = 5  # names in a message


def audit(
    store: Store, recordings: list[Recording], places: dict[str, np.ndarray], span: int, window: int, allow_leaky: bool
) -> dict[str, Any]:
    """Certificate of the splits: what they hold, and what they share.

    Args:
        recordings: those in use.
        places: split -> (windows, 2) int64: index into ``recordings``, first sample.
        span: samples that a window and what it must forecast cover.
        window: samples of a window.
        allow_leaky: go on although something is shared.

    Raises:
        DataError: splits share entities, samples or identical windows, and ``allow_leaky`` was not set.
    """
    entities = {name: {recordings[i].entity for i in rows[:, 0]} for name, rows in places.items()}
    content = {name: _hashes(store, recordings, rows, window) for name, rows in places.items()}
    known = {name: set(hashes) for name, hashes in content.items()}
    shared = []
    for first, second in combinations(places, 2):
        common = {
            "entities": sorted(entities[first] & entities[second]),
            "overlapping_windows": _overlaps(places[first], places[second], span),
            "identical_windows": sum(content_hash in known[first] for content_hash in content[second]),
        }
        if any(common.values()):
            shared.append({"splits": [first, second]} | common)
    if shared and not allow_leaky:
        raise DataError(_message(shared))
    return {
        "clean": not shared,
        "waived": bool(shared),
        "shared": shared,
        "splits": {name: _summary(recordings, rows) for name, rows in places.items()},
    }


def _hashes(store: Store, recordings: list[Recording], rows: np.ndarray, window: int) -> list[bytes]:
    return [
        hashlib.blake2b(store.signal(recordings[i], start, start + window), digest_size=12).digest()
        for i, start in rows.tolist()
    ]


def _overlaps(first: np.ndarray, second: np.ndarray, span: int) -> int:
    """Windows of the second split that share a sample with the first, in the same recording."""
    count = 0
    for recording in np.intersect1d(first[:, 0], second[:, 0]):
        starts = np.sort(first[first[:, 0] == recording, 1])
        for start in second[second[:, 0] == recording, 1]:
            nearest = np.searchsorted(starts, start + span)  # the last window that begins before this one ends
            count += nearest > 0 and starts[nearest - 1] + span > start
    return int(count)


def _summary(recordings: list[Recording], rows: np.ndarray) -> dict[str, Any]:
    used = [recordings[i] for i in np.unique(rows[:, 0])]
    return {
        "windows": len(rows),
        "recordings": len(used),
        "entities": sorted({r.entity for r in used}),
        "windows_per_system": dict(sorted(Counter(recordings[i].system for i in rows[:, 0]).items())),
    }


def _message(shared: list[dict[str, Any]]) -> str:
    found = []
    for common in shared:
        first, second = common["splits"]
        if names := common["entities"]:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            found.append(f"{first} and {second} share {len(names)} entities ({', '.join(names[:SHOWN])}{more})")
        if common["overlapping_windows"]:
            found.append(f"{common['overlapping_windows']} windows of {second} overlap windows of {first}")
        if common["identical_windows"]:
            found.append(f"{common['identical_windows']} windows of {second} are identical to windows of {first}")
    return (
        f"the splits leak: {'; '.join(found)}; "
        "use data.split.by=entity, or data.allow_leaky=true, which every result will say"
    )
