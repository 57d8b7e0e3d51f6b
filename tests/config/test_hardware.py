"""The time limit of a job, and what a kind of machine may say of itself."""

import re
from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.conftest import slurm
from vibench.config.compose import complaints_about
from vibench.config.describe import options
from vibench.config.hardware import OWN, HardwareConfig, SlurmConfig
from vibench.config.launcher import SCHEMAS
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


# what is asked of SLURM


def said_of(**values):
    return list(slurm(**values).complaints())


@pytest.mark.parametrize("gres", ["gpu", "gpu:a100", "gpu:a100_80gb", "gpu:a100-80", "gpu:tesla.v100", "shard"])
def test_a_kind_of_card_is_a_word_or_two(gres):
    assert said_of(gres=gres) == []


@pytest.mark.parametrize("gres", ["gpu:2", "gpu:a100:2", "a100:4", "gpu:", "", "gpu a100", "gpu:a100,nvme:1", "2"])
def test_a_kind_of_card_with_a_number_or_worse_is_refused_with_the_key_of_the_number(gres):
    (said,) = said_of(gres=gres)
    assert said == (f"hardware.slurm.gres={gres} is no kind of card; use e.g. gpu:a100, and hardware.gpus for how many")


@pytest.mark.parametrize("option", sorted(OWN))
def test_an_option_of_sbatch_that_a_key_says_is_refused_with_that_key(option):
    for text in (option, f"{option}=1"):
        (said,) = said_of(sbatch=["--exclusive", text])
        assert said == f"hardware.slurm.sbatch has {text}, which is said by {OWN[option]}; set that"


@pytest.mark.parametrize("key", sorted(set(OWN.values())))
def test_the_key_that_is_named_is_there(key):
    parent, _, name = key.rpartition(".")
    schema = {"hardware": HardwareConfig, "hardware.slurm": SlurmConfig, "hydra.launcher": SCHEMAS["slurm"]}[parent]
    assert name in {field.name for field in fields(schema)}


@pytest.mark.parametrize("option", ["-pa100", "exclude=node7", "", "-", " --exclude=node7"])
def test_what_is_no_option_of_sbatch_is_refused_with_how_to_write_one(option):
    (said,) = said_of(sbatch=[option])
    assert said == f"hardware.slurm.sbatch has {option}, which is no option; write it out, e.g. --exclude=node7"


def test_every_wrong_option_of_sbatch_is_told_beside_all_else(composed):
    cfg = composed("hardware.slurm.sbatch=[-x,'--mem=4G']", "hardware.slurm.gres='gpu:2'", "hardware.slurm.time=soon")
    found = examine(cfg)[0]
    assert [text.split(" ")[0] for text in found] == [
        "hardware.slurm.time=soon",
        "hardware.slurm.gres=gpu:2",
        "hardware.slurm.sbatch",
        "hardware.slurm.sbatch",
    ]


@pytest.mark.parametrize("option", ["--exclude=node7", "--exclusive", "--mail-type=END,FAIL", "--comment=a b"])
def test_any_other_option_is_the_users(option):
    assert said_of(sbatch=[option]) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mem_mb", 0, r"hardware\.slurm\.mem_mb=0 is out of range: .*at least 1"),
        ("requeues", -1, r"hardware\.slurm\.requeues=-1 is out of range: .*at least 0"),
        ("warn_s", 0, r"hardware\.slurm\.warn_s=0 is out of range: .*at least 1"),
    ],
)
def test_a_number_for_slurm_out_of_range_is_refused_with_its_limit(composed, key, value, words):
    (said,) = examine(composed(f"hardware.slurm.{key}={value}"))[0]
    assert re.match(words, said), said


# several machines, and what each has of memory


@pytest.mark.parametrize(("gpus", "nodes", "devices"), [(1, 1, 1), (4, 1, 4), (1, 3, 3), (4, 2, 8)])
def test_the_devices_are_the_cards_of_all_machines(resolved, gpus, nodes, devices):
    batch = f"training.global_batch_size={devices * 8}"
    config = resolved("hardware=v100", f"hardware.gpus={gpus}", f"hardware.nodes={nodes}", batch)
    assert config.hardware.devices == devices


def test_a_batch_that_the_cards_of_all_machines_cannot_share_is_refused(composed):
    (said,) = examine(composed("hardware=v100", "hardware.gpus=4", "hardware.nodes=3"))[0]
    assert re.match(
        r"training\.global_batch_size=32 is not a multiple of hardware\.gpus=4 x hardware\.nodes=3; "
        r"use training\.global_batch_size=36",
        said,
    ), said


@pytest.mark.parametrize(
    ("ram_gib", "mem_mb", "host_gib"),
    [(None, None, None), (64.0, None, 64.0), (None, 4096, 4.0), (64.0, 4096, 4.0), (2.0, 4096, 2.0)],
)
def test_the_memory_of_a_machine_is_the_least_that_is_said_of_it(resolved, ram_gib, mem_mb, host_gib):
    own = resolved("hardware=v100").hardware
    own = replace(own, ram_gib=ram_gib, slurm=replace(own.slurm, mem_mb=mem_mb))
    assert own.host_gib == host_gib


@pytest.mark.parametrize(("name", "value"), [("nodes", "0"), ("nodes", "null"), ("gpus", "null")])
def test_there_is_at_least_one_machine(name, value):
    (said,) = complaints_about([f"hardware.{name}={value}"])
    assert re.search(rf"hardware\.{name}.* (is out of range: .*at least 1|is not Optional)", said), said
