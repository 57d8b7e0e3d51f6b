"""Every rule of what EEG brought with it: what it says, that its remedy works, and that its limit is not too low.

What is refused is refused the way of the command line; each line is on top of a system that is accepted.
"""

import functools
import importlib.util
import re

import pytest

from vibench.config.data import PreprocessingConfig
from vibench.config.setting import missing_packages
from vibench.config.task import SeizureDetectionConfig
from vibench.data.eeg.preprocessing import Preprocessing
from vibench.errors import ConfigError, DataError

SYSTEM = "data=demo_eeg task=seizure_detection embedding=tcn backbone=bimamba_gnn hardware=cpu"
PRE = "data.preprocessing"

# command line, the whole complaint
REFUSED = {
    f"{PRE}.channels=[] {PRE}.interpolate=[]": f"{PRE}.channels is empty; use e.g. [Fp1,F3,C3]",
    f"{PRE}.channels=[Fz,Cz,Fz,Cz] {PRE}.interpolate=[]": f"{PRE}.channels names Cz, Fz twice; name each once",
    f"{PRE}.channels=[Fz,Cz]": (f"{PRE}.interpolate names Pz, which is not in {PRE}.channels; name only those"),
    f"{PRE}.high_hz=32": (
        f"{PRE}.high_hz=32 is not below half of {PRE}.rate_hz=64; use {PRE}.high_hz<32, null, or a higher rate"
    ),
    f"{PRE}.low_hz=40 {PRE}.high_hz=null": (
        f"{PRE}.low_hz=40 is not below half of {PRE}.rate_hz=64; use {PRE}.low_hz<32, null, or a higher rate"
    ),
    f"{PRE}.low_hz=30": (
        f"{PRE}.low_hz=30 is not below {PRE}.high_hz=30, so nothing would be kept; use {PRE}.low_hz<30"
    ),
    f"{PRE}.notch_hz=50": (
        f"{PRE}.notch_hz=50 is not between 1 Hz and 1 Hz below half of {PRE}.rate_hz=64, where a notch has room; "
        f"use {PRE}.notch_hz=null or {PRE}.rate_hz>102"
    ),
    f"{PRE}.notch_hz=31": (
        f"{PRE}.notch_hz=31 is not between 1 Hz and 1 Hz below half of {PRE}.rate_hz=64, where a notch has room; "
        f"use {PRE}.notch_hz=null or {PRE}.rate_hz>64"
    ),
    f"{PRE}.notch_hz=1": (
        f"{PRE}.notch_hz=1 is not between 1 Hz and 1 Hz below half of {PRE}.rate_hz=64, where a notch has room; "
        f"use {PRE}.notch_hz=null"
    ),
    f"{PRE}.rate_hz=0": f"{PRE}.rate_hz=0.0 is out of range: sampling rate of the store in Hz; use a value above 0",
    f"{PRE}.max_gap_s=-1": (
        f"{PRE}.max_gap_s=-1.0 is out of range: seconds without a number that are filled in; a longer gap refuses the "
        "file; use a value at least 0"
    ),
    "data.stride=1921": (
        "data.stride=1921 exceeds data.window=1920, so samples between windows would never be scored; use "
        "data.stride<=1920"
    ),
    "data.clip=0": (
        "data.clip=0.0 is out of range: samples farther than this from the mean, in normalised units, are cut off; "
        "use a value above 0"
    ),
    "data.record_s=180.5": (
        "data.record_s=180.5 is no whole number, and a data record of a file is a second; use data.record_s=180"
    ),
    "data.raw_rate_hz=250.7": (
        "data.raw_rate_hz=250.7 is no whole number, and it has whole samples; use data.raw_rate_hz=251"
    ),
    "data.patients=2": "data.patients=2 is out of range: patients; use a value at least 3",
    "backbone.head_dim=7": (
        "backbone.expand=2 x backbone.node_width=64 is not divisible by backbone.head_dim=7; use backbone.head_dim=1"
    ),
    "backbone.edge_head_dim=12": (
        "backbone.expand=2 x backbone.edge_width=16 is not divisible by backbone.edge_head_dim=12; "
        "use backbone.edge_head_dim=4"
    ),
    "backbone.top_k=19": ("backbone.top_k=19 exceeds the 18 others of backbone.n_nodes=19; use backbone.top_k<=18"),
    "backbone.encoding=eigenvectors backbone.encoding_dim=19": (
        "backbone.encoding_dim=19 exceeds the 18 eigenvectors of backbone.n_nodes=19 that are not constant; "
        "use backbone.encoding_dim<=18"
    ),
    "backbone.encoding=static backbone.n_nodes=8": (
        "backbone.encoding=static is of the 19 electrodes of the 10-20 system, backbone.n_nodes=8; "
        "use backbone.n_nodes=19 or backbone.encoding=heat"
    ),
    "backbone.encoding_every=121": (
        "backbone.encoding_every=121 exceeds the 120 tokens of the embedding; use backbone.encoding_every<=120"
    ),
    "embedding.channels=[]": ("embedding.channels is empty, so there is no convolution; use e.g. [64,128,256,512]"),
    f"embedding.channels={[8] * 21}".replace(" ", ""): (
        "embedding.channels names 21 convolutions, of which the last would reach 2 ** 20 samples from tap to tap; "
        "use 1 to 20, e.g. [64,128,256,512]"
    ),
    "embedding.kernel=6": (
        "embedding.kernel=6 is even, so tokens would shift by half a sample; use embedding.kernel=7"
    ),
    "embedding.stride=18": (
        "embedding.stride=18 does not divide data.window=1920, so the last samples would never be seen; "
        "use embedding.stride=16 or a window of 1908"
    ),
    "training.monitor=seizure_detection/sensitivity_10.0fa": (
        "training.monitor=seizure_detection/sensitivity_10.0fa is produced by no enabled task; "
        "did you mean seizure_detection/sensitivity_10fa?"
    ),
    "task.seizure_detection.off_ratio=1.1": (
        "task.seizure_detection.off_ratio=1.1 is out of range: probability that ends a seizure, as a share of the one "
        "that begins it; use a value above 0 and at most 1"
    ),
}
ACCEPTED = [
    f"{PRE}.high_hz=31.9",
    f"{PRE}.notch_hz=30.9 {PRE}.high_hz=null",
    f"{PRE}.notch_hz=1.1",
    f"{PRE}.low_hz=null {PRE}.high_hz=null",
    f"{PRE}.max_gap_s=0",
    "data.stride=1920",
    "data.clip=null",
    "data.record_s=120",
    "data.ictal_per_partial=0 data.background_per_partial=null",
    "backbone.head_dim=128 backbone.edge_head_dim=32",
    "backbone.top_k=18",
    "backbone.encoding=eigenvectors backbone.encoding_dim=18",
    "backbone.encoding=heat backbone.encoding_dim=40 backbone.n_nodes=8",
    "backbone.encoding_every=120",
    "embedding.channels=[4]",
    f"embedding.channels={[4] * 20}".replace(" ", ""),
    "embedding.stride=1920 backbone.encoding_every=1",
    "task.seizure_detection.off_ratio=1",
]


