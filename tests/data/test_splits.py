"""No entity stands in two splits, every split has of everything, and what was named is what is taken."""

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vibench.config.data import SplitConfig
from vibench.data.splits import NAMES, column, make_splits
from vibench.data.store import Recording
from vibench.errors import DataError


def recording(number, entity, *, fault="inner", system="rig", length=100, **columns):
    return Recording(
        id=f"r{number}",
        system=system,
        entity=entity,
        source="made",
        rate_hz=1000.0,
        start=0,
        length=length,
        anomaly=None,
        rul_s=None,
        columns={"fault": fault} | columns,
    )


def split(**values):
    defaults = {"by": "entity", "fractions": [0.6, 0.2, 0.2], "train": [], "val": [], "test": [], "seed": 0}
    return SplitConfig(**(defaults | values))


def made(recordings, **values):
    return make_splits(recordings, split(**values), lambda r: f"{r.system} {r.columns['fault']}")


def entities(recordings, splits):
    return {name: {recordings[s.recording].entity for s in segments} for name, segments in splits.items()}


def bearings(per_class=5, parts=2, classes=("ball", "healthy", "inner")):
    """Recordings of several bearings of each class; the parts of one bearing lie apart."""
    names = [(fault, f"{fault}-{i}") for fault in classes for i in range(per_class)]
    return [recording(n, entity, fault=fault) for n, (fault, entity) in enumerate(names * parts)]


# drawn


@st.composite
def stores(draw):
    """Recordings of random entities in random strata, in random order; one stratum can fill three splits."""
    strata = [draw(st.integers(3, 9)), *draw(st.lists(st.integers(1, 7), max_size=4))]
    recordings = [
        recording(0, f"e{stratum}-{entity}", fault=f"f{stratum}", length=draw(st.integers(1, 50)))
        for stratum, count in enumerate(strata)
        for entity in range(count)
        for _ in range(draw(st.integers(1, 3)))
    ]
    return draw(st.permutations(recordings))


@st.composite
def shares(draw):
    """Three shares that sum to 1; train and test are not empty."""
    parts = [draw(st.integers(1, 20)), draw(st.integers(0, 20)), draw(st.integers(1, 20))]
    return [part / sum(parts) for part in parts]


@settings(max_examples=150, deadline=None)
@given(stores(), shares(), st.integers(0, 2**32))
def test_no_entity_is_ever_in_two_splits_and_no_recording_is_lost(recordings, fractions, seed):
    splits = made(recordings, fractions=fractions, seed=seed)
    homes = entities(recordings, splits)
    for first in homes:
        for second in homes:
            assert first == second or not homes[first] & homes[second]
    assert sorted(s for segments in splits.values() for s in segments) == [
        (i, 0, r.length) for i, r in enumerate(recordings)
    ]
    assert list(splits) == [name for name, share in zip(NAMES, fractions, strict=True) if share]


def test_every_stratum_with_enough_entities_is_in_every_split():
    recordings = bearings(per_class=5)
    for seed in range(20):
        counts = defaultdict(int)
        for name, names in entities(recordings, made(recordings, seed=seed)).items():
            for entity in names:
                counts[name, entity.split("-")[0]] += 1
        for fault in ("ball", "healthy", "inner"):
            assert [counts[name, fault] for name in NAMES] == [3, 1, 1]


@pytest.mark.parametrize(
    ("per_class", "fractions", "counts"),
    [
        (10, [0.6, 0.2, 0.2], [6, 2, 2]),
        (3, [0.8, 0.1, 0.1], [1, 1, 1]),
        (3, [0.25, 0.25, 0.5], [1, 1, 1]),
        (5, [0.1, 0.1, 0.8], [1, 1, 3]),
        (4, [0.5, 0.0, 0.5], [2, 0, 2]),
    ],
)
def test_the_shares_are_those_asked_for_and_one_at_least(per_class, fractions, counts):
    recordings = bearings(per_class=per_class, classes=("inner",))
    homes = entities(recordings, made(recordings, fractions=fractions))
    assert [len(homes.get(name, ())) for name in NAMES] == counts


def test_the_draw_follows_from_the_seed_and_not_from_the_order_of_the_recordings():
    recordings = bearings(per_class=8)
    draws = [entities(recordings, made(recordings, seed=seed)) for seed in range(6)]
    assert draws[0] == entities(recordings, made(recordings, seed=0))
    backwards = recordings[::-1]
    assert draws[0] == entities(backwards, made(backwards, seed=0))
    assert len({tuple(sorted(draw["test"])) for draw in draws}) > 3


