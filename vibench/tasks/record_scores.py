"""Scores of whole records from the windows of a model: stitched, cut into events, counted.

Shapes: B windows of L samples; n samples of a record, t thresholds.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from vibench.tasks.postprocessing import Postprocessing, runs
from vibench.tasks.ranking import AUROC, AveragePrecision, Ranking
from vibench.tasks.stitching import Stitched, sum_to
from vibench.tasks.szcore import RecordCounts, score_record

PIECE = 2**17  # samples that are ranked at once, in float64


@dataclass(slots=True)
class _Open:
    """A record that windows may still come of."""

    rate_hz: float
    stitched: Stitched = field(default_factory=Stitched)


class RecordScores:
    """Collects windows by record. A record that is closed leaves counts and two histograms, of one size for all.

    Several processes that see parts of the same records (``ordered=False``) put them together in ``finish``: each
    record goes to one of them, which scores it, and all end with the counts of all. Every process must call it.

    Args:
        postprocessing: how events are cut.
        grid: (t,) thresholds, each greater than the one before.
        ordered: whether the windows of a record come one after another, all to this process. Then a record is closed
            when the next one begins; else all are kept until ``finish``, 9 bytes a sample.

    Attributes:
        counts: of the closed records, at every threshold.
    """

    def __init__(self, *, postprocessing: Postprocessing, grid: np.ndarray, ordered: bool) -> None:
        assert (np.diff(grid, prepend=-np.inf) > 0).all(), f"the thresholds {grid} do not rise"
        self.postprocessing, self.grid, self.ordered = postprocessing, grid, ordered
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._open: dict[int, _Open] = {}
        self._closed: set[int] = set()
        self.counts = RecordCounts.none(len(self.grid))
        self._ranked = AUROC(1)  # of samples, each once; average precision reads the same histograms

    def add(self, recording: Any, start: Any, rate_hz: Any, probability: Any, target: Any, valid: Any) -> None:
        """Lay windows onto the clocks of their records; all are arrays, or tensors on the CPU.

        Args:
            recording: (B,) number of the record.
            start: (B,) its sample that the window begins with.
            rate_hz: (B,) its samples per second.
            probability: (B, L) of a seizure.
            target: (B, L) bool or 0 and 1, whether it is one.
            valid: (B, L) bool or 0 and 1, samples that are measured and labelled.
        """
        columns = map(_array, (recording, start, rate_hz, probability, target, valid))
        for number, first, rate, score, truth, known in zip(*columns, strict=True):
            self._record(int(number), float(rate)).add(int(first), score, truth > 0.5, known > 0.5)

    def finish(self) -> None:
        """Close every record."""
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if together and not self.ordered:
            self._finish_together()
        self._close_all()

    def _record(self, number: int, rate_hz: float) -> Stitched:
        """Where the windows of that record are laid; closes the others where they are complete."""
        assert number not in self._closed, f"a window of record {number} after it was closed"
        if number not in self._open:
            if self.ordered:
                self._close_all()
            self._open[number] = _Open(rate_hz)
        return self._open[number].stitched

    def auroc(self) -> float:
        """Of all samples of the closed records; NaN without a seizure, or with nothing else."""
        return self._of_histograms(AUROC(1))

    def average_precision(self) -> float:
        """Of all samples of the closed records; NaN without a seizure, or with nothing else."""
        return self._of_histograms(AveragePrecision(1))

    def _close_all(self) -> None:
        while self._open:
            number, record = self._open.popitem()
            self._closed.add(number)
            if len(record.stitched):  # else nothing of it is known
                self._score(record.stitched, record.rate_hz)

    def _score(self, stitched: Stitched, rate_hz: float) -> None:
        probability, target, covered = stitched.probability(), stitched.target(), stitched.covered()
        events = self.postprocessing.events_at(probability, self.grid, rate_hz)
        self.counts += score_record(
            runs(target), events, n_samples=len(stitched), rate_hz=rate_hz, n_scored=int(covered.sum())
        )
        for start in range(0, len(stitched), PIECE):
            piece = slice(start, start + PIECE)
            known = covered[piece]
            log_odds = torch.from_numpy(probability[piece][known]).double().logit()
            self._ranked.update(log_odds[:, None], torch.from_numpy(target[piece][known])[:, None])

    def _of_histograms(self, metric: Ranking) -> float:
        positives, negatives = self._ranked.positives.double(), self._ranked.negatives.double()
        defined = bool(positives.any() and negatives.any())
        return float(metric.per_class(positives, negatives)) if defined else math.nan

    def _finish_together(self) -> None:
        """Close the records of all processes, each in one of them, and count what all have found."""
        part = RecordScores(postprocessing=self.postprocessing, grid=self.grid, ordered=False)
        known = _everywhere({number: (one.rate_hz, len(one.stitched)) for number, one in self._open.items()})
        for place, number in enumerate(sorted(set().union(*known))):
            rate_hz, length = max(found[number] for found in known if number in found)
            stitched = self._record(number, rate_hz)
            stitched.grow(length)
            owner = place % dist.get_world_size()
            sum_to(owner, stitched)
            own = self._open.pop(number)
            self._closed.add(number)
            if owner == dist.get_rank():
                part._open[number] = own
        part._close_all()
        for counts, positives, negatives in _everywhere((part.counts, part._ranked.positives, part._ranked.negatives)):
            self.counts += counts
            self._ranked.positives += positives
            self._ranked.negatives += negatives


def _array(values: Any) -> np.ndarray:
    """bfloat16 has no array."""
    if isinstance(values, Tensor):
        values = values.detach()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _everywhere(value: Any) -> list[Any]:
    """What every process has, in their order."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