@pytest.fixture(scope="module")
def refusal(resolved):
    """The one complaint about a command line, composed once for all tests."""

    @functools.cache
    def call(line: str) -> str:
        with pytest.raises(ConfigError, match=r"; (use|name|did) ") as caught:
            resolved(*SYSTEM.split(), *line.split())
        (complaint,) = caught.value.complaints
        return complaint

    return call


def test_the_system_itself_is_accepted(resolved):
    """Else every refusal below could be for another reason."""
    resolved(*SYSTEM.split())


@pytest.mark.parametrize("line", REFUSED)
def test_a_broken_rule_is_named_with_its_value_its_limit_and_a_remedy(refusal, line):
    assert refusal(line) == REFUSED[line]


@pytest.mark.parametrize("line", ACCEPTED)
def test_what_is_just_within_a_rule_is_accepted(resolved, line):
    resolved(*SYSTEM.split(), *line.split())


def remedies(said):
    """KEY=VALUE of a complaint; KEY<=VALUE at its limit, KEY<VALUE and KEY>VALUE just within."""
    for key, how, text in re.findall(r"([a-z_.]+)(<=|>=|[<>=])([\d.]+|null|heat)", said.rpartition("; use ")[2]):
        yield key, text if how[-1] == "=" else float(text) + {"<": -0.01, ">": 0.01}[how]
    if (match := re.search(r"use ([a-z_.]+)<\S+, null", said)) is not None:
        yield match[1], "null"


