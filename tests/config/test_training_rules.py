"""Every rule of what is taken over, frozen, trained when, and hidden: what it says, and that its remedy works.

A line is what would stand on the command line. Its tasks are composed by Hydra, once; its values are put in after it.
"""

import copy
import functools
import re

import pytest
import yaml
from omegaconf import OmegaConf

from vibench.config.resolve import resolve
from vibench.errors import ConfigError

TWO = "~task.signal_prediction ~task.rul_prediction"  # leaves classification and anomaly_detection
ONE = f"{TWO} ~task.anomaly_detection"
PRE = "task=masked_reconstruction"
MASK = "task.masked_reconstruction"
SEQUENTIAL = "training.task_order=sequential"
FIRST, LAST = "task.classification.first_epoch", "task.classification.last_epoch"

# command line, how the complaint begins, what else it says; {source} is a file that is there
REFUSED = {
    "training.init_parts=[embeding]": (
        "training.init_parts names embeding, ",
        "there are embedding, backbone, tasks",
    ),
    "training.freeze=[head]": (
        "training.freeze names head, ",
        "there are embedding, backbone",
    ),
    "training.init_from={source} training.init_parts=[tasks] training.freeze=[tasks]": (
        "training.freeze names tasks, ",
        "there are embedding, backbone",
    ),
    "training.init_from={source} training.init_parts=[]": (
        "training.init_parts is empty, ",
        "; use [embedding,backbone]",
    ),
    "training.freeze=[backbone]": (
        "training.freeze names backbone, but its weights would be random",
        "set training.init_from",
    ),
    "training.init_from={source} training.init_parts=[backbone] training.freeze=[embedding]": (
        "training.freeze names embedding, but its weights would be random",
        "add embedding to training.init_parts",
    ),
    f"{SEQUENTIAL} training.epochs=3": (
        "training.task_order=sequential needs an epoch for each of the 4 tasks, there are training.epochs=3",
        "; use training.epochs>=4",
    ),
    f"training.epochs=3 {FIRST}=4": (
        f"{FIRST}=4 exceeds training.epochs=3",
        f"; use {FIRST}<=3 or more epochs",
    ),
    f"{FIRST}=4 {LAST}=3": (
        f"{LAST}=3 is before {FIRST}=4",
        f"; use {LAST}>=4 or null",
    ),
    f"{SEQUENTIAL} {FIRST}=2": (f"{FIRST} and last_epoch say when classification is trained", SEQUENTIAL),
    f"{SEQUENTIAL} {LAST}=2": (f"{FIRST} and last_epoch say when classification is trained", SEQUENTIAL),
    f"{PRE} {MASK}.mask_len=100": (
        f"{MASK}.mask_len=100 does not divide data.window=1024",
        f"; use {MASK}.mask_len=64 or a window of 1000",
    ),
    f"{PRE} {MASK}.mask_ratio=0.02": (
        f"{MASK}.mask_ratio=0.02 hides none of the 16 stretches of {MASK}.mask_len=64 samples",
        f"; use {MASK}.mask_len=32 or another ratio",
    ),
    f"{PRE} {MASK}.mask_ratio=0.99": (
        f"{MASK}.mask_ratio=0.99 hides all of the 16 stretches of {MASK}.mask_len=64 samples",
        f"; use {MASK}.mask_len=16 or another ratio",
    ),
    "task=rul_prediction data.labels_per_class=4": (
        "data.labels_per_class=4 limits no task: rul_prediction is not learned from classes",
        "data.labels_per_class=null",
    ),
}

