"""Scores of a record on its own clock, at every threshold of a grid: SzCORE's events and samples, and TAES.

SzCORE (Dan et al. 2024, https://doi.org/10.1111/epi.18113) by its own library ``timescoring``. Events, at 10 Hz: those
closer than 90 s are merged, those longer than 300 s are cut, then a seizure is found if any event touches it between
30 s before and 60 s after, and an event that touches no seizure found is a false alarm. Samples: at 1 Hz, as they are.

TAES, time-aligned event scoring (Shah et al. 2021, https://arxiv.org/abs/1712.10107), is written here; ``taes`` says
what is done.

Shapes: k events (start, stop) in samples, in order and apart; t thresholds.
"""

from dataclasses import dataclass, fields

import numpy as np

from vibench.errors import ConfigError
from vibench.tasks.postprocessing import runs

DAY_S = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Hits:
    """What was found of something, and what was taken for it.

    Attributes:
        tp: (t,) found.
        fp: (t,) false alarms.
        total: what there was to find; ``total - tp`` was missed.
    """

    tp: np.ndarray
    fp: np.ndarray
    total: float

    def __add__(self, other: "Hits") -> "Hits":
        return Hits(self.tp + other.tp, self.fp + other.fp, self.total + other.total)


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """Counts of one record, or of several: they add up.

    Attributes:
        event: SzCORE's events, after merging and cutting.
        sample: SzCORE's samples, one a second.
        taes: events as they are, in parts.
        seconds: that have a score.
        records: that have one.
    """

    event: Hits
    sample: Hits
    taes: Hits
    seconds: float
    records: int

    @classmethod
    def none(cls, thresholds: int) -> "RecordCounts":
        """Of no record."""
        nothing = Hits(np.zeros(thresholds), np.zeros(thresholds), 0)
        return cls(nothing, nothing, nothing, 0.0, 0)

    def __add__(self, other: "RecordCounts") -> "RecordCounts":
        return RecordCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def score_record(
    reference: np.ndarray,
    hypotheses: list[np.ndarray],
    *,
    n_samples: int,
    rate_hz: float,
    n_scored: int | None = None,
) -> RecordCounts:
    """Count what was found in one record at every threshold; events that are the same are scored once.

    Args:
        reference: (k, 2), the seizures.
        hypotheses: (k, 2) for each of the t thresholds.
        n_samples: length of the record.
        rate_hz: samples per second.
        n_scored: samples with a score, which are the time that false alarms are counted over; None: all.

    Raises:
        ConfigError: ``timescoring`` is not installed.
    """
    scored = {events.tobytes(): events for events in hypotheses}
    found = {key: _found(reference, events, n_samples / rate_hz, rate_hz) for key, events in scored.items()}
    table = np.array([found[events.tobytes()] for events in hypotheses], np.float64)  # (t, 3, 3)
    event, sample, taes = (Hits(part[:, 0], part[:, 1], float(part[0, 2])) for part in table.transpose(1, 0, 2))
    return RecordCounts(event, sample, taes, (n_samples if n_scored is None else n_scored) / rate_hz, 1)


def _found(reference: np.ndarray, hypothesis: np.ndarray, length_s: float, rate_hz: float) -> list[tuple]:
    """Found, false and total, of events, samples and TAES."""
    try:
        from timescoring.annotations import Annotation
        from timescoring.scoring import EventScoring, SampleScoring
    except ImportError as error:
        raise ConfigError(["task.seizure_detection needs timescoring; pip install 'vibench[eeg]'"]) from error
    counts = []
    for scoring, fs in ((EventScoring, 10), (SampleScoring, 1)):  # the rates at which each of them counts
        length = max(1, round(length_s * fs))  # a rate of false alarms over no time is an error there
        score = scoring(*(Annotation((e / rate_hz).tolist(), fs, length) for e in (reference, hypothesis)))
        counts.append((score.tp, score.fp, score.refTrue))
    return [*counts, (*taes(reference, hypothesis), len(reference))]


def taes(reference: np.ndarray, hypothesis: np.ndarray) -> tuple[float, float]:
    """Seizures found and false alarms, in parts: time-aligned event scoring, as the authors' nedc_eval_taes counts it.

    A seizure of duration d is found to the part of it that events cover, and missed to the rest. Each of these events
    is a false alarm to what it has outside of the seizure, over d, at most 1. An event counts for the first seizure
    that it touches, in time. Where the first event of a seizure goes on into the next seizures, those are missed
    altogether, whatever else is there: several seizures that are told as one are not told. An event that was used for
    no seizure is one false alarm. No tolerance, nothing is merged; events that only meet share nothing (the authors'
    program of 2018 rounds to whole seconds before it asks).

    Returns:
        Found and false; what was missed is the number of seizures less what was found.
    """
    tp, fp = 0.0, 0.0
    used, lost = np.zeros(len(hypothesis), bool), np.zeros(len(reference), bool)
    for number, (start, stop) in enumerate(reference):
        shared = np.minimum(hypothesis[:, 1], stop) - np.maximum(hypothesis[:, 0], start)
        here = (shared > 0) & ~used
        if lost[number] or not here.any():
            continue
        used |= here
        events, shared = hypothesis[here], shared[here]
        tp += shared.sum() / (stop - start)
        fp += np.minimum((events[:, 1] - events[:, 0] - shared) / (stop - start), 1).sum()
        lost |= (reference[:, 0] >= stop) & (reference[:, 0] < events[0, 1])
    return float(tp), float(fp + (~used).sum())


def sensitivity(hits: Hits) -> np.ndarray:
    """(t,) share that was found; NaN where there was nothing to find: neither missed nor found."""
    return _share(hits.tp, np.full_like(hits.tp, hits.total))


def f1(hits: Hits) -> np.ndarray:
    """(t,) harmonic mean of both: 0 where nothing was found, NaN where there was nothing to find."""
    return _share(2 * hits.tp, (hits.tp + hits.fp + hits.total) * (hits.total > 0))


def false_alarms_per_24h(counts: RecordCounts) -> np.ndarray:
    """(t,) SzCORE's false alarms in 24 h of what has a score; NaN where nothing has."""
    return _share(counts.event.fp * DAY_S, np.full_like(counts.event.fp, counts.seconds))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def choose(counts: RecordCounts, *, max_fa_per_24h: float) -> int:
    """Which threshold of the grid to operate at.

    Of those with at most that many false alarms, or else with the fewest, the ones with the highest sensitivity, of
    those the highest F1 of events, and of those the middle of the longest row: there a threshold is farthest from
    where something changes, and so generalises best. The first of rows of one length. Without any seizure all are
    equal in what they find.
    """
    chosen = allowed(counts, max_fa_per_24h=max_fa_per_24h)
    if not chosen.any():
        chosen = counts.event.fp == counts.event.fp.min()
    for score in (sensitivity(counts.event), f1(counts.event)):
        score = np.nan_to_num(score)
        chosen = chosen & (score == score[chosen].max())
    rows = runs(chosen)
    start, stop = rows[np.argmax(rows[:, 1] - rows[:, 0])]
    return int(start + stop - 1) // 2


def allowed(counts: RecordCounts, *, max_fa_per_24h: float) -> np.ndarray:
    """(t,) whether a threshold has at most that many false alarms in 24 h."""
    return counts.event.fp * DAY_S <= max_fa_per_24h * counts.seconds
