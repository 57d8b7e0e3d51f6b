"""Events from probabilities, against loops over samples and scipy's morphology."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_closing, binary_opening

from vibench.tasks.postprocessing import EventStream, Postprocessing, runs

RATE_HZ = 4.0
HOW = Postprocessing(off_ratio=0.5, opening=3, closing=4, min_duration_s=2.0, merge_gap_s=1.5)
VALUES = [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, np.nan]
PROCEDURES = st.builds(
    Postprocessing,
    off_ratio=st.sampled_from([0.3, 0.5, 0.9, 1.0]),
    opening=st.integers(1, 6),
    closing=st.integers(1, 6),
    min_duration_s=st.sampled_from([0.0, 0.7, 1.0, 2.5]),
    merge_gap_s=st.sampled_from([0.0, 0.6, 1.0, 3.0]),
)
STRETCHES = st.lists(st.tuples(st.sampled_from(VALUES), st.integers(1, 12)), max_size=30)
PROBABILITIES = STRETCHES.map(lambda parts: np.repeat([v for v, _ in parts], [k for _, k in parts]).astype(np.float32))


def slow_hysteresis(probability, on, off):
    """Sample by sample: what is above off and connected, above off, to a sample above on."""
    mask = np.zeros(len(probability), bool)
    for order in (range(len(mask)), reversed(range(len(mask)))):
        inside = False
        for i in order:
            inside = probability[i] >= on or (inside and probability[i] >= off)
            mask[i] |= inside
    return mask


def slow_runs(mask):
    edges = np.diff(np.concatenate([[0], np.asarray(mask, int), [0]]))
    return [(int(a), int(b)) for a, b in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)]


def slow_events(how, probability, threshold, rate_hz):
    on, off = np.float32(threshold), np.float32(threshold * how.off_ratio)
    mask = np.pad(slow_hysteresis(probability, on, off), 16)  # beyond its ends there is nothing, and it is no border
    mask = binary_closing(binary_opening(mask, np.ones(how.opening)), np.ones(how.closing))[16:-16]
    lasting = [(a, b) for a, b in slow_runs(mask) if (b - a) / rate_hz >= how.min_duration_s]
    merged = []
    for a, b in lasting:
        if merged and (a - merged[-1][1]) / rate_hz < how.merge_gap_s:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    return merged


def told(events):
    assert events.dtype == np.int64
    assert events.shape[1:] == (2,)
    return [tuple(event) for event in events.tolist()]


def signal(*parts):
    """(value, samples) one after another."""
    return np.repeat([value for value, _ in parts], [length for _, length in parts]).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(how=PROCEDURES, probability=PROBABILITIES, threshold=st.sampled_from([0.2, 0.4, 0.6, 1.0]))
def test_events_are_those_of_a_loop_over_samples_and_of_scipy(how, probability, threshold):
    assert told(how.events(probability, threshold, RATE_HZ)) == slow_events(how, probability, threshold, RATE_HZ)


@settings(max_examples=40, deadline=None)
@given(how=PROCEDURES, probability=PROBABILITIES)
def test_a_grid_gives_at_each_threshold_what_that_threshold_gives_alone(how, probability):
    grid = np.array([0.9, 0.1, 0.4, 0.8, 0.4])
    found = how.events_at(probability, grid, RATE_HZ)
    assert [told(events) for events in found] == [told(how.events(probability, t, RATE_HZ)) for t in grid]


def test_a_grid_finer_than_a_byte_and_a_record_longer_than_a_piece_are_counted_right():
    random = np.random.default_rng(0)
    probability = np.repeat(random.random(5000), 40).astype(np.float32)
    grid = np.linspace(0.01, 0.99, 160)
    found = HOW.events_at(probability, grid, RATE_HZ)
    for place in (0, 80, 159):
        assert told(found[place]) == slow_events(HOW, probability, grid[place], RATE_HZ)


def test_an_event_goes_on_above_the_lower_threshold_in_both_directions_once_the_higher_is_reached():
    probability = signal((0, 5), (0.5, 9), (0.8, 1), (0.5, 9), (0.3, 5), (0.5, 30), (0, 5))
    assert told(HOW.events(probability, 0.8, RATE_HZ)) == [(5, 24)]


def test_a_threshold_is_reached_by_the_probability_that_equals_it_in_float32():
    probability = np.full(20, 0.86, np.float32)
    assert told(HOW.events(probability, 0.86, RATE_HZ)) == [(0, 20)]
    assert told(HOW.events(np.nextafter(probability, np.float32(0)), 0.86, RATE_HZ)) == []


@pytest.mark.parametrize(
    ("parts", "events"),
    [
        pytest.param([(0, 9), (1, 2), (0, 9)], [], id="a run below the opening"),
        pytest.param([(1, 5), (0, 3), (1, 5)], [(0, 13)], id="a gap below the closing makes two short ones long"),
        pytest.param([(1, 5), (0, 4), (1, 5)], [], id="a gap of the closing does not, and each is below the minimum"),
        pytest.param([(1, 8), (0, 5), (1, 8)], [(0, 21)], id="a gap below the merge gap"),
        pytest.param([(1, 8), (0, 6), (1, 8)], [(0, 8), (14, 22)], id="a gap of the merge gap"),
        pytest.param([(1, 7), (0, 9)], [], id="below the minimum"),
        pytest.param([(1, 8), (0, 9)], [(0, 8)], id="the minimum"),
        pytest.param([(0, 2), (1, 9), (0, 2)], [(2, 11)], id="a gap at an end of the record is none"),
        pytest.param([(1, 30)], [(0, 30)], id="all of the record"),
        pytest.param([], [], id="an empty record"),
    ],
)
def test_lengths_are_compared_as_documented(parts, events):
    assert told(HOW.events(signal(*parts), 0.8, RATE_HZ)) == events


def test_durations_are_compared_in_seconds_without_a_rounding_that_drops_what_is_long_enough():
    how = Postprocessing(off_ratio=1.0, opening=1, closing=1, min_duration_s=1.1, merge_gap_s=1.1)  # 11 < 1.1 * 10
    assert told(how.events(signal((1, 11), (0, 11), (1, 11)), 0.8, 10.0)) == [(0, 11), (22, 33)]


def test_flickers_that_are_too_short_are_not_merged_into_an_event():
    flickers = signal(*[(1, 7), (0, 5)] * 20)
    assert told(HOW.events(flickers, 0.8, RATE_HZ)) == []


def test_a_sample_without_a_score_is_of_no_event():
    probability = signal((1, 10), (np.nan, 10), (1, 10))
    assert told(HOW.events(probability, 0.8, RATE_HZ)) == [(0, 10), (20, 30)]
    assert told(HOW.events(np.full(50, np.nan, np.float32), 0.8, RATE_HZ)) == []


@settings(max_examples=80, deadline=None)
@given(how=PROCEDURES, probability=PROBABILITIES, cuts=st.lists(st.integers(0, 360), max_size=12))
def test_a_record_in_pieces_has_the_events_of_the_whole_wherever_it_is_cut(how, probability, cuts):
    stream = EventStream(how, threshold=0.6, rate_hz=RATE_HZ)
    found = [stream.feed(piece) for piece in np.split(probability, sorted(min(c, len(probability)) for c in cuts))]
    found = np.concatenate([*found, stream.finish()])
    assert told(found) == told(how.events(probability, 0.6, RATE_HZ))


def test_a_record_sample_by_sample_has_the_events_of_the_whole():
    probability = signal((0.5, 3), (1, 8), (0, 5), (1, 9), (0, 3), (0.5, 2), (1, 1), (0, 5), (1, 7), (0, 6), (0.9, 20))
    stream = EventStream(HOW, threshold=0.8, rate_hz=RATE_HZ)
    found = [stream.feed(probability[i : i + 1]) for i in range(len(probability))]
    assert told(np.concatenate([*found, stream.finish()])) == told(HOW.events(probability, 0.8, RATE_HZ)) != []


def test_an_event_is_told_as_soon_as_nothing_to_come_can_change_it():
    stream = EventStream(HOW, threshold=0.8, rate_hz=RATE_HZ)
    assert told(stream.feed(signal((0, 4), (1, 20)))) == []
    assert told(stream.feed(signal((0, 5)))) == []
    assert told(stream.feed(signal((0, 1)))) == [(4, 24)]
    assert told(stream.finish()) == []


@pytest.mark.parametrize("parts", [[(1, 8), (0, 1)], [(1, 8), (0, 5)], [(1, 8), (0, 9)], [(1, 2), (0, 1)], [(1, 9)]])
def test_a_stream_holds_three_runs_at_most_however_long_it_is(parts):
    stream = EventStream(HOW, threshold=0.8, rate_hz=RATE_HZ)
    for _ in range(300):
        stream.feed(signal(*parts))
        assert [len(held) <= 1 for held in (stream.highest, stream.closing, stream.merging)] == [True] * 3


@given(mask=st.lists(st.booleans(), max_size=40))
def test_runs_are_the_stretches_of_true(mask):
    assert told(runs(np.array(mask, bool))) == slow_runs(mask)
