"""Characteristic frequencies against published orders and against each other."""

import pytest

from vibench.data.bearing import NSK_6804, SKF_6205, Bearing

TILTED = Bearing(balls=16, ball_mm=8.4, pitch_mm=71.5, contact_deg=15.17)  # Rexnord ZA-2115 of the IMS rig
BEARINGS = pytest.mark.parametrize("bearing", [SKF_6205, NSK_6804, TILTED], ids=["6205", "6804", "za2115"])


@pytest.mark.parametrize(("name", "order"), [("bpfo", 3.5848), ("bpfi", 5.4152), ("bsf", 2.357), ("ftf", 0.39828)])
def test_the_orders_of_the_6205_are_the_published_ones(name, order):
    # CWRU publishes 4.7135 as rolling element frequency: that is twice the spin, one strike on each race
    assert getattr(SKF_6205, name) == pytest.approx(order, rel=2e-4)


@pytest.mark.parametrize(("name", "hz"), [("bpfo", 236.4), ("bpfi", 296.9), ("bsf", 139.9), ("ftf", 14.77)])
def test_a_contact_angle_gives_the_published_frequencies_of_the_ims_bearing(name, hz):
    # Qiu et al. 2006 (10.1016/j.jsv.2005.03.007) at 2000 rpm
    assert getattr(TILTED, name) * 2000 / 60 == pytest.approx(hz, rel=2e-3)


@BEARINGS
def test_a_ball_passes_a_point_of_either_race_as_often_as_there_are_balls(bearing):
    assert bearing.bpfo + bearing.bpfi == pytest.approx(bearing.balls)


@BEARINGS
def test_the_cage_takes_every_ball_past_the_outer_race_once_per_turn(bearing):
    assert bearing.ftf == pytest.approx(bearing.bpfo / bearing.balls)


@BEARINGS
def test_the_inner_race_is_struck_more_often_than_the_outer(bearing):
    assert bearing.bpfi > bearing.balls / 2 > bearing.bpfo
    assert 0 < bearing.ftf < 0.5


def test_rolling_without_slip_ties_spin_to_cage():
    # speed of the contact point on the outer race: the cage turns the ball's centre, the ball rolls on the race
    rolled = 2 * SKF_6205.ftf * (SKF_6205.pitch_mm + SKF_6205.ball_mm) / (2 * SKF_6205.ball_mm)
    assert SKF_6205.bsf == pytest.approx(rolled)
