"""Training on few labels: which windows keep their class."""

from collections import defaultdict

import numpy as np
from numpy.random import default_rng

from vibench.config.data import DataConfig
from vibench.data.batch import Target
from vibench.data.store import Recording
from vibench.errors import DataError


def few_labels(
    recordings: list[Recording], places: np.ndarray, targets: dict[str, Target], classes: list[str], config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The training windows that are left, and which of them have lost their class.

    The labelled ones of a class are spread over its entities as evenly as they go, drawn by ``data.split.seed``. A
    window without a class has none to lose; one without any label is left out.

    Args:
        places: (windows, 2) of the training split: index into ``recordings``, first sample.

    Raises:
        DataError: a class has fewer windows than labels were asked for, or there is none.
    """
    asked = config.labels_per_class
    by_class: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, number in enumerate(places[:, 0].tolist()):
        if recordings[number].label is not None:
            by_class[recordings[number].label][recordings[number].entity].append(row)
    if not by_class:
        raise DataError(
            f"data.labels_per_class={asked}: no window of train has a label in the column data.label={config.label}; "
            "choose another data.label, or split otherwise"
        )
    available = {label: sum(map(len, by_entity.values())) for label, by_entity in by_class.items()}
    rarest = min(available, key=available.__getitem__)
    if available[rarest] < asked:
        raise DataError(
            f"data.labels_per_class={asked} exceeds the {available[rarest]} training windows of class "
            f"{classes[rarest]}; use data.labels_per_class<={available[rarest]} or a smaller data.stride"
        )
    unlabelled = np.array([recordings[number].label is not None for number in places[:, 0].tolist()])
    for label, by_entity in by_class.items():
        unlabelled[_spread(by_entity, asked, default_rng([config.split.seed, label]))] = False
    every, other = list(targets.values()), [target for target in targets.values() if not target.of_class]
    useful = np.array(
        [
            _has_any(recordings[number], other if hidden else every)
            for number, hidden in zip(places[:, 0].tolist(), unlabelled, strict=True)
        ]
    )
    return places[useful], unlabelled[useful]


def _spread(by_entity: dict[str, list[int]], count: int, rng: np.random.Generator) -> list[int]:
    """``count`` of the rows, one entity after another giving one."""
    order = sorted(by_entity)
    rng.shuffle(order)
    queues = [rng.permutation(by_entity[entity]).tolist() for entity in order]
    rounds = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return rounds[:count]


def _has_any(recording: Recording, targets: list[Target]) -> bool:
    """Whether the windows of a recording have a label for one of the targets; no signal is read."""
    nothing = np.zeros((1, 0), np.float32)
    return any(target.per_channel or target.of(recording, nothing, 0) is not None for target in targets)