# a line of the above, and what its remedy in words comes to
IN_WORDS = [
    ("training.init_parts=[embeding]", "training.init_parts=[embedding,backbone,tasks]"),
    ("training.freeze=[head]", "training.freeze=[embedding,backbone] training.init_from={source}"),
    ("training.init_from={source} training.init_parts=[]", "training.init_parts=[embedding,backbone]"),
    ("training.freeze=[backbone]", "training.init_from={source}"),
    (
        "training.init_from={source} training.init_parts=[backbone] training.freeze=[embedding]",
        "training.init_parts=[backbone,embedding]",
    ),
    (f"training.epochs=3 {FIRST}=4", "training.epochs=4"),
    (f"{FIRST}=4 {LAST}=3", f"{LAST}=null"),
    (f"{SEQUENTIAL} {FIRST}=2", f"{FIRST}=1"),
    (f"{SEQUENTIAL} {FIRST}=2", "training.task_order=joint"),
    (f"{SEQUENTIAL} {LAST}=2", f"{LAST}=null"),
    (f"{PRE} {MASK}.mask_len=100", "data.window=1000"),
    (f"{PRE} {MASK}.mask_ratio=0.02", f"{MASK}.mask_ratio=0.1"),
    (f"{PRE} {MASK}.mask_ratio=0.02", f"{MASK}.mask_len=16"),
    (f"{PRE} {MASK}.mask_ratio=0.99", f"{MASK}.mask_len=8"),
]

# command line, the epoch without any task, and what its remedies come to
IDLE = {
    f"{ONE} training.epochs=4 {LAST}=2": (3, [f"{LAST}=4", "training.epochs=2"]),
    f"{ONE} {FIRST}=2": (1, [f"{FIRST}=1"]),
    f"{TWO} {LAST}=2 task.anomaly_detection.first_epoch=4": (
        3,
        [f"{LAST}=3", "task.anomaly_detection.first_epoch=3"],
    ),
}

