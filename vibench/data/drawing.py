"""Which training windows an epoch holds: all of them, or of the many without a seizure some that are drawn anew."""

from dataclasses import dataclass

import numpy as np

from vibench.config.data import DataConfig, EEGDataConfig
from vibench.data.store import Recording
from vibench.errors import DataError

KINDS = ("background", "partial", "ictal")  # without an event, with a part of one, within one


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """What an epoch is drawn from.

    Attributes:
        pools: numbers of windows, and how many of them an epoch holds.
    """

    pools: list[tuple[np.ndarray, int]]

    def __len__(self) -> int:
        return sum(count for _, count in self.pools)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Numbers of the windows in the order of that epoch, from 0; it follows from seed and epoch alone."""
        rng = np.random.default_rng([seed, epoch])
        chosen = [
            pool if count == len(pool) else rng.choice(pool, count, replace=False, shuffle=False)
            for pool, count in self.pools
        ]
        return rng.permutation(np.concatenate(chosen))


def all_of(windows: int) -> Draw:
    return Draw(pools=[(np.arange(windows), windows)])


def draw_of(recordings: list[Recording], places: np.ndarray, config: DataConfig) -> Draw:
    """What the training is drawn from.

    Args:
        places: (windows, 2) of the training split: index into ``recordings``, first sample.

    Raises:
        DataError: windows are to be drawn for each at the beginning or end of a seizure, and there is none.
    """
    if not isinstance(config, EEGDataConfig):
        return all_of(len(places))
    ratios = {"background": config.background_per_partial, "ictal": config.ictal_per_partial, "partial": None}
    kinds = kinds_of(recordings, places, config.window)
    if all(ratio is None for ratio in ratios.values()) or (kinds < 0).all():
        return all_of(len(places))
    pools = {name: np.flatnonzero(kinds == number) for number, name in enumerate(KINDS)}
    if not len(pools["partial"]):
        raise DataError(
            "no training window holds the beginning or end of a seizure, for which others are to be drawn; use "
            "data.background_per_partial=null data.ictal_per_partial=null, or split otherwise"
        )
    most = {name: None if ratio is None else round(ratio * len(pools["partial"])) for name, ratio in ratios.items()}
    return Draw(
        pools=[(pool, len(pool) if most[name] is None else min(len(pool), most[name])) for name, pool in pools.items()]
    )


def kinds_of(recordings: list[Recording], places: np.ndarray, window: int) -> np.ndarray:
    """(windows,) number of their kind in ``KINDS``; -1 where nobody has looked for events."""
    kinds = np.full(len(places), -1)
    for number in np.unique(places[:, 0]).tolist():
        recording = recordings[number]
        if recording.events is None:
            continue
        rows = np.flatnonzero(places[:, 0] == number)
        starts = places[rows, 1]
        stops = np.minimum(starts + window, recording.length)
        share = np.zeros(len(rows), np.int64)
        for begin, end in recording.events.tolist():
            share += np.maximum(0, np.minimum(stops, end) - np.maximum(starts, begin))
        kinds[rows] = np.where(share == 0, 0, np.where(share == stops - starts, 2, 1))
    return kinds
