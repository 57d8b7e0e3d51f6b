"""Few labels: so many windows of each class tell it, the others serve only tasks that do not need it."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from tests.data.conftest import raw
from vibench.errors import DataError

FAULTS = ("healthy", "inner")
SPLIT = {
    "train": [f"{fault}{i}" for fault in FAULTS for i in (0, 1, 2)] + ["life"],
    "val": ["healthy3", "inner3"],
    "test": ["healthy4", "inner4"],
}
OF_CLASS = ("classification", "anomaly_detection")


def machines():
    """Five bearings of each class, all but the first with a life; and a life without a class."""
    for fault in FAULTS:
        for i in range(5):
            yield raw(
                f"{fault}{i}",
                samples=160,
                anomaly=fault != "healthy",
                rul_s=100.0 + i if i else None,
                columns={"fault": fault},
            )
    yield raw("life", samples=160, rul_s=50.0)


def of_sizes(**counts):
    """Bearings a, b, c, ... with as many windows of 32 samples as given for their class, and two to test on."""
    columns = {fault: {"fault": fault} for fault in FAULTS}
    there = [
        raw(f"{fault}-{i}", samples=32 * n, columns=columns[fault])
        for fault, sizes in counts.items()
        for i, n in enumerate(sizes)
    ]
    return [*there, *(raw(f"test-{fault}", columns=columns[fault]) for fault in FAULTS)], {
        "train": [r.id for r in there],
        "test": [f"test-{fault}" for fault in FAULTS],
    }


def every(split):
    return split.__getitems__(list(range(len(split))))


def kept_of(split):
    """(windows,) bool: those whose class is told."""
    return every(split).present["classification"]


@pytest.fixture
def few(built, all_targets):
    """Splits of the machines with so many labels per class, for all four tasks or some of them."""

    def call(asked, tasks=None, split=None, **values):
        wanted = {name: all_targets[name] for name in tasks or all_targets}
        return built(machines(), wanted, split=SPLIT | (split or {}), labels_per_class=asked, **values)

    return call


@pytest.fixture
def sized(built, all_targets):
    """Splits of bearings with given numbers of windows, for classification."""

    def call(asked, **counts):
        recordings, split = of_sizes(**counts)
        wanted = {"classification": all_targets["classification"]}
        return built(recordings, wanted, split=split, labels_per_class=asked)

    return call


# how many


@pytest.mark.parametrize("asked", [1, 4, 9])
def test_of_each_class_exactly_as_many_training_windows_tell_it(few, asked):
    batch = every(few(asked).splits["train"])
    told = batch.present["classification"]
    assert torch.bincount(batch.targets["classification"][told]).tolist() == [asked, asked]
    assert torch.equal(batch.present["anomaly_detection"], told)  # or the class would half be told by it
    assert batch.targets["anomaly_detection"][told].sum() == asked


def test_what_is_not_told_does_not_stand_in_the_target_either(few):
    batch = every(few(1).splits["train"])
    for name in OF_CLASS:
        assert not batch.targets[name][~batch.present[name]].any()


def test_all_that_there_are_can_be_asked_for(few):
    assert int(kept_of(few(12).splits["train"]).sum()) == 24


def test_null_keeps_every_label(few):
    data = few(None)
    assert int(kept_of(data.splits["train"]).sum()) == 24
    assert len(data.splits["train"]) == 28
    assert "labels_per_class" not in data.certificate["splits"]["train"]


def test_validation_and_test_keep_every_label(few):
    whole, data = few(None), few(1)
    for name in ("val", "test"):
        before, after = every(whole.splits[name]), every(data.splits[name])
        for task in OF_CLASS:
            assert after.present[task].all()
            assert torch.equal(after.targets[task], before.targets[task])


# what is left of the others


def test_a_window_that_lost_its_class_keeps_its_signal_its_forecast_and_its_life(few):
    before, after = every(few(None).splits["train"]), every(few(1).splits["train"])
    assert torch.equal(after.signal, before.signal)
    for task in ("signal_prediction", "rul_prediction"):
        assert torch.equal(after.present[task], before.present[task])
        assert torch.equal(after.targets[task], before.targets[task])


@pytest.mark.parametrize("tasks", [("classification",), ("anomaly_detection",), OF_CLASS])
def test_a_window_without_any_label_is_left_out_of_the_training(few, tasks):
    split = few(2, tasks).splits["train"]
    assert len(split) == 4
    assert all(every(split).present[task].all() for task in tasks)


def test_a_window_that_another_task_can_use_stays(few):
    """Of each class two bearings of three have a life, which is told; and there is one life without a class."""
    tasks = ("classification", "rul_prediction")
    before, after = every(few(None, tasks).splits["train"]), every(few(2, tasks).splits["train"])
    assert before.present["rul_prediction"].sum() == after.present["rul_prediction"].sum() == 5 * 5
    useless = ~after.present["classification"] & ~after.present["rul_prediction"]
    assert not useless.any()
    assert len(after) < len(before)


def test_every_window_stays_where_the_signal_itself_is_the_target(few):
    tasks = ("classification", "signal_prediction")
    assert np.array_equal(few(1, tasks).splits["train"].places, few(None, tasks).splits["train"].places)


# which


@pytest.mark.parametrize(
    ("asked", "counts"), [(1, [1]), (3, [1, 1, 1]), (4, [1, 1, 2]), (5, [1, 2, 2]), (7, [1, 2, 4]), (8, [1, 2, 5])]
)
def test_the_labels_are_spread_over_the_entities_as_evenly_as_they_go(sized, asked, counts):
    split = sized(asked, healthy=[5, 2, 1], inner=[8]).splits["train"]
    entities = Counter(split.recordings[number].entity for number in split.places[:, 0].tolist())
    assert sorted(n for entity, n in entities.items() if entity.startswith("healthy")) == counts


def test_which_bearing_gives_one_more_is_drawn_for_each_class_apart(few):
    drawn = set()
    for seed in range(6):
        split = few(1, ("classification",), split={"seed": seed}).splits["train"]
        drawn.add(tuple(split.recordings[number].entity[-1] for number in split.places[:, 0].tolist()))
    assert len({healthy for healthy, _ in drawn}) > 1
    assert any(healthy != inner for healthy, inner in drawn)


def test_the_draw_follows_from_the_seed_of_the_split_alone(few):
    draws = [kept_of(few(2, split={"seed": seed}).splits["train"]) for seed in range(4)]
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(kept_of(few(2, split={"seed": 0}).splits["train"]), draws[0])
    assert len({tuple(draw.tolist()) for draw in draws}) == 4


def test_the_windows_of_a_bearing_are_drawn_and_not_its_first(few):
    starts = set()
    for seed in range(4):
        split = few(3, split={"seed": seed}).splits["train"]
        starts |= set(split.places[kept_of(split).numpy(), 1].tolist())
    assert starts == {0, 32, 64, 96}


# more than there are


@pytest.mark.parametrize("scarce", FAULTS)
def test_more_labels_than_windows_are_refused_with_class_and_number(sized, scarce):
    with pytest.raises(
        DataError, match=rf"data\.labels_per_class=4 exceeds the 3 training windows of class {scarce}; use"
    ):
        sized(4, **({fault: [9] for fault in FAULTS} | {scarce: [2, 1]}))


@pytest.mark.parametrize("scarce", FAULTS)
def test_the_remedy_is_accepted_also_where_both_classes_have_too_few(sized, scarce):
    counts = {fault: [5] for fault in FAULTS} | {scarce: [3]}
    with pytest.raises(DataError, match=r"data\.labels_per_class<=\d+") as refused:
        sized(6, **counts)
    remedy = int(re.search(r"data\.labels_per_class<=(\d+)", str(refused.value))[1])
    assert len(sized(remedy, **counts).splits["train"]) == 2 * remedy


@pytest.mark.parametrize("task", OF_CLASS)
def test_a_training_split_without_any_class_is_refused(built, all_targets, task):
    recordings = [raw(name, anomaly=name in "ac") for name in "abcd"]  # as where data.label names a column in vain
    values = {"split": {"train": ["a", "b"], "test": ["c", "d"]}, "labels_per_class": 2}
    with pytest.raises(DataError, match=r"labels_per_class|no window of train has a label"):
        built(recordings, {task: all_targets[task]}, **values)


# what is said of it


def test_the_certificate_counts_the_labels_that_are_left(few):
    splits = few(2).certificate["splits"]
    assert splits["train"]["labels_per_class"] == 2
    assert splits["train"]["labelled_windows"] == {
        "classification": 4,
        "anomaly_detection": 4,
        "signal_prediction": 7 * 4,
        "rul_prediction": 5 * 4,
    }
    assert splits["test"]["labelled_windows"]["classification"] == 2 * 4
    assert "labels_per_class" not in splits["test"]


def test_the_certificate_counts_the_windows_that_are_left(few):
    train = few(2, ("classification",)).certificate["splits"]["train"]
    assert train["windows"] == 4
    assert train["windows_per_class"] == {"healthy": 2, "inner": 2}


@pytest.mark.parametrize("asked", [None, 2])
@pytest.mark.parametrize("name", ["train", "test"])
def test_the_labels_of_a_split_are_those_of_its_batches(few, asked, name):
    split = few(asked).splits[name]
    batch = every(split)
    for task in (*OF_CLASS, "rul_prediction"):
        expected = batch.targets[task][batch.present[task]]
        assert torch.equal(split.labels(task), expected)
        assert split.labels(task).dtype == expected.dtype
        assert len(expected)


def test_a_task_with_a_target_per_channel_has_no_label_of_a_whole_window(few):
    assert len(few(2).splits["train"].labels("signal_prediction")) == 0
