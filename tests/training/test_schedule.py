"""The learning rate over a run against closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibench.config.training import Schedule
from vibench.training.schedule import lr_factor

SCHEDULES = list(Schedule)


def factors(total, warmup, schedule):
    return [lr_factor(step, total, warmup, schedule) for step in range(total)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_warm_up_rises_linearly_to_the_peak(schedule):
    assert factors(100, 4, schedule)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_warm_up_the_first_step_is_at_the_peak(schedule):
    assert lr_factor(0, 10, 0, schedule) == 1


def test_constant_stays_at_the_peak():
    assert factors(50, 10, Schedule.constant)[10:] == [1.0] * 40


def test_linear_falls_in_a_straight_line_that_reaches_zero_after_the_last_step():
    assert factors(30, 10, Schedule.linear)[10:] == pytest.approx([1 - i / 20 for i in range(20)])


def test_cosine_falls_as_half_a_cosine():
    expected = [(1 + math.cos(math.pi * i / 20)) / 2 for i in range(20)]
    assert factors(30, 10, Schedule.cosine)[10:] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [Schedule.cosine, Schedule.linear])
def test_half_way_after_the_warm_up_the_rate_is_half(schedule):
    assert lr_factor(10 + 45, 100, 10, schedule) == pytest.approx(0.5)


def test_a_quarter_of_the_way_cosine_is_above_linear_and_at_three_quarters_below():
    assert lr_factor(25, 100, 0, Schedule.cosine) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert lr_factor(75, 100, 0, Schedule.cosine) == pytest.approx((1 - math.sqrt(0.5)) / 2)


@pytest.mark.parametrize(("schedule", "last"), [(Schedule.cosine, 1e-5), (Schedule.linear, 1e-3)])
def test_the_last_step_is_near_zero_but_not_zero(schedule, last):
    assert 0 < lr_factor(999, 1000, 0, schedule) <= last * 1.001


@given(
    total=st.integers(1, 10_000),
    warmup=st.integers(0, 12_000),
    place=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
)
def test_the_factor_is_in_the_unit_interval_at_every_step(total, warmup, place, schedule):
    assert 0 <= lr_factor(round(place * (total - 1)), total, warmup, schedule) <= 1


@given(total=st.integers(2, 60), warmup=st.integers(0, 60), schedule=st.sampled_from(SCHEDULES))
def test_the_factor_rises_during_the_warm_up_and_never_after(total, warmup, schedule):
    found = factors(total, warmup, schedule)
    rising, falling = found[: warmup + 1], found[max(warmup - 1, 0) :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


@given(total=st.integers(1, 200), warmup=st.integers(0, 199), schedule=st.sampled_from(SCHEDULES))
def test_no_step_is_wasted_on_a_rate_of_zero(total, warmup, schedule):
    assert min(factors(total, warmup, schedule)) > 0