def test_another_class_does_not_move_the_entities_of_the_others():
    few, more = bearings(classes=("inner",)), bearings(classes=("inner", "outer"))
    before, after = entities(few, made(few)), entities(more, made(more))
    assert all(before[name] <= after[name] for name in NAMES)


def test_the_classes_are_drawn_apart_from_each_other():
    # or the same numbers of every class, made on the same day perhaps, would always be tested on together
    recordings = bearings(per_class=8)
    tested = [entities(recordings, made(recordings, seed=seed))["test"] for seed in range(4)]
    assert any(len({entity.split("-")[1] for entity in test}) > 2 for test in tested)


def test_any_column_can_be_kept_whole():
    recordings = [recording(i, f"e{i % 4}", load=str(i % 5)) for i in range(40)]
    splits = made(recordings, by="load")
    loads = [{recordings[s.recording].columns["load"] for s in splits[name]} for name in NAMES]
    assert sum(map(len, loads)) == len(set.union(*loads)) == 5


def test_too_few_entities_are_refused_with_their_number():
    recordings = bearings(per_class=1)
    with pytest.raises(DataError, match=r"by=entity has 3 values in 3 strata, too few to fill val and test; name them"):
        made(recordings)
    with pytest.raises(DataError, match="too few to fill val;"):
        made(bearings(per_class=2))
    assert set(made(bearings(per_class=2), fractions=[0.5, 0, 0.5])) == {"train", "test"}


def test_a_column_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(DataError, match="the store has no column lode; it has entity, system, fault, load"):
        made([recording(0, "e", load="1")], by="lode")


@pytest.mark.parametrize(
    ("name", "value"), [("entity", "e"), ("system", "rig"), ("id", "r7"), ("source", "made"), ("fault", "inner")]
)
def test_a_column_is_read_by_its_name(name, value):
    assert column(recording(7, "e"), name) == value


# named


def test_named_entities_are_where_they_were_named_and_the_others_nowhere():
    recordings = bearings(per_class=3)
    splits = made(recordings, train=["ball-0", "inner-1"], test=["ball-2"])
    assert entities(recordings, splits) == {"train": {"ball-0", "inner-1"}, "test": {"ball-2"}}
    assert [len(splits[name]) for name in ("train", "test")] == [4, 2]


def test_beside_a_named_test_everything_else_is_trained_on():
    recordings = [recording(i, f"b{i}", mils=mils) for i, mils in enumerate(("007", "014", "021", "007"))]
    splits = made(recordings, by="mils", test=["014"])
    assert {k: [s.recording for s in v] for k, v in splits.items()} == {"train": [0, 2, 3], "test": [1]}
    splits = made(recordings, by="mils", val=["021"], test=["014"])
    assert [s.recording for s in splits["train"]] == [0, 3]


def test_named_values_of_another_column_are_taken():
    recordings = [recording(i, f"e{i}", load=str(i % 3)) for i in range(9)]
    splits = made(recordings, by="load", train=["0"], val=["2"], test=["1"])
    assert [s.recording for s in splits["val"]] == [2, 5, 8]
    assert list(splits) == ["train", "val", "test"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_nothing_has_is_refused_with_those_there_are(name):
    names = {"train": ["ball-0"], "test": ["ball-1"]} | {name: ["bal-1"]}
    with pytest.raises(
        DataError, match=rf"data\.split\.{name} names bal-1, which is no entity of the data; there are ball-0"
    ):
        made(bearings(per_class=2, classes=("ball",)), **names)


# in time


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6), shares())
def test_parts_in_time_do_not_overlap_and_leave_nothing_out(lengths, fractions):
    recordings = [recording(i, f"e{i}", length=length) for i, length in enumerate(lengths)]
    splits = made(recordings, by="time", fractions=fractions)
    for index, length in enumerate(lengths):
        parts = [s for name in NAMES for s in splits.get(name, ()) if s.recording == index]
        assert parts[0].start == 0
        assert parts[-1].stop == length
        for before, after in pairwise(parts):
            assert before.stop == after.start


def test_the_past_is_trained_on_and_the_future_tested():
    splits = made([recording(0, "e", length=1000)], by="time", fractions=[0.6, 0.1, 0.3])
    assert splits == {"train": [(0, 0, 600)], "val": [(0, 600, 700)], "test": [(0, 700, 1000)]}


def test_a_share_of_zero_is_no_split():
    assert set(made([recording(0, "e")], by="time", fractions=[0.7, 0, 0.3])) == {"train", "test"}
