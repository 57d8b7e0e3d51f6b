"""What a run asks of SLURM: a key of its hardware is an option of sbatch; runs that ask for the same are one array."""

import dataclasses
import math
import re
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import CONF, slurm
from vibench.config.describe import options
from vibench.config.hardware import TIME
from vibench.launch.cluster import SPARE, SPARE_MB, STEP_MB, grouped, options_of
from vibench.launch.place import Request
from vibench.launch.sweep import Job

CARDS = [name for name in options()["hardware"] if name not in ("cpu", "local")]
ALWAYS = {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "signal", "requeue"}


@pytest.fixture(scope="module")
def on(resolved):
    """An experiment on a hardware with other values of it and of what is asked of SLURM."""

    base = cache(lambda card, workers: resolved(f"hardware={card}", "hardware.cpus=64", f"data.workers={workers}"))

    def call(card="cpu", /, *, asked=None, workers=0, **values):
        config = base(card, workers)
        own = config.hardware
        own = dataclasses.replace(own, **{"cpus": None} | values, slurm=dataclasses.replace(own.slurm, **asked or {}))
        return dataclasses.replace(config, hardware=own)

    return call


def asked(config, host_gib=1.0, mem_mb=None):
    return options_of(config, host_gib, mem_mb)


# one key, one option


@pytest.mark.parametrize(
    ("key", "value", "option"),
    [
        ("partition", "long", ("partition", "long")),
        ("gres", "gpu:a100", ("gres", "gpu:a100:1")),
        ("constraint", "vram80&nvlink", ("constraint", "vram80&nvlink")),
        ("account", "lab", ("account", "lab")),
        ("qos", "high", ("qos", "high")),
        ("mem_mb", 48_000, ("mem", "48000M")),
        ("time", "1-12:00:00", ("time", "1-12:00:00")),
        ("warn_s", 300, ("signal", "USR2@300")),
        ("sbatch", ["--exclude=node7"], ("exclude", "node7")),
    ],
)
def test_each_key_of_slurm_is_one_option_and_null_is_none(on, key, value, option):
    name, words = option
    before, after = asked(on()), asked(on(asked={key: value}))
    assert after[name] == words
    assert {k: v for k, v in after.items() if k != name} == {k: v for k, v in before.items() if k != name}
    assert name in ALWAYS or name not in before


@pytest.mark.parametrize(
    ("key", "value", "option"),
    [("nodes", 2, ("nodes", 2)), ("cpus", 6, ("cpus-per-task", 6)), ("name", "mine", ("job-name", "vibench-mine"))],
)
def test_each_key_of_the_hardware_is_one_option(on, key, value, option):
    name, words = option
    before, after = asked(on()), asked(on(**{key: value}))
    assert after == before | {name: words}


def test_every_key_of_slurm_is_asked_for_or_says_how_the_run_goes_on():
    """A new key has to be put here, and into the options."""
    options_ = {"partition", "gres", "constraint", "account", "qos", "mem_mb", "time", "warn_s", "sbatch"}
    assert {field.name for field in dataclasses.fields(slurm())} == options_ | {"setup", "requeues"}


def test_what_is_null_is_left_to_the_cluster(on):
    assert set(asked(on())) == ALWAYS


def test_a_run_is_one_task_of_each_node_and_may_be_begun_again(on):
    found = asked(on(gpus=4, nodes=2))
    assert (found["nodes"], found["ntasks-per-node"], found["requeue"]) == (2, 1, True)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_that_is_shipped_asks_for_its_kind_in_its_partition(on, name):
    found = asked(on(name, gpus=2))
    assert found["gres"] == f"{on(name).hardware.slurm.gres}:2"
    assert re.fullmatch(r"gpu:\w+:2", found["gres"])
    assert found["partition"]
    assert (CONF / "hardware" / f"{name}.yaml").read_text().count("partition:") == 1


@pytest.mark.parametrize(("gpus", "workers", "cpus"), [(1, 0, 1), (1, 4, 5), (4, 2, 12)])
def test_cores_that_nobody_set_are_those_of_the_processes_and_their_loaders(on, gpus, workers, cpus):
    assert asked(on(gpus=gpus, workers=workers))["cpus-per-task"] == cpus


def test_an_option_of_the_user_is_given_as_it_was_typed(on):
    typed = ["--exclusive", "--exclude=node7,node8", "--comment=a=b", "--mail-type=END"]
    found = asked(on(asked={"sbatch": typed}))
    assert (found["exclusive"], found["exclude"], found["comment"]) == (True, "node7,node8", "a=b")


@pytest.mark.parametrize(
    ("time", "warn_s", "signal"),
    [
        (None, 120, "USR2@120"),
        ("1-00:00:00", 120, "USR2@120"),
        ("00:04:00", 120, "USR2@120"),
        ("00:03:00", 120, "USR2@90"),  # half of the time is for training
        ("00:00:30", 120, "USR2@15"),
    ],
)
def test_a_run_is_warned_of_its_end_but_not_before_half_of_its_time(on, time, warn_s, signal):
    assert asked(on(asked={"time": time, "warn_s": warn_s}))["signal"] == signal


