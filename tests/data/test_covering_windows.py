"""Windows that leave out no sample, of records with seizures: against slow loops; and what fills up a short record."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.data.conftest import patient, raw, walk
from vibench.config.data import Normalisation
from vibench.data.batch import Target, blank_batch, labelled
from vibench.data.build import build
from vibench.data.windows import covering_starts
from vibench.errors import DataError

WINDOW, STRIDE = 32, 16
TASK = "seizure_detection"
NAMED = {"train": ["a", "b"], "val": ["d"], "test": ["c"]}
SPANS = {"a": [(5, 40), (41, 42), (90, 100)], "b": [(0, 7)], "c": [(30, 64), (99, 101)], "d": [(3, 30)]}
LENGTHS = {"a": 100, "b": 20, "c": 101, "d": 32}  # b is shorter than a window; the last one of a and c ends with it


def four(**changed):
    """The records a to d; others where given."""
    made = {name: patient(name, LENGTHS[name], *SPANS[name]) for name in "abcd"}
    return list((made | changed).values())


@pytest.fixture
def made(eeg):
    """Splits of those records, named unless told otherwise."""
    return lambda recordings, **values: eeg(recordings, **{"split": NAMED} | values)


def every(split):
    return split.__getitems__(list(range(len(split))))


def rows_of(data, name):
    """Of a record: its windows, and where each begins."""
    for split in data.splits.values():
        batch = every(split)
        for row, (number, start) in enumerate(split.places.tolist()):
            if split.recordings[number].id == name:
                yield batch.part(row, row + 1), start


# where they begin


@given(st.integers(0, 50), st.integers(1, 200), st.integers(1, 60), st.integers(1, 60))
@example(0, 32, 32, 16)
@example(0, 33, 32, 16)
@example(0, 31, 32, 16)
def test_every_sample_is_in_a_window_and_no_window_goes_beyond_the_end(start, length, window, stride):
    stride, stop = min(stride, window), start + length
    starts = covering_starts(start, stop, window, stride)
    covered = {n for first in starts for n in range(first, min(first + window, stop))}
    assert covered == set(range(start, stop))
    assert starts[0] == start
    assert starts == sorted(set(starts))
    assert max(np.diff(starts, append=starts[-1])) <= stride
    if length >= window:
        assert starts[-1] + window == stop or (starts[-1] - start) % stride == 0
        assert all(first + window <= stop for first in starts)
    else:
        assert starts == [start]


def test_one_more_window_is_added_only_where_samples_would_be_left_out():
    assert covering_starts(0, 64, 32, 16) == [0, 16, 32]
    assert covering_starts(0, 65, 32, 16) == [0, 16, 32, 33]
    assert covering_starts(10, 41, 32, 16) == [10]


def test_every_sample_of_every_record_is_scored(made):
    data = made(four())
    for split in data.splits.values():
        batch = every(split)
        for number, recording in enumerate(split.recordings):
            own = split.places[:, 0] == number
            if not own.any():
                continue
            seen = np.zeros(recording.length + WINDOW, int)
            for row in np.flatnonzero(own).tolist():
                start = split.places[row, 1]
                seen[start : start + WINDOW] += batch.present[TASK][row].numpy()
            assert (seen[: recording.length] > 0).all()
            assert not seen[recording.length :].any()


# labels


def test_the_labels_are_those_of_a_loop_over_the_samples(made):
    data = made(four())
    compared = 0
    for name, spans in SPANS.items():
        for batch, start in rows_of(data, name):
            for n in range(WINDOW):
                there = start + n < LENGTHS[name]
                assert bool(batch.present[TASK][0, n]) is there
                if there:
                    assert float(batch.targets[TASK][0, n]) == any(a <= start + n < b for a, b in spans)
                    compared += 1
    assert compared > 300


def test_a_record_that_nobody_has_looked_through_has_no_label_and_all_of_its_signal(made):
    data = made([*four(), patient("e", 80, unknown=True)], split=NAMED | {"train": ["a", "b", "e"]})
    rows = list(rows_of(data, "e"))
    assert len(rows) == 4
    for batch, _ in rows:
        assert not batch.present[TASK].any()
        assert not batch.targets[TASK].any()
        assert batch.signal.all()
    part = data.certificate["splits"]["train"]
    assert part["windows"] - part["labelled_windows"][TASK] == 4


def test_a_record_without_a_seizure_is_labelled_all_of_it(made):
    data = made([*four(), patient("e", 80)], split=NAMED | {"train": ["a", "b", "e"]})
    for batch, _ in rows_of(data, "e"):
        assert batch.present[TASK].all()
        assert not batch.targets[TASK].any()


def test_shapes_and_types_are_those_of_the_contract(made):
    data = made(four())
    batch, blank = every(data.splits["test"]), blank_batch(data.splits["test"].targets, 3, 2, WINDOW)
    for each, size in ((batch, len(data.splits["test"])), (blank, 3)):
        assert (each.targets[TASK].shape, each.targets[TASK].dtype) == ((size, WINDOW), torch.float32)
        assert (each.present[TASK].shape, each.present[TASK].dtype) == ((size, WINDOW), torch.bool)
        assert (each.recording.dtype, each.start.dtype) == (torch.int64, torch.int64)
    assert blank.present[TASK].all()
    assert labelled(batch.present[TASK]).shape == (len(batch),)


def test_a_window_says_which_samples_of_which_record_it_is(made):
    split = made(four()).splits["train"]
    batch = split.__getitems__([3, 0])
    assert list(zip(batch.recording.tolist(), batch.start.tolist(), strict=True)) == [
        tuple(split.places[row].tolist()) for row in (3, 0)
    ]
    taken = batch.take(torch.tensor([1]))
    assert (int(taken.recording), int(taken.start)) == tuple(split.places[0].tolist())


def test_the_labels_of_a_split_are_the_share_of_each_window_that_is_of_a_seizure(made):
    split = made(four()).splits["train"]
    batch = every(split)
    there = batch.present[TASK]
    shares = (batch.targets[TASK] * there).sum(1) / there.sum(1)  # of what is of the record
    assert split.labels(TASK).tolist() == pytest.approx(shares.tolist())


# what is filled up


@pytest.mark.parametrize("kind", list(Normalisation), ids=lambda kind: kind.name)
def test_a_record_shorter_than_a_window_is_filled_up_with_zeros_that_have_no_label(made, kind):
    ((batch, start),) = rows_of(made(four(), normalisation=kind, clip=None), "b")
    assert start == 0
    assert not batch.signal[..., 20:].any()
    assert batch.present[TASK][0].tolist() == [True] * 20 + [False] * 12
    own = walk("b", 20, 2).astype(np.float32).T
    assert np.diff(batch.signal[0, :, :20].numpy() * batch.scale[0, :, None].numpy()) == pytest.approx(
        np.diff(own), abs=1e-4
    )
    if kind in (Normalisation.window, Normalisation.recording):  # its statistics are of what there is
        assert batch.signal[0, :, :20].std(1, unbiased=False).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_what_is_filled_up_knows_nothing_of_the_next_record(made):
    """The store has them one after another."""
    ((before, _),) = rows_of(made(four()), "b")
    ((after, _),) = rows_of(made(four(c=patient("c", 101, *SPANS["c"], signal=777 * walk("z", 101, 2)))), "b")
    assert torch.equal(before.signal, after.signal)
    assert torch.equal(before.targets[TASK], after.targets[TASK])


def test_a_short_record_before_one_of_the_test_is_no_leak(made):
    """Its windows reach over its end, where the test's samples lie."""
    certificate = made(four()).certificate
    assert (certificate["clean"], certificate["shared"]) == (True, [])


