"""The time limit of a job, and what a kind of machine may say of itself."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.conftest import slurm
from vibench.config.describe import options
from vibench.config.resolve import examine

CARDS = [name for name in options()["hardware"] if name not in ("cpu", "local")]
NO_TIME = [
    "",
    "24",
    "24:00",
    "1-24",
    "1:2:3",
    "24:0:00",
    "-1:00:00",
    "24:00:00 ",
    "one day",
    "86400",
    "1.5",
    "1-1-1:00:00",
]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (None, None),
        ("00:00:01", 1),
        ("0:01:00", 60),
        ("24:00:00", 86_400),
        ("1-12:00:00", 129_600),
        ("1-00:00:00", 86_400),
        ("0-00:30:05", 1_805),
        ("100:00:00", 360_000),
        ("14-00:00:00", 14 * 86_400),
    ],
)
def test_a_time_limit_is_read_as_slurm_reads_it(time, seconds):
    config = slurm(time=time)
    assert config.seconds == seconds
    assert list(config.complaints()) == []


@given(st.none() | st.integers(0, 400), st.integers(0, 999), st.integers(0, 59), st.integers(0, 59))
def test_days_hours_minutes_and_seconds_add_up(days, hours, minutes, seconds):
    text = ("" if days is None else f"{days}-") + f"{hours}:{minutes:02}:{seconds:02}"
    expected = timedelta(days=days or 0, hours=hours, minutes=minutes, seconds=seconds)
    assert slurm(time=text).seconds == expected.total_seconds()


@pytest.mark.parametrize("time", NO_TIME)
def test_what_is_no_time_is_refused_with_how_to_write_one(time):
    (said,) = slurm(time=time).complaints()
    assert said == (
        f"hardware.slurm.time={time} is no time; use [days-]hours:minutes:seconds, e.g. 1-12:00:00, "
        "in quotes where it stands in YAML"
    )
    with pytest.raises(ValueError, match=r"is no time"):
        _ = slurm(time=time).seconds


@pytest.mark.parametrize("time", ["0:00:00", "00:00:00", "0-00:00:00"])
def test_a_limit_of_no_time_is_refused(time):
    (said,) = slurm(time=time).complaints()
    assert said == f"hardware.slurm.time={time} leaves no time to run; use null for no limit"


@pytest.mark.parametrize("time", ["24:00:00", "1-12:00:00", "null"])
def test_a_time_is_typed_without_quotes(composed, time):
    """YAML reads 24:00:00 as a number to the base of 60."""
    cfg = composed(f"hardware.slurm.time={time}")
    assert cfg.hardware.slurm.time == (None if time == "null" else time)
    assert examine(cfg)[0] == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("gpus", 0, "hardware.gpus=0 is out of range: .*at least 1"),
        ("ram_gib", 0.0, r"hardware.ram_gib=0.0 is out of range: .*above 0"),
        ("measured_share", 0.0, "hardware.measured_share=0.0 is out of range: .*above 0 and at most 1"),
        ("measured_share", 1.01, "hardware.measured_share=1.01 is out of range: .*above 0 and at most 1"),
        ("fp32_tflops", 0.0, "hardware.fp32_tflops=0.0 is out of range: .*above 0"),
        ("half_tflops", -1.0, "hardware.half_tflops=-1.0 is out of range: .*above 0"),
        ("bandwidth_gbs", float("inf"), "hardware.bandwidth_gbs=inf is not a finite number"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_limit(composed, key, value, words):
    cfg = composed("hardware=rtx3090")
    cfg.hardware[key] = value
    (said,) = examine(cfg)[0]
    assert re.match(words, said), said


@pytest.mark.parametrize("key", ["measured_share", "fp32_tflops", "half_tflops", "bandwidth_gbs", "ram_gib", "cpus"])
def test_what_is_not_known_of_a_card_may_be_null(composed, key):
    cfg = composed("hardware=rtx3090", f"hardware.{key}=null")
    assert OmegaConf.select(cfg, f"hardware.{key}") is None
    assert examine(cfg)[0] == []


@pytest.mark.parametrize("name", CARDS)
def test_every_card_that_is_shipped_has_the_rates_of_a_time_estimate(composed, name):
    hardware = composed(f"hardware={name}").hardware
    assert 0 < hardware.fp32_tflops < hardware.half_tflops
    assert hardware.bandwidth_gbs > 0
    assert hardware.usable_share < hardware.measured_share < 1  # to be believed, more is asked of a plan than of use
