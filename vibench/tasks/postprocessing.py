"""From the probability of every sample to events: hysteresis, opening, closing, minimum duration, merged gaps.

Works on runs, the start and stop of what is alike, never sample by sample: an hour at 256 Hz has 921,600 samples and a
few thousand runs. A sample without a score (NaN) begins no event and continues none, but a gap of such samples is
closed as any other.

Shapes: n samples, t thresholds, k events or runs (start, stop), m stretches of one level.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PIECE = 2**16  # samples whose levels are told at once: they fit into a cache
NEVER = np.iinfo(np.int64).max // 2  # a sample that no record reaches
NONE = np.empty((0, 2), np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Postprocessing:
    """How events are cut from probabilities.

    Events that are too short are dropped before the gaps are merged: what is merged must be long enough on its own,
    else flickers that follow each other closely would count as a seizure. So the order is that of the recipe:
    at least 3 s, then gaps below 2 s.

    Attributes:
        off_ratio: probability above which an event goes on, as a share of the one that begins it; in (0, 1].
        opening: samples; shorter runs are dropped (binary opening with a flat element of that length).
        closing: samples; shorter gaps are filled (binary closing; beyond both ends of the record there is nothing).
        min_duration_s: seconds; shorter events are dropped.
        merge_gap_s: seconds; events with a shorter gap between them are one.
    """

    off_ratio: float
    opening: int
    closing: int
    min_duration_s: float
    merge_gap_s: float

    def events(self, probability: np.ndarray, threshold: float, rate_hz: float) -> np.ndarray:
        """Events of a whole record at one threshold.

        Args:
            probability: (n,) float32.
            threshold: probability that begins an event; compared in float32, as the probabilities are.
            rate_hz: samples per second.

        Returns:
            (k, 2) int64, first sample and the one after the last, in order and apart.
        """
        return self.events_at(probability, np.array([threshold]), rate_hz)[0]

    def events_at(self, probability: np.ndarray, thresholds: np.ndarray, rate_hz: float) -> list[np.ndarray]:
        """Events at every one of the thresholds (t,), in their order; the samples are read only once."""
        off, on = self.limits(thresholds)
        limits = np.unique(np.concatenate([off, on]))
        values, places = _stretches(_levels(probability, limits))
        lows, highs = np.searchsorted(limits, off), np.searchsorted(limits, on)
        return [
            self._merged(self._lasting(self._closed(self.hysteresis(values, places, low, high)), rate_hz), rate_hz)
            for low, high in zip(lows, highs, strict=True)
        ]

    def limits(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Thresholds (t,) that keep an event going, and that begin one, in float32."""
        on = np.asarray(thresholds, np.float64)
        return (on * self.off_ratio).astype(np.float32), on.astype(np.float32)

    def hysteresis(self, values: np.ndarray, places: np.ndarray, low: int, high: int) -> np.ndarray:
        """Runs above ``low`` that somewhere are above ``high``, opened.

        Both drop whole runs, so that either may come first; few are long, and only those are searched for a peak.

        Args:
            values: (m,) level of each stretch.
            places: (m + 1,) sample at which each begins, and the end.
        """
        found = runs(values > low)
        found = found[places[found[:, 1]] - places[found[:, 0]] >= self.opening]
        if not len(found):
            return NONE
        padded = np.append(values, values.dtype.type(0))  # the last run may stop at the end, where nothing can be cut
        peaks = np.maximum.reduceat(padded, found.ravel())[::2]
        return places[found[peaks > high]]

    def _closed(self, found: np.ndarray) -> np.ndarray:
        return _joined(found, self.closing, 1)

    def _lasting(self, found: np.ndarray, rate_hz: float) -> np.ndarray:
        return found[(found[:, 1] - found[:, 0]) / rate_hz >= self.min_duration_s]  # 11 / 10 is 1.1, 1.1 * 10 is not 11

    def _merged(self, found: np.ndarray, rate_hz: float) -> np.ndarray:
        return _joined(found, self.merge_gap_s, rate_hz)