NUMBERED = [line for line, said in REFUSED.items() if re.search(r"; use [a-z_.]+[<>=]", said)]


@pytest.mark.parametrize("line", NUMBERED)
def test_every_remedy_is_accepted(refusal, resolved, line):
    found = list(remedies(refusal(line)))
    assert found
    for key, value in found:
        resolved(*SYSTEM.split(), *line.split(), f"{key}={value}")


def test_the_window_that_is_recommended_for_a_stride_is_accepted(refusal, resolved):
    window = re.search(r"a window of (\d+)", refusal("embedding.stride=18"))[1]
    resolved(*SYSTEM.split(), "embedding.stride=18", f"data.window={window}")


@pytest.mark.parametrize("line", [line for line, said in REFUSED.items() if "e.g. " in said])
def test_the_example_that_is_recommended_is_accepted(refusal, resolved, line):
    example = re.search(r"e\.g\. (\[.*\])$", refusal(line))[1]
    key = line.split("=")[0]
    resolved(*SYSTEM.split(), *line.split(), f"{key}={example}")


def test_the_metric_that_is_meant_is_accepted(refusal, resolved):
    said = refusal("training.monitor=seizure_detection/sensitivity_10.0fa")
    resolved(*SYSTEM.split(), f"training.monitor={re.search(r'did you mean (.*)[?]', said)[1]}")


@pytest.mark.parametrize("metric", SeizureDetectionConfig.METRICS)
def test_every_metric_can_be_monitored(resolved, metric):
    resolved(*SYSTEM.split(), f"training.monitor=seizure_detection/{metric}")


@pytest.mark.parametrize("low", [None, 0.5, 15.0])
@pytest.mark.parametrize("high", [None, 16.0, 31.9, 32.0])
@pytest.mark.parametrize("notch", [None, 1.0, 1.1, 16.0, 30.9, 31.0, 31.5])
def test_what_is_accepted_of_a_filter_can_be_made_and_what_cannot_be_made_is_refused(low, high, notch):
    values = {"rate_hz": 64.0, "low_hz": low, "high_hz": high, "notch_hz": notch, "max_gap_s": 1.0}
    said = list(PreprocessingConfig(channels=["Fz"], interpolate=[], **values).complaints())
    try:
        Preprocessing(**values)
    except DataError:
        made = False
    else:
        made = True
    assert made == (said == [])


def test_a_store_that_is_not_there_is_refused_with_the_command_that_makes_it(resolved):
    with pytest.raises(
        ConfigError, match=r"data\.store=absent\.h5 does not exist; make it with `vibench-data prepare eeg raw=DIR`"
    ):
        resolved("data=eeg", "task=seizure_detection", "data.store=absent.h5")


def test_kernels_that_are_not_installed_are_refused_before_a_run_needs_them(resolved):
    if importlib.util.find_spec("mamba_ssm"):
        pytest.skip("mamba_ssm is installed")
    with pytest.raises(
        ConfigError, match=r"scan=mamba_ssm needs the package mamba_ssm; run `pip install vibench\[mamba\]`"
    ):
        resolved(*SYSTEM.split(), "backbone.scan=mamba_ssm")


