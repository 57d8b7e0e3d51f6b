"""Who is trained on, validated on and tested on. Whole entities by default."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from numpy.random import default_rng

from vibench.config.data import SplitConfig
from vibench.data.store import Recording
from vibench.errors import DataError

NAMES = ("train", "val", "test")


class Segment(NamedTuple):
    """Samples ``start`` to ``stop`` of a recording."""

    recording: int
    start: int
    stop: int


def make_splits(
    recordings: list[Recording], config: SplitConfig, stratum: Callable[[Recording], str]
) -> dict[str, list[Segment]]:
    """Split name -> what of which recording belongs to it; splits without a share are left out.

    Args:
        stratum: recordings of one stratum are spread evenly over the splits (system and class).

    Raises:
        DataError: a named value that no recording has, or too few entities to fill every split.
    """
    if config.by == "time":
        return _by_time(recordings, config.fractions)
    values = [column(recording, config.by) for recording in recordings]
    named = {"train": config.train, "val": config.val, "test": config.test}
    if config.named:
        for name, wanted in named.items():
            for value in wanted:
                if value not in values:
                    raise DataError(
                        f"data.split.{name} names {value}, which is no {config.by} of the data; "
                        f"there are {', '.join(sorted(set(values)))}"
                    )
        rest = dict.fromkeys(values, "train") if not config.train else {}
        home = rest | {value: name for name, wanted in named.items() for value in wanted}
    else:
        home = _drawn(recordings, values, config, stratum)
    splits: dict[str, list[Segment]] = {name: [] for name in NAMES}
    for index, (recording, value) in enumerate(zip(recordings, values, strict=True)):
        if value in home:
            splits[home[value]].append(Segment(index, 0, recording.length))
    return {name: segments for name, segments in splits.items() if segments}


def column(recording: Recording, name: str) -> str:
    """A text column of a recording, by name; ``bearing`` and ``run`` are the entity where there is no such column."""
    if name in ("bearing", "run") and name not in recording.columns:
        return recording.entity
    if name in ("entity", "system", "id", "source"):
        return getattr(recording, name)
    if name not in recording.columns:
        raise DataError(f"the store has no column {name}; it has entity, system, {', '.join(recording.columns)}")
    return recording.columns[name]


def _by_time(recordings: list[Recording], fractions: list[float]) -> dict[str, list[Segment]]:
    splits: dict[str, list[Segment]] = {}
    for position, (name, share) in enumerate(zip(NAMES, fractions, strict=True)):
        before = sum(fractions[:position])
        if share:
            splits[name] = [
                Segment(index, round(r.length * before), round(r.length * (before + share)))
                for index, r in enumerate(recordings)
            ]
    return splits


def _drawn(
    recordings: list[Recording], values: list[str], config: SplitConfig, stratum: Callable[[Recording], str]
) -> dict[str, str]:
    """Value -> split, drawn within each stratum so that every split has of everything."""
    strata: dict[str, list[str]] = defaultdict(list)
    for value, recording in dict(zip(reversed(values), reversed(recordings), strict=True)).items():
        strata[stratum(recording)].append(value)
    home = {}
    for key in sorted(strata):
        members = sorted(strata[key])
        default_rng([config.seed, *key.encode()]).shuffle(members)
        counts = _counts(len(members), config.fractions)
        bounds = (0, counts[0], counts[0] + counts[1], len(members))
        for name, start, stop in zip(NAMES, bounds, bounds[1:], strict=False):
            home |= dict.fromkeys(members[start:stop], name)
    absent = [name for name, share in zip(NAMES, config.fractions, strict=True) if share and name not in home.values()]
    if absent:
        raise DataError(
            f"data.split.by={config.by} has {len(home)} values in {len(strata)} strata, too few to fill "
            f"{' and '.join(absent)}; name them (data.split.train, data.split.test) or set the share to 0"
        )
    return home


def _counts(n: int, fractions: list[float]) -> list[int]:
    """How many of ``n`` go to train, validation and test: the shares rounded, one at least where there are enough."""
    if n < sum(share > 0 for share in fractions):  # training first, then the test
        return [1, 0, n - 1]
    counts = [max(1, round(n * share)) if share else 0 for share in fractions]
    while sum(counts) > n:
        counts[counts.index(max(counts))] -= 1
    counts[0] += n - sum(counts)
    return counts
