"""Counts of records against ``timescoring`` at the full rate, and against TAES sample by sample."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vibench.errors import ConfigError
from vibench.tasks.szcore import (
    Hits,
    RecordCounts,
    allowed,
    choose,
    f1,
    false_alarms_per_24h,
    score_record,
    sensitivity,
    taes,
)

timescoring = pytest.importorskip("timescoring.scoring")
Annotation = pytest.importorskip("timescoring.annotations").Annotation

RATE_HZ = 16.0


def seconds(*events):
    """(start, stop) in seconds -> samples."""
    return (np.array(events, float).reshape(-1, 2) * RATE_HZ).round().astype(np.int64)


def scored(reference, *hypotheses, length_s=3600, **options):
    events = [seconds(*events) for events in hypotheses]
    return score_record(seconds(*reference), events, n_samples=round(length_s * RATE_HZ), rate_hz=RATE_HZ, **options)


def events_up_to(end, most):
    edges = st.lists(st.integers(0, end), max_size=2 * most, unique=True).map(sorted)
    return edges.map(lambda e: [(a, b) for a, b in zip(e[::2], e[1::2], strict=False)])


@settings(max_examples=40, deadline=None)
@given(reference=events_up_to(20000, 5), hypothesis=events_up_to(20000, 8))
def test_events_and_samples_are_those_of_timescoring_at_the_full_rate(reference, hypothesis):
    n = 20009  # neither ten nor one a second fit into it
    found = score_record(
        np.array(reference).reshape(-1, 2), [np.array(hypothesis).reshape(-1, 2)], n_samples=n, rate_hz=16
    )
    annotations = [Annotation([(a / 16, b / 16) for a, b in events], 16, n) for events in (reference, hypothesis)]
    for hits, scoring in ((found.event, timescoring.EventScoring), (found.sample, timescoring.SampleScoring)):
        score = scoring(*annotations)
        assert (hits.tp[0], hits.fp[0], hits.total) == (score.tp, score.fp, score.refTrue)
        if score.refTrue:
            assert sensitivity(hits)[0] == score.sensitivity
            assert f1(hits)[0] == score.f1


@pytest.mark.parametrize(
    ("hypothesis", "tp", "fp"),
    [
        ([(950, 975)], 1, 0),  # ends 25 s before
        ([(950, 965)], 0, 1),
        ([(1115, 1130)], 1, 0),  # begins 55 s after
        ([(1125, 1140)], 0, 1),
        ([(1000, 1010), (1090, 1095)], 1, 0),  # 80 s apart
        ([(100, 700)], 0, 2),  # cut after 300 s
        ([], 0, 0),
    ],
)
def test_events_have_the_tolerances_of_szcore(hypothesis, tp, fp):
    found = scored([(1000, 1060)], hypothesis)
    assert (found.event.tp.tolist(), found.event.fp.tolist(), found.event.total) == ([tp], [fp], 1)


def test_a_long_seizure_is_cut_and_close_ones_are_merged():
    assert scored([(100, 500)], []).event.total == 2
    assert scored([(100, 200), (280, 300)], []).event.total == 1


def slow_taes(reference, hypothesis):
    """By sets of samples and marks."""
    samples = [set(range(*event)) for event in reference], [set(range(*event)) for event in hypothesis]
    open_seizures, open_events = set(range(len(reference))), set(range(len(hypothesis)))
    tp = fn = fp = 0.0
    for i, seizure in enumerate(samples[0]):
        if i not in open_seizures:
            continue
        touching = [j for j in sorted(open_events) if samples[1][j] & seizure]
        if touching and max(seizure) <= max(samples[1][touching[0]]):
            later = {k for k in open_seizures if k > i and samples[0][k] & samples[1][touching[0]]}
            open_seizures -= later
            fn += len(later)
        for j in touching:
            tp += len(samples[1][j] & seizure) / len(seizure)
            fp += min(1.0, len(samples[1][j] - seizure) / len(seizure))
        if touching:
            fn += 1 - sum(len(samples[1][j] & seizure) for j in touching) / len(seizure)
            open_seizures.remove(i)
            open_events -= set(touching)
    return tp, fn + len(open_seizures), fp + len(open_events)


@settings(max_examples=80, deadline=None)
@given(reference=events_up_to(60, 5), hypothesis=events_up_to(60, 7))
def test_taes_is_that_of_sets_of_samples(reference, hypothesis):
    tp, fp = taes(np.array(reference, int).reshape(-1, 2), np.array(hypothesis, int).reshape(-1, 2))
    assert (tp, len(reference) - tp, fp) == pytest.approx(slow_taes(reference, hypothesis))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "tp", "fp"),
    [
        pytest.param([(10, 20)], [(10, 20)], 1, 0, id="the same"),
        pytest.param([(10, 20)], [(5, 15)], 0.5, 0.5, id="early"),
        pytest.param([(10, 20)], [(17, 21)], 0.3, 0.1, id="late"),
        pytest.param([(10, 20)], [(12, 14), (16, 19)], 0.5, 0, id="two within"),
        pytest.param([(10, 20)], [(5, 95)], 1, 1, id="far too long: one false alarm, not eight"),
        pytest.param([(10, 20)], [(5, 12), (18, 90)], 0.4, 1.5, id="each is one at most"),
        pytest.param([(10, 20)], [(20, 30)], 0, 1, id="touching ends share nothing"),
        pytest.param([(10, 20), (30, 40)], [(10, 40)], 1, 1, id="two seizures told as one"),
        pytest.param([(10, 20), (30, 40)], [(15, 32), (34, 40)], 0.5, 2, id="the second is lost to the first"),
        pytest.param([(10, 20), (30, 40)], [(10, 12), (15, 32), (34, 40)], 1.3, 1, id="not after one that ends within"),
        pytest.param([], [(10, 20), (30, 40)], 0, 2, id="no seizure"),
        pytest.param([(10, 20)], [], 0, 0, id="no event"),
    ],
)
def test_taes_by_hand(reference, hypothesis, tp, fp):
    assert taes(seconds(*reference), seconds(*hypothesis)) == pytest.approx((tp, fp))


def test_events_that_are_the_same_are_scored_once(monkeypatch):
    calls, scoring = [], timescoring.SampleScoring
    monkeypatch.setattr(timescoring, "SampleScoring", lambda *a: calls.append(a) or scoring(*a))
    found = scored([(100, 200)], [(90, 150)], [(90, 150)], [], [(900, 950)], [])
    assert len(calls) == 3
    assert found.event.tp.tolist() == [1, 1, 0, 0, 0]
    assert found.event.fp.tolist() == [0, 0, 0, 1, 0]
    assert found.taes.tp.tolist() == [0.5, 0.5, 0, 0, 0]


def test_a_record_without_a_seizure_has_no_score_but_false_alarms():
    quiet = scored([], [], [(100, 200)])
    for hits in (quiet.event, quiet.sample, quiet.taes):
        for score in (sensitivity, f1):
            assert np.isnan(score(hits)).tolist() == [True, True], score
    assert false_alarms_per_24h(quiet).tolist() == [0, 24]


def test_a_record_without_a_seizure_leaves_the_sensitivity_of_the_others_alone():
    both = scored([(100, 160)], [(100, 160)]) + scored([], [(100, 160)])
    assert sensitivity(both.event).tolist() == sensitivity(both.taes).tolist() == [1]
    assert f1(both.event)[0] == f1(both.taes)[0] == pytest.approx(2 / 3)
    assert false_alarms_per_24h(both).tolist() == [12]


def test_seizures_without_a_detection_score_zero():
    missed = scored([(100, 160)], [])
    for hits in (missed.event, missed.sample, missed.taes):
        assert (sensitivity(hits)[0], f1(hits)[0]) == (0, 0)


def test_counts_add_up_over_records():
    one, two = scored([(100, 160)], [(110, 150)], length_s=1800), scored([(50, 60), (900, 930)], [(55, 60)])
    both = RecordCounts.none(1) + one + two
    assert (both.seconds, both.records, both.event.total, both.sample.total) == (5400, 2, 3, 100)
    assert both.sample.tp.tolist() == [45]
    assert both.taes.tp[0] == pytest.approx(40 / 60 + 0.5)


def test_false_alarms_are_counted_over_the_time_that_has_a_score():
    assert false_alarms_per_24h(scored([], [(100, 200)], n_scored=round(1800 * RATE_HZ))).tolist() == [48]
    assert np.isnan(false_alarms_per_24h(RecordCounts.none(1))).tolist() == [True]


def test_a_record_shorter_than_a_tick_is_scored():
    found = score_record(np.array([[0, 1]]), [seconds()], n_samples=1, rate_hz=256)
    assert (found.event.total, found.event.tp[0]) == (1, 0)


def test_without_timescoring_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timescoring.scoring", None)
    words = r"task\.seizure_detection needs timescoring; pip install 'vibench\[eeg\]'"
    with pytest.raises(ConfigError, match=words):
        scored([], [])


def counted(tp, fp, total=10, days=1):
    hits = Hits(np.array(tp, float), np.array(fp, float), total)
    return RecordCounts(hits, hits, hits, days * 86400, 1)


@pytest.mark.parametrize(
    ("tp", "fp", "place"),
    [
        pytest.param([9, 8, 7], [9, 5, 0], 1, id="the most sensitive with few enough"),
        pytest.param([9, 8, 8], [9, 5, 4], 2, id="of equal sensitivity, the best F1"),
        pytest.param([9, 8, 8, 8, 8, 8, 7], [9, 2, 2, 2, 2, 2, 0], 3, id="the middle of a plateau"),
        pytest.param([8, 7, 8, 8, 8, 7], [2] * 6, 3, id="of the longest plateau"),
        pytest.param([8, 8, 7, 8, 8], [2] * 5, 0, id="the first of two that are equally long"),
        pytest.param([9, 9, 8], [90, 70, 60], 2, id="none with few enough: the fewest"),
        pytest.param([7, 9, 9, 9], [60, 60, 60, 60], 2, id="and of these the most sensitive"),
    ],
)
def test_the_operating_point_is(tp, fp, place):
    assert choose(counted(tp, fp), max_fa_per_24h=5) == place


def test_without_a_seizure_the_middle_of_what_is_allowed_is_chosen():
    assert choose(counted([0] * 6, [9, 6, 4, 3, 0, 0], total=0), max_fa_per_24h=5) == 3


def test_the_limit_is_of_false_alarms_in_24_hours_and_allows_itself():
    assert allowed(counted([1, 1], [10, 11], days=2), max_fa_per_24h=5).tolist() == [True, False]