def test_a_short_record_is_counted_in_the_certificate_and_not_dropped(made):
    certificate = made(four()).certificate
    assert certificate["short_recordings"] == ["b"]
    train = certificate["splits"]["train"]
    assert (train["entities"], train["windows"], train["labelled_windows"]) == (["a", "b"], 7, {TASK: 7})


def test_short_records_can_be_refused_and_are_then_told_what_would_be_done(made):
    with pytest.raises(
        DataError,
        match=r"1 recordings are shorter than the 32 samples .*first b \(from b\.raw\) with 20; use a shorter "
        r"data\.window, or data\.allow_short=true to fill them up",
    ):
        made(four(), allow_short=False)


def test_a_split_of_short_records_only_is_there(made):
    data = made([patient(name, 20, (4, 9)) for name in "abcd"])
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 2, "val": 1, "test": 1}


def test_a_forecast_leaves_short_records_out(made, eeg_of, all_targets, tmp_path):
    """There is nothing of the future to be filled up with."""
    made(four())  # writes the store
    config = eeg_of(tmp_path / "eeg.h5", split={"train": ["a", "b"], "test": ["c"]})
    data = build(config, {"signal_prediction": all_targets["signal_prediction"]})
    assert data.certificate["short_recordings"] == ["b"]
    assert data.certificate["splits"]["train"]["entities"] == ["a"]
    assert [start for _, start in rows_of(data, "a")] == [0, 16, 32]


