"""What cannot be trained on is refused before anything is trained, with the file, the number and the remedy."""

import h5py
import numpy as np
import pytest

from tests.data.conftest import raw
from vibench.data.build import build
from vibench.data.writing import write_store
from vibench.errors import DataError

NAMED = {"train": ["a", "b"], "test": ["c"]}


def three(*, c=256, **fields):
    """Entities a, b and c; the last of them with as many samples as given."""
    fault = {"columns": {"fault": "inner"}}
    return [raw(name, samples=samples, **(fault | fields)) for name, samples in (("a", 256), ("b", 256), ("c", c))]


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("classification", {"columns": {}, "anomaly": True, "rul_s": 1.0}),
        ("anomaly_detection", {"rul_s": 1.0}),
        ("rul_prediction", {"anomaly": True}),
    ],
)
def test_a_store_without_labels_for_a_task_is_refused_with_a_remedy(built, all_targets, task, fields):
    with pytest.raises(DataError, match=rf"made\.h5: no window of train has a label for {task}; .*~task\.{task}"):
        built(three(**fields), all_targets, split=NAMED)


def test_a_split_without_labels_for_a_task_is_refused_by_its_name(built, all_targets):
    recordings = [raw(name, rul_s=1.0 if name != "c" else None) for name in "abc"]
    with pytest.raises(DataError, match=r"made\.h5: no window of test has a label for rul_prediction"):
        built(recordings, {"rul_prediction": all_targets["rul_prediction"]}, split=NAMED)


def test_labels_of_other_tasks_are_not_asked_for(built, all_targets):
    wanted = {"signal_prediction": all_targets["signal_prediction"]}
    assert built(three(), wanted, split=NAMED, window=16).classes == ["inner"]


def test_classes_are_in_alphabetical_order_with_healthy_first(built):
    faults = ("outer", "healthy", "ball", "")
    recordings = [raw(f"{fault or 'none'}{i}", columns={"fault": fault}) for fault in faults for i in range(3)]
    assert built(recordings).classes == ["healthy", "ball", "outer"]


# too short


def test_a_recording_shorter_than_a_window_is_refused_with_both_lengths(built):
    with pytest.raises(
        DataError,
        match=r"made\.h5: 1 recordings are shorter than the 32 samples .*first s \(from s\.raw\) with 31; "
        r"use a shorter data\.window, or data\.allow_short=true",
    ):
        built([*three(), raw("s", samples=31)], split={"train": ["a", "b", "s"], "test": ["c"]})


def test_a_short_recording_is_left_out_when_allowed_and_counted(built):
    recordings = [*three(), raw("s", samples=31), raw("t", samples=32)]
    split = {"train": ["a", "b", "s", "t"], "test": ["c"]}
    certificate = built(recordings, split=split, allow_short=True).certificate
    assert certificate["short_recordings"] == ["s"]
    assert certificate["splits"]["train"]["entities"] == ["a", "b", "t"]


def test_the_forecast_counts_into_the_length(built, all_targets):
    recordings = [*three(), raw("s", samples=63)]
    wanted = {"signal_prediction": all_targets["signal_prediction"]}
    split = {"train": ["a", "b", "s"], "test": ["c"]}
    with pytest.raises(
        DataError, match=r"shorter than the 64 samples of a window and its forecast, first s .* with 63"
    ):
        built(recordings, wanted, split=split)
    assert built([*three(), raw("s", samples=64)], wanted, split=split).certificate["short_recordings"] == []


def test_a_test_split_without_a_window_is_refused_with_the_longest_that_fits(built):
    with pytest.raises(
        DataError,
        match=r"made\.h5: test has no window: the longest of its 1 recordings offers 20 samples.*data\.window<=20",
    ):
        built(three(c=20), split=NAMED, allow_short=True)


def test_a_window_that_just_fits_is_no_error(built):
    assert len(built(three(c=32), split=NAMED).splits["test"]) == 1


def test_a_test_split_of_one_sample_is_refused_without_an_impossible_remedy(built, all_targets):
    wanted = {"signal_prediction": all_targets["signal_prediction"]}
    with pytest.raises(DataError, match=r"made\.h5: test has no window: .* offers 1 samples") as refused:
        built(three(c=1), wanted, split=NAMED)
    assert "data.window<=0" not in str(refused.value)  # a window has two samples at least


