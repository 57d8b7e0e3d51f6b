"""Raw samples of a record to samples at one rate, filtered.

In blocks, so that a day of it never lies in memory, and the same samples however it is cut. Shapes: n samples,
C channels. Both ends of a record are mirrored, so that an offset makes no step there.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from vibench.errors import DataError

Read = Callable[[int, int], np.ndarray]
Blocks = Iterator[np.ndarray]
LARGEST = 100_000  # denominator of a ratio of rates: its filter takes 50 MB
MAX_DRIFT_S = 0.1  # over a record, where no such ratio is exact; seizures are not marked more precisely


class Preprocessing:
    """Interpolates lost samples, brings a record to one rate, and filters it without shifting it in time.

    Transitions are those of MNE (https://mne.tools/stable/auto_tutorials/preprocessing/25_background_filtering.html):
    below ``low_hz`` min(max(low / 4, 2), low) wide, above ``high_hz`` min(max(high / 4, 2), Nyquist - high), around a
    notch of f / 200 half a hertz on either side; Hamming windows of 3.3 over the transition, 47 dB down at its end.
    Nothing at all is left of a constant and of the notch frequency itself; its harmonics stay.

    Args:
        rate_hz: of the samples that come out; resampling keeps what is below 15/16 of half the lower rate.
        low_hz, high_hz: edges of the pass band; None: no edge.
        notch_hz: 50 or 60, the mains; None: no notch.
        max_gap_s: longest stretch of one channel that is interpolated, in seconds.

    Attributes:
        interpolated: samples, of all channels, of the record that was read last.

    Raises:
        DataError: scipy is missing, or a frequency does not lie between 0 and half of ``rate_hz``.
    """

    def __init__(
        self,
        *,
        rate_hz: float,
        low_hz: float | None,
        high_hz: float | None,
        notch_hz: float | None,
        max_gap_s: float,
    ) -> None:
        self.rate_hz, self.max_gap_s, self.interpolated = rate_hz, max_gap_s, 0
        self.kernel = _kernel(rate_hz, low_hz, high_hz, notch_hz)

    def length(self, length: int, raw_rate_hz: float) -> int:
        """Samples that ``length`` raw ones become: one every 1 / rate_hz from the first on, within their time."""
        up, down = _ratio(self.rate_hz, raw_rate_hz, length)
        return -(-length * up // down)

    def blocks(self, read: Read, length: int, raw_rate_hz: float, block: int = 65_536) -> Blocks:
        """(n, C) float32 in microvolts, ``self.length(length, raw_rate_hz)`` samples together.

        Args:
            read: (start, stop) of the raw samples -> (stop - start, C) microvolts, of which some may not be finite.
            length: raw samples of the record.
            block: raw samples at a time, or more where a filter reaches farther.

        Raises:
            DataError: a channel has no finite sample for longer than ``max_gap_s``, or not one in the record;
                the ratio of the rates is none of whole numbers; the record is empty.
        """
        if length < 1:
            raise DataError("the record has no samples")
        up, down = _ratio(self.rate_hz, raw_rate_hz, length)
        reach = len(self.kernel) // 2
        least = max(block, math.ceil((reach + 1) * down / up), _reach(up, down) + 1)
        size = math.ceil(least / down) * down  # whole periods of the ratio: every block begins at a sample of both
        blocks = self._finite(read, length, raw_rate_hz, size)
        if up != down:
            blocks = _resampled(blocks, up, down)
        for window in _extended(blocks, reach) if reach else blocks:
            if reach:
                window = _scipy().fftconvolve(_rows(window), self.kernel[None], "valid", axes=1).T
            yield np.ascontiguousarray(window, np.float32)

    def _finite(self, read: Read, length: int, rate_hz: float, size: int) -> Blocks:
        """The record in blocks of at least ``size``, without its gaps."""
        self.interpolated, longest = 0, int(self.max_gap_s * rate_hz)
        cuts = [size * k for k in range(max(1, length // size))]  # the last one takes the rest
        for start, stop in pairwise([*cuts, length]):
            block = read(start, stop)
            assert len(block) == stop - start, f"read({start}, {stop}) gave {len(block)} samples"
            if not (finite := np.isfinite(block)).all():
                self.interpolated += int((~finite).sum())
                first = max(0, start - longest - 1)  # with a finite sample on either side of every gap
                wide = np.array(read(first, min(length, stop + longest + 1)), np.float32)
                _interpolate(wide, self.max_gap_s, first, rate_hz)
                block = wide[start - first : stop - first]
            yield block


def _scipy() -> Any:
    """``scipy.signal``: an extra, and slow to import."""
    try:
        from scipy import signal
    except ImportError as error:
        raise DataError("resampling and filtering needs scipy; pip install 'vibench[eeg]'") from error
    return signal


def _interpolate(block: np.ndarray, max_gap_s: float, first: int, rate_hz: float) -> None:
    """Fill what is not finite, in place: a line in time per channel, the nearest sample at an edge."""
    for channel in np.flatnonzero(~np.isfinite(block).all(0)):
        samples = block[:, channel]
        finite = np.flatnonzero(np.isfinite(samples))
        lost = np.diff(finite, prepend=-1, append=len(samples)) - 1  # before each finite sample, and after the last
        if not len(finite) or lost.max() > max_gap_s * rate_hz:
            gap = lost.argmax()
            begin = first + (finite[gap - 1] + 1 if gap else 0)
            raise DataError(
                f"channel {channel} (counted from 0) has no finite sample for {lost[gap] / rate_hz:.3g} s or more from "
                f"{begin / rate_hz:.3f} s on; allowed is max_gap_s={max_gap_s:g}"
            )
        block[:, channel] = np.interp(np.arange(len(samples)), finite, samples[finite])


def _extended(blocks: Blocks, reach: int) -> Blocks:
    """Each block with ``reach`` samples more on either side: its neighbours', or its own mirrored at an edge."""
    block = next(blocks)
    before = np.pad(block, ((reach, 0), (0, 0)), "reflect")[:reach]
    for following in blocks:
        yield np.concatenate([before, block, following[:reach]])
        before, block = block[-reach:], following
    yield np.concatenate([before, np.pad(block, ((0, reach), (0, 0)), "reflect")])


def _rows(block: np.ndarray) -> np.ndarray:
    """(n, C) -> (C, n) float64: a channel's samples side by side are several times faster."""
    return np.ascontiguousarray(block.T, np.float64)


def _ratio(rate_hz: float, raw_rate_hz: float, length: int) -> tuple[int, int]:
    """Whole numbers ``up / down`` next to the ratio of the rates, (1, 1) where they are equal.

    249.7 Hz to 256 Hz is 2560 / 2497 exactly. Where none is exact, the last sample comes too early or too late by its
    error times the record's duration.

    Raises:
        DataError: that would be more than ``MAX_DRIFT_S``.
    """
    exact = Fraction(rate_hz) / Fraction(raw_rate_hz)
    near = exact.limit_denominator(LARGEST)
    drift_s = abs(float(near / exact) - 1) * length / raw_rate_hz
    if drift_s > MAX_DRIFT_S:
        raise DataError(
            f"{raw_rate_hz:.9g} Hz to rate_hz={rate_hz:.9g} is no ratio of whole numbers up to {LARGEST}: after "
            f"{length / raw_rate_hz:.0f} s it would be {drift_s:.2g} s off, {MAX_DRIFT_S} are allowed; "
            "cut the record, or choose another rate_hz"
        )
    return near.numerator, near.denominator


@lru_cache(maxsize=4)
def _anti_aliasing(up: int, down: int) -> np.ndarray:
    """Low-pass at ``up`` times the raw rate: -6 dB at half the lower rate, 60 dB down beyond 17/16 of it.

    What folds back lies above 15/16 of it therefore. Each of its ``up`` phases sums to one: a constant stays constant.
    """
    lower = 1 / max(up, down)
    taps, beta = _scipy().kaiserord(60, lower / 8)
    kernel = _scipy().firwin(taps | 1, lower, window=("kaiser", beta))
    phases = np.pad(kernel, (0, -len(kernel) % up)).reshape(-1, up)
    return (phases / phases.sum(0)).ravel()[: len(kernel)]


def _reach(up: int, down: int) -> int:
    """Raw samples on either side that a resampled one depends on."""
    return 0 if up == down else math.ceil(len(_anti_aliasing(up, down)) / 2 / up)


def _resampled(blocks: Blocks, up: int, down: int) -> Blocks:
    """Blocks of a multiple of ``down`` samples, the last of any number, at ``up / down`` times their rate."""
    kernel, reach = _anti_aliasing(up, down), _reach(up, down)
    delay = reach * up + len(kernel) // 2
    kernel = np.concatenate([np.zeros(-delay % down), kernel])  # the first sample lies on the new grid
    first = math.ceil(delay / down)
    for window in _extended(blocks, reach):
        wanted = -(-(len(window) - 2 * reach) * up // down)
        yield _scipy().upfirdn(kernel, _rows(window), up, down)[:, first : first + wanted].T


def _kernel(rate_hz: float, low_hz: float | None, high_hz: float | None, notch_hz: float | None) -> np.ndarray:
    """(taps,) symmetric, odd: every edge's own filter, convolved with the others. (1,) where there is none."""
    nyquist_hz = rate_hz / 2
    for name, edge, least in (("low_hz", low_hz, 0), ("high_hz", high_hz, 0), ("notch_hz", notch_hz, 1)):
        if edge is not None and not least < edge < nyquist_hz - least:  # a notch is a hertz wide on either side
            raise DataError(
                f"{name}={edge:g} is not between {least} and {nyquist_hz - least:g} Hz; half of rate_hz={rate_hz:g} "
                "limits it: use another, or null"
            )
    if low_hz is not None and high_hz is not None and low_hz >= high_hz:
        raise DataError(f"low_hz={low_hz:g} is not below high_hz={high_hz:g}, so nothing would be kept")
    kernel = np.ones(1)
    if low_hz is not None:
        width = min(max(low_hz / 4, 2), low_hz)
        kernel = np.convolve(kernel, _without(_fir(rate_hz, low_hz - width / 2, width)))
    if high_hz is not None:
        width = min(max(high_hz / 4, 2), nyquist_hz - high_hz)
        kernel = np.convolve(kernel, _fir(rate_hz, high_hz + width / 2, width))
    if notch_hz is not None:
        half = notch_hz / 400 + 0.25
        kernel = np.convolve(kernel, _without(_fir(rate_hz, [notch_hz - half, notch_hz + half], 0.5)))
    return kernel


def _fir(rate_hz: float, cut_hz: float | list[float], transition_hz: float) -> np.ndarray:
    """Low-pass, or band-pass between two; its gain is exactly 1 at 0, or in the middle of the band."""
    taps = math.ceil(3.3 * rate_hz / transition_hz) | 1
    return _scipy().firwin(taps, cut_hz, pass_zero=np.ndim(cut_hz) == 0, fs=rate_hz)


def _without(kernel: np.ndarray) -> np.ndarray:
    """All that ``kernel`` takes away."""
    rest = -kernel
    rest[len(rest) // 2] += 1
    return rest
