"""Does anything of the test stand in the training? Asked before anything is trained; the answer is a certificate."""

import hashlib
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np

from vibench.data.store import BLOCK, Recording, Store
from vibench.errors import DataError

SHOWN = 5  # names in a message
RUN = 16  # samples that are compared at once, a power of two
FACTOR = np.uint64(0x9E3779B97F4A7C15)


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
    prints = {name: _Prints(store, recordings, rows, window) for name, rows in places.items()}
    shared = []
    for first, second in combinations(places, 2):
        common = {
            "entities": sorted(entities[first] & entities[second]),
            "overlapping_windows": _overlaps(places[first], places[second], span),
            "copied_windows": prints[second].shared_with(prints[first]),
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


def audit_start(certificate: dict[str, Any], seen: list[str] | None, source: str, allow_leaky: bool) -> None:
    """Add to the certificate what the weights that a training starts from have seen of the test.

    Args:
        certificate: of the splits; changed in place.
        seen: entities that those weights were trained on or chosen by, as :func:`entities_of` names them; None where
            they do not say.
        source: where they come from, for the message.
        allow_leaky: go on although something is shared.

    Raises:
        DataError: they have seen entities of the test, and ``allow_leaky`` was not set.
    """
    common = sorted(set(seen or ()) & set(entities_of(certificate, "test")))
    if seen is not None and not common:
        return
    if seen is None and not allow_leaky:
        raise DataError(
            f"{source} does not say which bearings and runs its weights have seen, perhaps those of the test; "
            "take weights that vibench wrote, or use data.allow_leaky=true, which every result will say"
        )
    shared = {"splits": [source, "test"], "entities": common, "overlapping_windows": 0, "copied_windows": 0}
    shared |= {"unknown": True} if seen is None else {}
    if not allow_leaky:
        raise DataError(_message([shared]))
    certificate |= {"clean": False, "waived": True, "shared": [*certificate["shared"], shared]}


def entities_of(certificate: dict[str, Any], *splits: str) -> list[str]:
    """The entities of some splits."""
    there = certificate["splits"]
    return sorted({entity for name in splits if name in there for entity in there[name]["entities"]})


class _Prints:
    """Fingerprints of the samples of a split, wherever its windows happen to begin.

    Every run of ``RUN`` samples has a hash; of these, those divisible by a number are kept, so that a recording
    copied under another name is found although it begins some samples later. Runs that do not move are left out (a
    silent sensor is no copy), but windows that are equal as a whole are found also where they are silent.
    """

    def __init__(self, store: Store, recordings: list[Recording], rows: np.ndarray, window: int) -> None:
        self.window, self.rows = window, rows
        self.whole = [_digest(store.signal(recordings[i], start, start + window)) for i, start in rows.tolist()]
        runs = []
        for i in np.unique(rows[:, 0]).tolist():
            starts = rows[rows[:, 0] == i, 1]
            first, last = int(starts.min()), int(starts.max()) + window
            for begin in range(first, last, BLOCK):  # a recording may be longer than memory
                signal = store.signal(recordings[i], begin, min(begin + BLOCK + RUN - 1, last))
                places, hashes = _runs(signal, begin, max(1, window // 64))
                runs.append((np.full(len(places), i), places, hashes))
        self.recording, self.place, self.hash = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        self.known = np.sort(self.hash)

    def shared_with(self, other: "_Prints") -> int:
        """Windows of this split that hold samples of the other."""
        whole = set(other.whole)
        copied = np.array([digest in whole for digest in self.whole])
        hit = np.zeros(len(self.hash), bool)
        if len(other.known):
            nearest = np.searchsorted(other.known, self.hash).clip(max=len(other.known) - 1)
            hit = other.known[nearest] == self.hash
        for i in np.unique(self.recording[hit]):
            places = self.place[hit & (self.recording == i)]
            own = np.flatnonzero(self.rows[:, 0] == i)
            starts = self.rows[own, 1]
            ends = starts + self.window - RUN
            copied[own] |= np.searchsorted(places, starts) < np.searchsorted(places, ends, side="right")
        return int(copied.sum())


def _digest(samples: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(samples), digest_size=12).digest()


def _runs(signal: np.ndarray, first: int, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and hashes of the runs that are kept: a polynomial over the bits of RUN samples, by doubling."""
    if len(signal) < RUN:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    bits = np.ascontiguousarray(signal).view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        hashes = np.zeros(len(bits), np.uint64)
        for channel in range(bits.shape[1]):
            hashes = hashes * FACTOR + _mixed(bits[:, channel])
        power, width = FACTOR, 1
        while width < RUN:
            hashes = hashes[:-width] * power + hashes[width:]
            power, width = power * power, 2 * width
        hashes = _mixed(hashes)
    changes = np.concatenate([[0], np.cumsum((np.diff(bits.astype(np.int64), axis=0) != 0).any(1))])
    moving = changes[RUN - 1 :] > changes[: len(hashes)]
    places = np.flatnonzero(moving & (hashes % np.uint64(keep) == 0))
    return places + first, hashes[places]


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread every bit over all of them (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


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
        if common["copied_windows"]:
            found.append(f"{common['copied_windows']} windows of {second} hold samples that {first} holds too")
    return (
        f"the splits leak: {'; '.join(found)}; "
        "use data.split.by=entity and the same data.split.seed, or data.allow_leaky=true, which every result will say"
    )