# memory, in MB: of what GB are, SLURM and its nodes have two opinions


@given(st.floats(0, 4096))
def test_the_memory_is_the_plan_and_some_more_in_whole_steps(on, host_gib):
    mem_mb = int(asked(on(), host_gib)["mem"].removesuffix("M"))
    need = host_gib * 1024 * SPARE + SPARE_MB
    assert mem_mb % STEP_MB == 0
    assert need <= mem_mb < need + STEP_MB


def test_what_the_user_set_is_asked_for_to_the_megabyte(on):
    assert asked(on(asked={"mem_mb": 48_001}), host_gib=100)["mem"] == "48001M"


def test_what_another_attempt_needs_is_asked_for_before_all_else(on):
    assert asked(on(asked={"mem_mb": 1000}), mem_mb=1500)["mem"] == "1500M"


# of any hardware


WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True)
HARDWARE = st.fixed_dictionaries(
    {"gpus": st.integers(1, 16), "nodes": st.integers(1, 64), "cpus": st.none() | st.integers(1, 256)}
)
ASKED = st.fixed_dictionaries(
    {
        "partition": st.none() | WORDS,
        "gres": st.none() | WORDS.map("gpu:{}".format),
        "constraint": st.none() | WORDS,
        "account": st.none() | WORDS,
        "qos": st.none() | WORDS,
        "mem_mb": st.none() | st.integers(1, 10**7),
        "time": st.none() | st.integers(1, 999).map("{}:00:00".format),
        "warn_s": st.integers(1, 10_000),
        "sbatch": st.lists(WORDS.map("--x-{}".format), max_size=2),
    }
)


@given(HARDWARE, ASKED, st.floats(0, 1000))
def test_whatever_is_asked_for_is_asked_for_in_words_that_sbatch_reads(on, hardware, asked_, host_gib):
    found = options_of(on(**hardware, asked=asked_), host_gib)
    assert all(re.fullmatch(r"[a-z][a-z0-9_-]*", name) for name in found)
    assert all(value is True or str(value) == str(value).strip() != "" for value in found.values())
    assert None not in found.values()
    assert set(found) >= ALWAYS
    assert {key for key in ("partition", "gres", "constraint", "account", "qos", "time") if key in found} == {
        key for key in ("partition", "gres", "constraint", "account", "qos", "time") if asked_[key] is not None
    }
    assert re.fullmatch(r"[1-9]\d*M", found["mem"])
    warned = int(found["signal"].removeprefix("USR2@"))
    assert 0 <= warned <= asked_["warn_s"]
    if asked_["time"] is not None:
        assert TIME.fullmatch(found["time"])
        assert warned <= slurm(time=asked_["time"]).seconds / 2
    assert found["nodes"] * hardware["gpus"] == on(**hardware).hardware.devices
    if asked_["gres"]:
        assert found["gres"] == f"{asked_['gres']}:{hardware['gpus']}"
    if asked_["mem_mb"] is None:
        assert int(found["mem"][:-1]) >= math.ceil(host_gib * 1024)


# one array for what asks for the same


def request(number, config, host_gib=1.0, mem_mb=None):
    return Request(
        job=Job(number=number, name="", overrides=[], folder=str(number)),
        config=config,
        host_gib=host_gib,
        mem_mb=mem_mb,
    )


def numbers(requests):
    return [[one.job.number for one in group] for _, _, group in grouped(requests)]


def test_jobs_that_ask_for_the_same_are_one_array_in_their_order(on):
    kinds = [on("v100"), on("a100_80"), on("v100"), on("rtx3090"), on("a100_80")]
    assert numbers([request(n, config) for n, config in enumerate(kinds)]) == [[0, 2], [1, 4], [3]]


def test_what_a_group_asks_for_is_what_each_of_its_jobs_does(on):
    config = on("v100", asked={"setup": ["module load cuda"]})
    ((found, setup, group),) = grouped([request(0, config), request(1, config)])
    assert (found, setup) == (options_of(config, 1.0), ["module load cuda"])
    assert len(group) == 2


@pytest.mark.parametrize(
    "asked_",
    [
        {"time": "1:00:00"},
        {"mem_mb": 5000},
        {"setup": ["true"]},
        {"sbatch": ["--exclusive"]},
        {"constraint": "vram32"},
        {"warn_s": 60},
    ],
)
def test_whatever_differs_in_what_is_asked_for_is_another_array(on, asked_):
    assert numbers([request(0, on("v100")), request(1, on("v100", asked=asked_))]) == [[0], [1]]


def test_plans_that_take_about_the_same_of_the_host_are_one_array(on):
    assert numbers([request(0, on(), 1.0), request(1, on(), 1.02)]) == [[0, 1]]
    assert numbers([request(0, on(), 1.0), request(1, on(), 2.0)]) == [[0], [1]]
    assert numbers([request(0, on(), 1.0), request(1, on(), 1.0, mem_mb=9000)]) == [[0], [1]]


def test_how_often_a_run_may_go_on_is_not_asked_of_slurm(on):
    """The run counts itself."""
    assert numbers([request(0, on()), request(1, on(asked={"requeues": 0}))]) == [[0, 1]]
