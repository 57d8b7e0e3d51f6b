"""Windows on the clock of their record, against a mean over a matrix of all windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vibench.tasks.postprocessing import runs
from vibench.tasks.stitching import Stitched


def window(length=8, probability=0.5, target=False, valid=True):
    return np.full(length, probability, np.float32), np.full(length, target), np.full(length, valid)


def stitched(*windows):
    record = Stitched()
    for start, *parts in windows:
        record.add(start, *parts)
    return record


@settings(max_examples=40, deadline=None)
@given(starts=st.lists(st.integers(0, 60), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_a_sample_has_the_mean_of_the_windows_that_show_it_in_any_order(starts, seed):
    random = np.random.default_rng(seed)
    rows = np.full((len(starts), 80), np.nan)
    truth = random.random(80) < 0.3
    record = Stitched()
    for row, start in zip(rows, starts, strict=True):
        place, valid = slice(start, start + 20), random.random(20) < 0.8
        score = random.random(20).astype(np.float32)
        record.add(start, np.where(valid, score, np.nan).astype(np.float32), truth[place], valid)
        row[place] = np.where(valid, score, np.nan)
    known = np.isfinite(rows).any(0)
    length = int(np.flatnonzero(known).max(initial=-1)) + 1
    mean = np.nansum(rows, 0) / np.maximum(np.isfinite(rows).sum(0), 1)
    assert len(record) == length
    np.testing.assert_array_equal(record.covered(), known[:length])
    np.testing.assert_array_equal(record.target(), (truth & known)[:length])
    np.testing.assert_allclose(record.probability(), np.where(known, mean, np.nan)[:length], rtol=1e-6)


def test_a_seizure_is_one_however_many_windows_show_it():
    truth = np.zeros(100, bool)
    truth[40:60] = True
    windows = [(start, np.zeros(50, np.float32), truth[start : start + 50], np.ones(50, bool)) for start in range(51)]
    shown = sum(len(runs(target)) for _, _, target, _ in windows)
    assert shown == 51
    assert runs(stitched(*windows).target()).tolist() == [[40, 60]]


def test_samples_that_no_window_shows_have_no_score():
    record = stitched((2, *window(3)), (9, *window(2, target=True)))
    assert runs(record.covered()).tolist() == [[2, 5], [9, 11]]
    assert np.isnan(record.probability()).tolist() == (~record.covered()).tolist()
    assert runs(record.target()).tolist() == [[9, 11]]


def test_padding_behind_a_short_record_does_not_lengthen_it():
    score, target, valid = window(10, target=True)
    valid[6:] = False
    record = stitched((0, score, target, valid))
    assert (len(record), runs(record.target()).tolist()) == (6, [[0, 6]])


def test_a_record_of_which_nothing_is_known_is_empty():
    record = stitched((30, *window(valid=False)))
    assert len(record) == 0
    assert record.probability().shape == record.target().shape == record.covered().shape == (0,)


def test_what_is_invalid_may_be_anything_and_spoils_nothing():
    score, target, valid = window(4, 0.25)
    score[1], valid[1] = np.nan, False
    record = stitched((0, score, target, valid), (0, *window(4, 0.75)))
    assert record.probability().tolist() == [0.5, 0.75, 0.5, 0.5]


def test_a_record_grows_to_wherever_a_window_lies():
    far = 10**6
    record = stitched((far, *window(5, 0.25, target=True)), (0, *window(5)))
    assert len(record) == far + 5
    assert runs(record.covered()).tolist() == [[0, 5], [far, far + 5]]
    assert record.probability()[[0, far]].tolist() == [0.5, 0.25]


def test_a_mean_of_certainties_is_certain():
    record = stitched(*[(0, *window(4, probability=1.0)) for _ in range(7)])
    assert record.probability().tolist() == [1.0] * 4


def test_a_window_before_its_record_is_refused():
    with pytest.raises(AssertionError, match="a window cannot begin 3 samples before its record"):
        Stitched().add(-3, *window())


def test_what_would_broadcast_is_refused():
    score, target, valid = window()
    with pytest.raises(AssertionError, match=r"\(8,\), \(1,\), \(8,\)"):
        Stitched().add(0, score, target[:1], valid)
