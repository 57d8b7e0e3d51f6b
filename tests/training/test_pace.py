"""How long a step takes: the median against sums written out, and the warning of a job that will not end in time.

The clock is the test's own.
"""

import re
import statistics
import time

import pytest

from vibench.training.pace import ENOUGH, RECENT, WARM_UP, Pace

NOW = 1_700_000_000.0  # of the clock on the wall, where a test begins
WAIT, VALIDATION = 0.125, 1000.0


class Clock:
    """Seconds that pass where a test says so."""

    def __init__(self):
        self.passed = 0.0

    def perf_counter(self):
        return 5.0 + self.passed

    def time(self):
        return NOW + self.passed


@pytest.fixture
def paced(monkeypatch):
    """Train for as many epochs as there are lists of durations; the callback afterwards."""

    def call(*epochs, ends_in=None, total_steps=None, wait=0.0):
        clock = Clock()
        monkeypatch.setattr("vibench.training.pace.time", clock)
        monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
        if ends_in is not None:
            monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(NOW + ends_in)))
        took = [seconds for epoch in epochs for seconds in epoch]
        pace, done = Pace(total_steps or len(took)), 0
        for epoch in epochs:
            pace.begin_epoch()
            for seconds in epoch:
                clock.passed += wait  # for its data
                pace.begin_step(done)
                clock.passed += seconds
                done += 1
            clock.passed += VALIDATION
        return pace

    return call


def counted(*epochs):
    """The last step of an epoch has no next one; the first of all steps are warming up."""
    return [seconds for epoch in epochs for seconds in epoch[:-1]][WARM_UP:]


def test_the_pace_is_the_median_of_the_steps_after_the_first():
    """Written out once, so that the numbers of the other tests can be trusted."""
    assert counted([9, 9, 9, 1, 2, 3, 99]) == [1, 2, 3]


EPOCHS = ([50, 40, 30, 7, 1, 900], [6, 2, 9, 4, 3, 900], [8, 5, 1.5, 2.5, 10, 900])


def test_the_pace_is_the_median_of_the_steps_that_count(paced):
    pace = paced(*EPOCHS)
    assert pace.seconds == pytest.approx(statistics.median(counted(*EPOCHS)))
    assert pace.seconds == pytest.approx(4.5)  # between 4 and 5: neither the warm-up, nor a validation, nor an average


def test_waiting_for_data_is_part_of_a_step(paced):
    assert paced(*EPOCHS, wait=WAIT).seconds == pytest.approx(4.5 + WAIT)


@pytest.mark.parametrize("more", [0, 1])
def test_too_few_steps_have_no_pace(paced, more):
    epoch = [1.0] * (WARM_UP + ENOUGH + more)  # the last of them has no next one
    assert paced(epoch).seconds == (1.0 if more else None)


def test_the_pace_is_that_of_late(paced):
    """A machine that others use is as fast as it is now."""
    slow, fast = [8.0] * (WARM_UP + RECENT), [2.0] * (RECENT // 2 + 2)
    assert paced([*slow, *fast[:-2]]).seconds == 8
    assert paced([*slow, *fast]).seconds == 2


def warned(caplog):
    return [record.getMessage() for record in caplog.records if "WILL NOT END IN TIME" in record.getMessage()]


def test_a_run_that_will_not_end_in_time_is_told_once_with_its_numbers(paced, caplog):
    """Thirteen steps are enough for a median; then two hours are needed, and half an hour is left."""
    begin = WARM_UP + ENOUGH
    paced([1.0] * (begin + 20), total_steps=begin + 7200, ends_in=begin + 1800)
    assert warned(caplog) == ["THIS RUN WILL NOT END IN TIME: 7200 steps of 1 s take 2.0 h, SLURM ends it in 0.5 h"]


@pytest.mark.parametrize(("spare", "times"), [(1, 0), (-1, 1)])
def test_a_run_that_will_just_end_in_time_is_left_in_peace(paced, caplog, spare, times):
    steps = WARM_UP + ENOUGH + 50
    paced([1.0] * steps, ends_in=steps + spare)
    assert len(warned(caplog)) == times


def test_a_run_that_becomes_too_slow_is_told_when_it_does(paced, caplog):
    """Its first thirty steps would have been in time."""
    paced([1.0] * 90, ends_in=100)
    assert warned(caplog) == []
    paced([1.0] * 30 + [10.0] * 60, ends_in=100)
    (said,) = warned(caplog)
    assert int(re.search(r"TIME: (\d+) steps", said)[1]) < 60


@pytest.mark.parametrize("told", ["", "soon", "-5", "1.5"])
def test_an_end_that_cannot_be_read_is_none(monkeypatch, told):
    monkeypatch.setenv("SLURM_JOB_END_TIME", told)
    assert Pace(10).ends_at is None


# of real runs

MANY = ("backbone=dlinear", "backbone.moving_average=3", "training.global_batch_size=4")  # 26 steps
FEW = ("backbone=dlinear", "backbone.moving_average=3", "training.max_steps=5")


def test_a_run_has_the_pace_of_its_steps_and_a_short_one_has_none(train):
    began = time.perf_counter()
    seconds = train(*MANY).fitted.step_seconds
    assert 0 < 26 * seconds / 2 < time.perf_counter() - began  # half of the steps take the median or more
    assert train(*FEW).fitted.step_seconds is None


@pytest.mark.parametrize(("ends_in", "times"), [(0, 1), (3600, 0)])
def test_a_run_within_a_job_says_once_that_it_will_not_end(train, monkeypatch, caplog, ends_in, times):
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + ends_in))
    train(*MANY)
    assert len(warned(caplog)) == times
