"""A leak is found whatever it hides behind, refused by name, and never passes unmentioned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from tests.data.conftest import raw, walk
from vibench.data.audit import _overlaps, _runs
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
        raw("a2", "a2", samples=131, system="two"),
        raw("b", samples=64, system="two"),
        raw("c", samples=96, system="one"),
    ]
    certificate = built(recordings, split={"train": ["b", "a", "a2"], "test": ["c"]}).certificate
    assert certificate["splits"] == {
        "train": {
            "windows": 3 + 4 + 2,
            "recordings": 3,
            "entities": ["a", "a2", "b"],
            "windows_per_system": {"one": 3, "two": 6},
            "labelled_windows": {},
            "windows_per_class": {},
        },
        "test": {
            "windows": 3,
            "recordings": 1,
            "entities": ["c"],
            "windows_per_system": {"one": 3},
            "labelled_windows": {},
            "windows_per_class": {},
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
        "copied_windows": 0,
    }


def test_an_entity_in_two_splits_is_found_although_its_recordings_differ(built):
    recordings = [raw("a1", "a"), raw("b1", "b"), raw("b2", "b")]
    with pytest.raises(DataError, match=r"train and test share 1 entities \(b\)"):
        built(recordings, split={"by": "id", "train": ["a1", "b1"], "test": ["b2"]})


def test_a_copy_under_another_entitys_name_is_found(built):
    copied = walk("a", 256)
    with pytest.raises(DataError, match=r"the splits leak: 8 windows of test hold samples that train holds too;"):
        built(five(a=copied, d=copied), split=NAMED)


def test_a_copy_of_a_part_is_found(built):
    signal = walk("d", 256)
    signal[64:96] = walk("c", 256)[128:160]
    with pytest.raises(DataError, match=r"1 windows of test hold samples that val holds too"):
        built(five(d=signal), split=NAMED)


@pytest.mark.parametrize("place", [0, 31])
def test_a_copy_with_a_changed_sample_in_every_window_is_found(built, place):
    almost = walk("a", 256)
    almost[place::32] += 1
    with pytest.raises(DataError, match="8 windows of test hold samples that train holds too"):
        built(five(a=walk("a", 256), d=almost), split=NAMED)


@pytest.mark.parametrize("shift", [1, 7, 100])
@pytest.mark.parametrize("window", [32, 256])
def test_a_copy_that_begins_some_samples_later_is_found(built, shift, window):
    signal = walk("long", 2048, 2)
    recordings = [raw(name, signal=walk(name, 2048, 2)) for name in "bcd"]
    recordings += [raw("a", signal=signal), raw("copy", signal=signal[shift:])]
    split = {"train": ["a", "b"], "val": ["c"], "test": ["copy", "d"]}
    expected = (2048 - shift) // window
    with pytest.raises(DataError, match=f"{expected} windows of test hold samples that train holds too"):
        built(recordings, split=split, window=window, stride=window)


def test_signals_that_share_their_silence_only_are_clean(built):
    a, d = walk("a", 256), walk("d", 256)
    a[40:60] = d[100:120] = 0
    assert built(five(a=a, d=d), split=NAMED).certificate["clean"]


def test_runs_of_samples_are_found_wherever_they_stand():
    """Against the obvious: compare every run with every run."""
    rng = default_rng(0)
    first, second = (rng.integers(0, 3, (80, 2)).astype(np.float32) for _ in "ab")
    second[30:60] = first[11:41]
    places, hashes = _runs(first, 0, 1)
    others, known = _runs(second, 0, 1)
    found = {(int(i), int(j)) for i, h in zip(places, hashes, strict=True) for j in others[known == h]}
    expected = {(i, j) for i in range(65) for j in range(65) if np.array_equal(first[i : i + 16], second[j : j + 16])}
    assert found == expected
    assert (11, 30) in found


def test_a_copy_passes_when_allowed_and_is_counted(built):
    copied = walk("a", 256)
    certificate = built(five(a=copied, d=copied), split=NAMED, allow_leaky=True).certificate
    assert certificate["waived"]
    assert certificate["shared"] == [
        {"splits": ["train", "test"], "entities": [], "overlapping_windows": 0, "copied_windows": 8}
    ]


def test_every_identical_window_is_counted_also_when_they_are_alike_among_themselves(built):
    # a sensor that was off in one window of training, and all along the test
    silent = walk("a", 256)
    silent[:32] = 0
    with pytest.raises(DataError, match="8 windows of test hold samples that train holds too"):
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