@pytest.mark.parametrize(
    ("packages", "told"),
    [
        (("yaml",), []),
        (("no_such_a", "yaml"), ["KEY=1 needs the package no_such_a; run `pip install vibench[extra]`"]),
        (
            ("no_such_a", "no_such_b"),
            ["KEY=1 needs the packages no_such_a and no_such_b; run `pip install vibench[extra]`"],
        ),
    ],
)
def test_packages_that_are_not_there_are_named_with_the_extra_that_brings_them(packages, told):
    assert list(missing_packages("KEY=1", "extra", *packages)) == told


def test_scoring_and_the_corpus_ask_for_what_they_need(monkeypatch, resolved):
    """Before anything is written or trained."""
    find = importlib.util.find_spec
    gone = {"timescoring", "edfio"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else find(name, *rest))
    with pytest.raises(ConfigError) as refused:
        resolved(*SYSTEM.split())
    assert refused.value.complaints == [
        "task.seizure_detection needs the package timescoring; run `pip install vibench[eeg]`",
        "data=demo_eeg needs the package edfio; run `pip install vibench[eeg]`",
    ]


def test_every_broken_rule_of_one_command_line_is_told_at_once(resolved):
    wrong = [f"{PRE}.low_hz=30", f"{PRE}.notch_hz=50", "data.stride=1921", "backbone.top_k=19", "embedding.kernel=6"]
    with pytest.raises(ConfigError, match="; use ") as caught:
        resolved(*SYSTEM.split(), *wrong)
    assert sorted(caught.value.complaints) == sorted(REFUSED[line] for line in wrong)


# what is shipped


@pytest.mark.parametrize("name", ["seizure_v3", "seizure_v3_a100"])
def test_the_shipped_system_has_the_sizes_of_the_public_one(composed, name):
    cfg = composed(f"experiment={name}")
    rate_hz = cfg.data.preprocessing.rate_hz
    assert (cfg.data.window / rate_hz, cfg.data.stride / rate_hz, rate_hz) == (60, 10, 256)
    assert len(cfg.data.preprocessing.channels) == cfg.backbone.n_nodes == cfg.task.seizure_detection.hidden == 19
    assert list(cfg.embedding["channels"]) == [64, 128, 256, 512] * 2
    assert cfg.data.window // cfg.embedding.stride == 960
    assert (cfg.d_model, cfg.backbone.node_width, cfg.backbone.edge_width) == (512, 64, 16)
    assert (cfg.backbone.node_layers, cfg.backbone.edge_layers, cfg.backbone.gnn_layers) == (6, 2, 2)
    assert (cfg.backbone.top_k, cfg.backbone.edge_threshold, cfg.backbone.encoding_every) == (3, 1e-4, 1)
    assert (cfg.data.preprocessing.low_hz, cfg.data.preprocessing.high_hz, cfg.data.clip) == (0.5, 120, 10)
    assert (cfg.data.ictal_per_partial, cfg.data.background_per_partial) == (0.3, 2.5)


def test_the_shipped_task_has_the_recipe_of_the_public_system(composed):
    task = composed("experiment=seizure_v3").task.seizure_detection
    assert (task.alpha, task.gamma, task.threshold) == (0.5, 2, 0.86)
    assert task.threshold * task.off_ratio == pytest.approx(0.78, abs=5e-4)
    assert (task.opening, task.closing, task.min_duration_s, task.merge_gap_s) == (11, 31, 3, 2)


def test_the_shipped_system_is_trained_as_the_public_one_with_a_batch_that_did_not_fit(composed):
    cfg = composed("experiment=seizure_v3")
    training = cfg.training
    assert (training.global_batch_size, training.lr, training.clip_norm) == (8, 1e-4, 0.1)
    assert (training.optimizer.name, training.schedule.name) == ("adamw", "cosine")
    assert training.warmup_steps > 1  # whose first step does not run at the full rate
    assert training.monitor.removeprefix("seizure_detection/") in SeizureDetectionConfig.METRICS
    assert cfg.hardware.gpu_memory_gib < 24