class EventStream:
    """The events of a record that comes in pieces: the same as of the whole, wherever it is cut.

    Holds three runs at most: the one that is going on, one that may be closed with the next, and one that may be
    merged with the next.

    Args:
        postprocessing: how events are cut.
        threshold: probability that begins an event.
        rate_hz: samples per second.
    """

    def __init__(self, postprocessing: Postprocessing, *, threshold: float, rate_hz: float) -> None:
        self.how, self.rate_hz = postprocessing, rate_hz
        self.limits = np.concatenate(postprocessing.limits(np.array([threshold])))
        self.position = 0  # samples fed
        self.going, self.highest = NEVER, np.empty(0, np.uint8)  # start and level of a run that has not ended
        self.closing, self.merging = NONE, NONE

    def feed(self, probability: np.ndarray) -> np.ndarray:
        """The next samples (n,) -> (k, 2), the events that nothing to come can change, on the record's clock."""
        values, places = _stretches(_levels(probability, self.limits))
        begun = [self.going] if len(self.highest) else []
        values = np.concatenate([self.highest, values])
        places = np.concatenate([np.array(begun, np.int64), places + self.position])
        self.position += len(probability)
        ended = len(values) - _last_above(values)
        self.highest = values[ended:].max(keepdims=True) if ended < len(values) else values[:0]
        self.going = int(places[ended]) if ended < len(values) else NEVER
        return self._settled(values[:ended], places[: ended + 1], min(self.going, self.position))

    def finish(self) -> np.ndarray:
        """The events that were waiting for what comes next: nothing does."""
        places = np.array([self.going, self.position])[-len(self.highest) - 1 :]
        values, self.highest, self.going = self.highest, self.highest[:0], NEVER
        return self._settled(values, places, NEVER)

    def _settled(self, values: np.ndarray, places: np.ndarray, next_start: int) -> np.ndarray:
        """Events that are final; no run to come begins before ``next_start``."""
        found = self.how.hysteresis(values, places, 0, 1) if len(values) else NONE
        found = self.how._closed(np.concatenate([self.closing, found]))
        final = next_start - found[:, 1] >= self.how.closing
        self.closing = found[~final]
        next_start = int(self.closing[0, 0]) if len(self.closing) else next_start
        found = np.concatenate([self.merging, self.how._lasting(found[final], self.rate_hz)])
        found = self.how._merged(found, self.rate_hz)
        final = (next_start - found[:, 1]) / self.rate_hz >= self.how.merge_gap_s
        self.merging = found[~final]
        return found[final]


def runs(mask: np.ndarray) -> np.ndarray:
    """(n,) bool -> (k, 2) int64, the start and stop of each run of True."""
    if not len(mask):
        return NONE
    changes = np.empty(len(mask) + 1, bool)  # before each sample, and behind the last
    changes[0], changes[-1] = mask[0], mask[-1]
    np.not_equal(mask[1:], mask[:-1], out=changes[1:-1])
    return np.flatnonzero(changes).reshape(-1, 2)


def _levels(probability: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(n,) -> how many of the limits each sample reaches, in the smallest type that counts them."""
    levels = np.zeros(len(probability), np.min_scalar_type(len(limits)))
    for level, piece in zip(_pieces(levels), _pieces(probability), strict=True):
        for limit in limits:
            level += (piece >= limit).view(np.uint8)  # an eighth of the time of adding booleans
    return levels


def _pieces(samples: np.ndarray) -> Iterator[np.ndarray]:
    return (samples[start : start + PIECE] for start in range(0, len(samples), PIECE))


def _stretches(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) -> (m,) levels of stretches in which nothing changes, and (m + 1,) where they begin, and the end."""
    changes = np.ones(len(levels) + 1, bool)
    np.not_equal(levels[1:], levels[:-1], out=changes[1:-1])
    places = np.flatnonzero(changes)
    return levels[places[:-1]], places


def _last_above(values: np.ndarray) -> int:
    """Stretches at the end that are above the lowest level, without a break."""
    return int(np.argmin(np.append(values[::-1] > 0, False)))


def _joined(found: np.ndarray, gap: float, rate: float) -> np.ndarray:
    """Runs (k, 2), with those as one between which the gap, over the rate, is shorter than that."""
    if not len(found):
        return found
    apart = (found[1:, 0] - found[:-1, 1]) / rate >= gap
    starts, stops = np.append(True, apart), np.append(apart, True)
    return np.stack([found[starts, 0], found[stops, 1]], axis=1)
