"""Mean and scale of every channel, of whatever ``data.normalisation`` names."""

from collections.abc import Iterable

import numpy as np

from vibench.config.data import Normalisation
from vibench.data.splits import Segment
from vibench.data.store import Recording, Store, check_finite
from vibench.errors import DataError

Moments = tuple[int, np.ndarray, np.ndarray]  # samples; mean and sum of squares about it, per channel


def check_samples(store: Store, recordings: list[Recording]) -> None:
    """Raise a DataError at the first sample that is NaN or infinite."""
    for recording in recordings:
        for signal in store.blocks(recording):
            if not np.isfinite(signal.sum()):  # cheaper than asking every sample; a sum may overflow and be asked
                source = f"{store.path}: recording {recording.id} (from {recording.source})"
                check_finite(store.blocks(recording), source)


def scaling_of(
    kind: Normalisation,
    store: Store,
    recordings: list[Recording],
    train: list[Segment],
    n_channels: int,
) -> np.ndarray | None:
    """(recordings, 2, C): mean and scale; None where every window takes its own."""
    if kind is Normalisation.window:
        return None
    scaling = np.zeros((len(recordings), 2, n_channels), np.float32)
    scaling[:, 1] = 1
    if kind is Normalisation.none:
        return scaling
    pooled = _pooled(store, recordings, train) if kind is Normalisation.train else {}
    for index, recording in enumerate(recordings):
        if pooled and recording.system not in pooled:
            raise DataError(
                f"data.normalisation=train has no training window of system {recording.system}; "
                "use data.normalisation=recording or window"
            )
        mean, variance = pooled[recording.system] if pooled else _moments(store, recording)
        scaling[index, 0, : len(mean)] = mean
        scaling[index, 1, : len(mean)] = safe_scale(mean, np.sqrt(variance))
    return scaling


def _moments(store: Store, recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance per channel of a whole recording."""
    n, mean, squares = _merged(store.blocks(recording))
    return mean, squares / n


def _pooled(
    store: Store, recordings: list[Recording], train: list[Segment]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """System -> mean and variance per channel over all of its training samples, and no others."""
    merged: dict[str, Moments] = {}
    for segment in train:
        recording = recordings[segment.recording]
        blocks = store.blocks(recording, segment.start, segment.stop)
        merged[recording.system] = _merged(blocks, merged.get(recording.system))
    return {system: (mean, squares / n) for system, (n, mean, squares) in merged.items()}


def _merged(blocks: Iterable[np.ndarray], known: Moments | None = None) -> Moments:
    """Of a signal that comes in blocks, together with what is known already.

    Blocks are merged by their centred moments (Chan et al. 1983), so that a large mean cancels nothing.
    """
    for signal in blocks:
        n, mean, squares = len(signal), signal.mean(0, np.float64), len(signal) * signal.var(0, np.float64)
        before, mean_before, squares_before = known or (0, mean, 0 * mean)
        total, step = before + n, mean - mean_before
        known = (total, mean_before + step * n / total, squares_before + squares + step**2 * before * n / total)
    assert known is not None
    return known


def safe_scale(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """A standard deviation to divide by, in float32: 1 for a channel that does not move, up to its rounding."""
    return np.where(spread > 1e-6 * np.abs(mean) + 1e-12, spread, 1).astype(np.float32)