def test_a_part_in_time_that_is_too_short_does_not_reach_into_the_next_part(made):
    """A record of 100 samples is cut at 60 and 80: a window of 32 that begins at 60 would show what is tested."""
    names = {"split": {"by": "time", "fractions": [0.6, 0.2, 0.2]}, "allow_leaky": True}
    data = made([patient(name, 320, (150, 200), (260, 300)) for name in "abc"] + [patient("s", 100, (10, 90))], **names)
    for split, (first, last) in {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}.items():
        there = data.splits[split]
        for number, start in there.places.tolist():
            length = there.recordings[number].length
            assert round(first * length) <= start
            assert min(start + WINDOW, length) <= round(last * length)
    assert not any(common["overlapping_windows"] for common in data.certificate["shared"])
    assert data.certificate["short_recordings"] == ["s"]


# clipping


@pytest.mark.parametrize("clip", [0.5, 3.0])
def test_what_is_farther_from_the_mean_than_the_clip_is_cut_off_and_nothing_else(made, clip):
    whole, clipped = (made(four(), clip=value).splits["train"] for value in (None, clip))
    before, after = every(whole).signal, every(clipped).signal
    assert before.abs().max() > clip
    assert torch.equal(after, before.clip(-clip, clip))


def test_without_a_clip_an_outlier_stays(made):
    signal = walk("a", 100, 2)
    signal[50, 0] = 1e4
    recordings = four(a=patient("a", 100, *SPANS["a"], signal=signal))
    assert every(made(recordings, clip=None).splits["train"]).signal.max() > 9
    assert every(made(recordings, clip=5).splits["train"]).signal.max() == 5


def test_a_record_of_another_kind_is_not_clipped(built):
    signal = walk("a", 256)
    signal[50] = 1e4
    data = built([raw("a", signal=signal), *(raw(name) for name in "bc")], split={"train": ["a", "b"], "test": ["c"]})
    assert every(data.splits["train"]).signal.max() > 10


# what a target says of itself


@pytest.mark.parametrize(
    ("options", "shape"), [({}, ()), ({"per_channel": True}, (2,)), ({"per_sample": True}, (32,))], ids=str
)
def test_the_mask_of_a_label_has_the_shape_that_its_target_leads_with(options, shape):
    target = Target(of=lambda *_: 0.0, shape=(), dtype=torch.float32, **options)
    assert target.lead(2, 32) == shape
    assert blank_batch({"t": target}, 4, 2, 32).present["t"].shape == (4, *shape)
