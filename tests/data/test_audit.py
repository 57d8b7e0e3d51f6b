"""A leak is found whatever it hides behind, refused by name, and never passes unmentioned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.conftest import raw, walk
from vibench.data.audit import _overlaps
from vibench.errors import DataError

NAMED = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


def five(**signals):
    """One recording of eight windows for each of the entities a to e, with other samples where given."""
    return [raw(name, signal=signals.get(name, walk(name, 256)), columns={"load": "x"}) for name in "abcde"]


def test_splits_that_share_nothing_are_clean(built):
    certificate = built(five(), split=NAMED).certificate
    assert (certificate["clean"], certificate["waived"], certificate["shared"]) == (True, False, [])


@pytest.mark.parametrize("allow_leaky", [False, True])
def test_a_clean_split_is_not_called_waived(built, allow_leaky):
    assert built(five(), split=NAMED, allow_leaky=allow_leaky).certificate["waived"] is False


def test_the_certificate_counts_what_every_split_holds(built):
    recordings = [
        raw("a1", "a", samples=100, system="one"),
        raw("a2", "a", samples=131, system="two"),
        raw("b", samples=64, system="two"),
        raw("c", samples=96, system="one"),
    ]
    certificate = built(recordings, split={"train": ["b", "a"], "test": ["c"]}).certificate
    assert certificate["splits"] == {
        "train": {
            "windows": 3 + 4 + 2,
            "recordings": 3,
            "entities": ["a", "b"],
            "windows_per_system": {"one": 3, "two": 6},
            "labelled_windows": {},
        },
        "test": {
            "windows": 3,
            "recordings": 1,
            "entities": ["c"],
            "windows_per_system": {"one": 3},
            "labelled_windows": {},
        },
    }
    assert (certificate["by"], certificate["short_recordings"]) == ("entity", [])
    assert certificate["store"].endswith("made.h5")


def test_the_certificate_counts_labelled_windows_per_task(built, all_targets):
    recordings = [
        raw(f"{kind}{i}", samples=160, anomaly=kind == "f", rul_s=5.0 if i else None, columns={"fault": kind})
        for kind in "hf"
        for i in range(2)
    ] + [raw("u", samples=160, rul_s=9.0)]
    names = {"train": ["h0", "f1", "u"], "test": ["h1", "f0"]}
    certificate = built(recordings, all_targets, split=names).certificate
    windows = (160 - 32 - 32) // 32 + 1
    assert certificate["splits"]["train"]["labelled_windows"] == {
        "classification": 2 * windows,
        "anomaly_detection": 2 * windows,
        "signal_prediction": 3 * windows,
        "rul_prediction": 2 * windows,
    }
    assert certificate["splits"]["test"]["labelled_windows"]["rul_prediction"] == windows


def by_condition():
    """Every entity at every load: a split by load leaks every one of them."""
    return [raw(f"{e}-{load}", e, samples=96, columns={"load": load}) for e in "pqrstuv" for load in ("0", "1", "2")]


BY_LOAD = {"by": "load", "train": ["0"], "val": ["1"], "test": ["2"]}


def test_shared_entities_are_refused_by_name(built):
    with pytest.raises(DataError, match=r"train and val share 7 entities \(p, q, r, s, t and 2 more\)") as refused:
        built(by_condition(), split=BY_LOAD)
    for part in ("train and test share 7", "val and test share 7", "data.split.by=entity", "data.allow_leaky=true"):
        assert part in str(refused.value)


def test_shared_entities_pass_when_allowed_and_the_certificate_says_so(built):
    certificate = built(by_condition(), split=BY_LOAD, allow_leaky=True).certificate
    assert (certificate["clean"], certificate["waived"]) == (False, True)
    assert [s["splits"] for s in certificate["shared"]] == [["train", "val"], ["train", "test"], ["val", "test"]]
    assert certificate["shared"][1] == {
        "splits": ["train", "test"],
        "entities": list("pqrstuv"),
        "overlapping_windows": 0,
        "identical_windows": 0,
    }


def test_an_entity_in_two_splits_is_found_although_its_recordings_differ(built):
    recordings = [raw("a1", "a"), raw("b1", "b"), raw("b2", "b")]
    with pytest.raises(DataError, match=r"train and test share 1 entities \(b\)"):
        built(recordings, split={"by": "id", "train": ["a1", "b1"], "test": ["b2"]})


def test_a_copy_under_another_entitys_name_is_found(built):
    copied = walk("a", 256)
    with pytest.raises(DataError, match=r"the splits leak: 8 windows of test are identical to windows of train;"):
        built(five(a=copied, d=copied), split=NAMED)


def test_a_copy_of_a_part_is_found(built):
    signal = walk("d", 256)
    signal[64:96] = walk("c", 256)[128:160]
    with pytest.raises(DataError, match=r"1 windows of test are identical to windows of val"):
        built(five(d=signal), split=NAMED)


@pytest.mark.parametrize("place", [0, 31])
def test_windows_that_differ_in_their_first_or_last_sample_are_not_identical(built, place):
    almost = walk("a", 256)
    almost[place::32] += 1
    assert built(five(a=walk("a", 256), d=almost), split=NAMED).certificate["clean"]


def test_a_copy_passes_when_allowed_and_is_counted(built):
    copied = walk("a", 256)
    certificate = built(five(a=copied, d=copied), split=NAMED, allow_leaky=True).certificate
    assert certificate["waived"]
    assert certificate["shared"] == [
        {"splits": ["train", "test"], "entities": [], "overlapping_windows": 0, "identical_windows": 8}
    ]


def test_every_identical_window_is_counted_also_when_they_are_alike_among_themselves(built):
    # a sensor that was off in one window of training, and all along the test
    silent = walk("a", 256)
    silent[:32] = 0
    with pytest.raises(DataError, match="8 windows of test are identical to windows of train"):
        built(five(a=silent, d=np.zeros((256, 1))), split=NAMED)


def test_alike_windows_within_one_split_are_no_leak(built):
    copied = walk("a", 256)
    assert built(five(a=copied, b=copied), split=NAMED).certificate["clean"]


def test_parts_in_time_share_entities_and_not_samples(built):
    certificate = built(five(), split={"by": "time"}, window=8, stride=3, allow_leaky=True).certificate
    assert [s["overlapping_windows"] for s in certificate["shared"]] == [0, 0, 0]
    assert all(s["entities"] == list("abcde") for s in certificate["shared"])


def test_recordings_that_are_not_used_cannot_leak(built):
    copied = walk("a", 256)
    assert built(five(a=copied, e=copied), split=NAMED).certificate["clean"]


def rows(pairs):
    return np.array(pairs, np.int64).reshape(-1, 2)


def test_a_forecast_that_reaches_into_a_test_window_is_an_overlap():
    assert _overlaps(rows([(0, 0)]), rows([(0, 32)]), 32) == 0  # side by side
    assert _overlaps(rows([(0, 0)]), rows([(0, 32)]), 33) == 1  # one sample of forecast
    assert _overlaps(rows([(0, 32)]), rows([(0, 0)]), 33) == 1
    assert _overlaps(rows([(0, 0)]), rows([(1, 0)]), 33) == 0  # another recording


PLACES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=25)


@settings(max_examples=300, deadline=None)
@given(PLACES, PLACES, st.integers(1, 20))
def test_overlaps_are_those_that_a_comparison_of_all_pairs_finds(first, second, span):
    slow = sum(any(i == j and abs(s - t) < span for i, s in first) for j, t in second)
    assert _overlaps(rows(first), rows(second), span) == slow