ACCEPTED = [
    f"{SEQUENTIAL} training.epochs=4",
    f"training.epochs=3 {FIRST}=3 {LAST}=3",
    f"training.epochs=3 {LAST}=9",  # beyond the end: to the end
    f"{TWO} {LAST}=3 task.anomaly_detection.first_epoch=4",
    f"training.task_order=alternating {FIRST}=2",
    "training.init_parts=[]",  # of nothing
    "training.init_from={source} training.init_parts=[tasks]",
    "training.init_from={source} training.freeze=[backbone,embedding]",
    f"{PRE} {MASK}.mask_len=512",
    f"{PRE} {MASK}.mask_ratio=0.04",  # of 16: rounds to one
    f"{PRE} {MASK}.mask_ratio=0.96",  # to fifteen
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """What is there is asked of its path alone, until the run begins."""
    path = tmp_path_factory.mktemp("source") / "last.ckpt"
    path.touch()
    return path


@pytest.fixture(scope="module")
def accepted(composed, source):
    """Compose and check a line."""
    base = functools.cache(composed)

    def call(line):
        words = line.format(source=source).split()
        tasks = [word for word in words if word.startswith(("~", "task="))]
        cfg = copy.deepcopy(base(*tasks))
        for word in words:
            if word not in tasks:
                key, _, text = word.partition("=")
                OmegaConf.update(cfg, key, yaml.safe_load(text))
        return resolve(cfg)

    return call


@pytest.fixture(scope="module")
def refusal(accepted):
    """The one complaint about a command line, composed once for all tests."""

    @functools.cache
    def call(line, match="."):
        with pytest.raises(ConfigError, match=match) as caught:
            accepted(line)
        (complaint,) = caught.value.complaints
        return complaint

    return call


def remedies(said):
    """What a complaint recommends to type: alternatives, each of one KEY=VALUE or more, a KEY<=VALUE at its limit."""
    found = []
    for alternative in said.rpartition("; ")[2].split(" or "):
        pairs, group = [], ""
        for key, value in re.findall(r"([a-z_][a-z_.]*)[<>]?=(\w+)", alternative):
            group = key.rpartition(".")[0] or group  # of "task.a.first_epoch=1 and last_epoch=2": they share it
            pairs.append(f"{group}.{key.rpartition('.')[2]}={value}")
        if pairs:
            found.append(" ".join(pairs))
    return found


@pytest.mark.parametrize("line", REFUSED)
def test_a_broken_rule_is_named_with_its_limit_and_remedy(refusal, line):
    beginning, rest = REFUSED[line]
    said = refusal(line)
    assert said.startswith(beginning)
    assert rest in said.removeprefix(beginning)


TYPED = [line for line, (_, rest) in REFUSED.items() if "=" in rest]


@pytest.mark.parametrize("line", TYPED)
def test_every_remedy_that_can_be_typed_is_accepted(refusal, accepted, line):
    typed = remedies(refusal(line))
    assert typed
    for remedy in typed:
        accepted(f"{line} {remedy}")


@pytest.mark.parametrize(("line", "remedy"), IN_WORDS)
def test_every_remedy_in_words_is_accepted(accepted, line, remedy):
    assert line in REFUSED
    accepted(f"{line} {remedy}")


@pytest.mark.parametrize("line", ACCEPTED)
def test_what_is_just_within_a_rule_is_accepted(accepted, line):
    accepted(line)


@pytest.mark.parametrize("line", IDLE)
def test_an_epoch_without_any_task_is_named(refusal, line):
    epoch, _ = IDLE[line]
    assert refusal(line).startswith(f"no task is trained in epoch {epoch} of training.epochs=")


@pytest.mark.parametrize(("line", "remedy"), [(line, remedy) for line, (_, all_) in IDLE.items() for remedy in all_])
def test_a_task_in_every_epoch_is_accepted(accepted, line, remedy):
    accepted(f"{line} {remedy}")


@pytest.mark.parametrize("line", IDLE)
def test_fewer_epochs_are_a_remedy_where_it_says_so(refusal, accepted, line):
    """Only at the end of the training: there is no fewer than the first, and a task that comes later never would."""
    epoch, _ = IDLE[line]
    said = refusal(line)
    assert ("training.epochs=2" in IDLE[line][1]) == ("fewer epochs" in said), said
    if "fewer epochs" in said:
        accepted(f"{line} training.epochs={epoch - 1}")


def test_every_unknown_part_is_named(accepted):
    with pytest.raises(ConfigError, match="init_parts names a, ") as caught:
        accepted("training.init_parts=[a,backbone,b] training.freeze=[c]")
    assert [said.split(",")[0] for said in caught.value.complaints] == [
        "training.init_parts names a",
        "training.init_parts names b",
        "training.freeze names c",
    ]


def test_every_task_with_a_broken_schedule_is_named(accepted):
    with pytest.raises(ConfigError, match="classification") as caught:
        accepted(f"{FIRST}=9 task.rul_prediction.first_epoch=3 task.rul_prediction.last_epoch=2")
    assert [said.split("=")[0] for said in caught.value.complaints] == [FIRST, "task.rul_prediction.last_epoch"]


def test_a_part_that_is_frozen_without_a_source_is_told_all_that_is_missing(refusal, accepted):
    """Else the first remedy only leads to the next complaint."""
    line = "training.init_parts=[backbone] training.freeze=[embedding]"
    said = refusal(line, "training.freeze names embedding")
    assert "training.init_from" in said
    assert "training.init_parts" in said
    accepted(f"{line} training.init_from={{source}} training.init_parts=[backbone,embedding]")


@pytest.mark.parametrize("length", [700, 1024, 2000])
def test_a_stretch_as_long_as_the_window_is_no_remedy(refusal, accepted, length):
    """Of one stretch, all or nothing would be hidden."""
    line = f"{PRE} {MASK}.mask_len={length}"
    said = refusal(line)
    if window := re.search(r"window of (\d+)", said):
        accepted(f"{line} data.window={window[1]}")
    for remedy in remedies(said):
        accepted(f"{line} {remedy}")
    accepted(f"{line} {MASK}.mask_len=512")  # there is one to recommend


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (f"{PRE} {MASK}.mask_len=0", f"{MASK}.mask_len=0"),
        (f"{PRE} {MASK}.mask_len=-5", f"{MASK}.mask_len=-5"),
        (f"{PRE} data.window=-5", "data.window=-5"),
        (f"{FIRST}=0", f"{FIRST}=0"),
        (f"{LAST}=-1", f"{LAST}=-1"),
    ],
)
def test_what_is_out_of_range_is_said_to_be_and_is_no_crash(accepted, line, key):
    with pytest.raises(ConfigError, match=f"{key} is out of range"):
        accepted(line)