def test_a_recording_of_one_sample_is_refused_by_name(built):
    with pytest.raises(DataError, match=r"made\.h5: 1 recordings are shorter .*first s \(from s\.raw\) with 1;"):
        built([*three(), raw("s", samples=1)], split={"train": ["a", "b", "s"], "test": ["c"]})


def test_a_recording_whose_part_in_time_is_too_short_is_refused_with_the_length_of_that_part(built):
    # s has 100 samples, more than a window: what is too short are its last fifths of 20
    recordings = [*three(), raw("s", samples=100)]
    with pytest.raises(DataError, match=r"made\.h5: 1 recordings are shorter.* with 20;"):
        built(recordings, split={"by": "time"}, allow_leaky=True)


def test_a_recording_that_is_short_in_two_splits_is_one_short_recording(built):
    recordings = [*three(), raw("s", samples=100)]
    data = built(recordings, split={"by": "time"}, allow_leaky=True, allow_short=True)
    assert data.certificate["short_recordings"] == ["s"]


# damage


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_refused_with_file_recording_and_place(config_of, tmp_path, value):
    path = tmp_path / "made.h5"
    write_store(path, three())
    with h5py.File(path, "r+") as file:  # no writer of ours lets it in
        file["systems/rig/signal"][256 + 77, 0] = value
    with pytest.raises(
        DataError, match=r"made\.h5: recording b \(from b\.raw\) has 1 samples .* first at sample 77 of channel 0"
    ):
        build(config_of(path, split=NAMED), {})


def test_a_damaged_recording_that_is_left_out_does_no_harm(config_of, tmp_path):
    path = tmp_path / "made.h5"
    write_store(path, [*three(), raw("bad", columns={"fault": "noise"})])
    with h5py.File(path, "r+") as file:
        file["systems/rig/signal"][3 * 256 + 5, 0] = np.nan
    assert build(config_of(path, split=NAMED, only={"fault": ["inner"]}), {}).classes == ["inner"]


@pytest.mark.parametrize("content", [b"", b"text"])
def test_a_file_that_is_no_store_is_refused(config_of, tmp_path, content):
    (tmp_path / "made.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"made\.h5 cannot be read as a store"):
        build(config_of(tmp_path / "made.h5"), {})


# only


def loads():
    return [
        raw(f"{e}{load}", f"{e}{load}", columns={"fault": "inner", "load": load}) for e in "abcde" for load in "012"
    ]


def test_only_keeps_the_recordings_with_the_values(built):
    data = built(loads(), only={"load": ["0", "2"]})
    kept = {e for split in data.certificate["splits"].values() for e in split["entities"]}
    assert kept == {f"{e}{load}" for e in "abcde" for load in "02"}


def test_several_columns_must_all_agree(built):
    data = built(loads(), only={"load": ["0"], "entity": ["a0", "b0", "c0", "a1"]})
    assert {e for split in data.certificate["splits"].values() for e in split["entities"]} == {"a0", "b0", "c0"}


def test_only_that_leaves_nothing_is_refused_with_what_there_is(built):
    with pytest.raises(DataError, match=r"data\.only\.load names 7, which is no load of .*made\.h5; there are 0, 1, 2"):
        built(loads(), only={"load": ["7"]})


def test_a_value_in_only_that_no_recording_has_is_refused_like_a_misspelt_split(built):
    with pytest.raises(DataError, match=r"data\.only\.load.*7"):
        built(loads(), only={"load": ["0", "7"]})


def test_a_column_in_only_that_is_not_there_is_refused_with_those_that_are(built):
    with pytest.raises(DataError, match=r"no column lode; it has entity, system, fault, load"):
        built(loads(), only={"lode": ["0"]})


def test_the_widest_system_in_use_says_how_many_channels_there_are(built):
    recordings = [raw(f"{s}{i}", channels=c, system=s) for s, c in (("one", 1), ("four", 4)) for i in range(3)]
    assert built(recordings).n_channels == 4
    assert built(recordings, only={"system": ["one"]}).n_channels == 1
