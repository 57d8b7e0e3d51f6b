"""Every rule between the sizes of a backbone: what it says, that its remedy works, and that its limit is not too low.

What is refused is refused the way of the command line; what is just within a rule is built and run.
"""

import functools
import re

import pytest
import torch

from tests.model.batches import SIZES, random_batch
from vibench.errors import ConfigError
from vibench.model import build_model


def tokens(n: int) -> str:
    """The embedding that draws any number of tokens from a window of any length."""
    return f"embedding=hse embedding.num_patches={n}"


# command line, the whole complaint
REFUSED = {
    f"backbone=timesnet {tokens(7)} backbone.top_k=4": (
        "backbone.top_k=4 exceeds the 3 frequencies of 7 tokens; use backbone.top_k<=3 or an embedding with more tokens"
    ),
    f"backbone=timesnet {tokens(1)}": (
        "1 token has no period to find; use backbone.period=1 or an embedding with more tokens"
    ),
    f"backbone=fno {tokens(33)} backbone.modes=40": (
        "backbone.modes=40 exceeds the 17 frequencies of 33 tokens; "
        "use backbone.modes<=17 or an embedding with more tokens"
    ),
    "backbone=transformer d_model=65": (
        "d_model=65 is not divisible by backbone.n_heads=4; use d_model=64 or backbone.n_heads=1"
    ),
    "backbone=mamba2 backbone.head_dim=48": (
        "backbone.expand=2 x d_model=64 is not divisible by backbone.head_dim=48; use backbone.head_dim=16"
    ),
    "backbone=resnet1d backbone.kernels=[7,4,3]": (
        "backbone.kernels=[7, 4, 3] holds 4, which is even, so tokens would shift by half a token; use 5"
    ),
    "backbone=resnet1d backbone.kernels=[]": (
        "backbone.kernels is empty, so a block would do nothing; use e.g. [7,5,3]"
    ),
    "backbone=tcn backbone.kernel=1": (
        "backbone.kernel=1 is out of range: tokens under a convolution; use a value at least 2"
    ),
}
PERIODS = [
    f"backbone=timesnet {tokens(31)} backbone.period=40",
    # null is no remedy for these: the default top_k=5 exceeds their frequencies
    f"backbone=timesnet {tokens(6)} backbone.period=40",
    f"backbone=timesnet {tokens(1)} backbone.period=40",
]
ACCEPTED = [
    f"backbone=timesnet {tokens(6)} backbone.top_k=3",
    f"backbone=timesnet {tokens(8)} backbone.top_k=4",
    f"backbone=timesnet {tokens(2)} backbone.top_k=1",
    f"backbone=timesnet {tokens(1)} backbone.period=1",
    f"backbone=timesnet {tokens(6)} backbone.period=6 backbone.top_k=99",  # with a period it counts for nothing
    f"backbone=fno {tokens(32)} backbone.modes=17",
    "backbone=transformer d_model=4 backbone.n_heads=4",
    "backbone=mamba2 d_model=4 backbone.expand=3 backbone.head_dim=12",
    f"backbone=resnet1d backbone.kernels=[99,1] {tokens(2)}",  # longer than the sequence
    f"backbone=tcn backbone.kernel=2 {tokens(1)}",  # the least that the refusal recommends
]


@pytest.fixture(scope="module")
def refusal(resolved):
    """The one complaint about a command line, composed once for all tests."""

    @functools.cache
    def call(line: str) -> str:
        with pytest.raises(ConfigError, match="; use ") as caught:
            resolved(*line.split())
        (complaint,) = caught.value.complaints
        return complaint

    return call


@pytest.mark.parametrize("line", REFUSED)
def test_a_broken_rule_is_named_with_its_limit_and_remedy(refusal, line):
    assert refusal(line) == REFUSED[line]


@pytest.mark.parametrize("line", PERIODS)
def test_a_period_beyond_the_tokens_is_named_with_its_limit(refusal, line):
    said = r"backbone\.period=40 exceeds the (\d+) tokens? of the embedding; use backbone\.period<?=(\d+)\b"
    there, most = re.match(said, refusal(line)).groups()
    assert there == most
    assert f"num_patches={most} " in line


@pytest.mark.parametrize("line", ACCEPTED)
def test_what_is_just_within_a_rule_is_built_and_runs(tiny, line):
    config = tiny(*line.split())
    torch.manual_seed(0)
    predictions = build_model(config, **SIZES)(random_batch(config, 2, missing=0))
    assert all(prediction.isfinite().all() for prediction in predictions.values())


@pytest.mark.parametrize("line", [line for line in REFUSED if "resnet1d" not in line and "tcn" not in line] + PERIODS)
def test_every_remedy_is_accepted(refusal, resolved, line):
    """KEY=VALUE, KEY<=VALUE at its limit, and the ``or null`` after it."""
    remedy = refusal(line).rpartition("; use ")[2]
    settings = re.findall(r"([a-z_.]+)<?=(\w+)", remedy)
    assert settings, remedy
    if remedy.endswith(" or null"):
        settings.append((settings[0][0], "null"))
    for key, value in settings:
        resolved(*line.split(), f"{key}={value}")


@pytest.mark.parametrize("line", [line for line in REFUSED if REFUSED[line].endswith("more tokens")])
def test_more_tokens_are_a_remedy_where_it_says_so(resolved, line):
    resolved(*line.split(), "embedding.num_patches=128")


def test_more_heads_than_features_are_refused_and_as_many_accepted(resolved):
    with pytest.raises(ConfigError, match=r"^d_model=3 is not divisible by backbone\.n_heads=4; use "):
        resolved("backbone=transformer", "d_model=3")
    resolved("backbone=transformer", "d_model=3", "backbone.n_heads=3")


def test_every_even_kernel_is_named_and_the_remedies_together_are_accepted(resolved):
    with pytest.raises(ConfigError, match="holds 4, which is even") as caught:
        resolved("backbone=resnet1d", "backbone.kernels=[8,5,4]")
    remedies = dict(re.search(r"holds (\d+), .*; use (\d+)$", said).groups() for said in caught.value.complaints)
    assert remedies.keys() == {"8", "4"}
    resolved("backbone=resnet1d", f"backbone.kernels=[{remedies['8']},5,{remedies['4']}]")


def test_the_kernels_recommended_for_an_empty_list_are_accepted(refusal, resolved):
    said = refusal("backbone=resnet1d backbone.kernels=[]")
    resolved("backbone=resnet1d", f"backbone.kernels={re.search(r'use e.g. (.*)$', said)[1]}")


def test_no_kernel_out_of_range_is_recommended(resolved):
    with pytest.raises(ConfigError, match=r"backbone\.kernels=-2 is out of range: .* at least 1") as caught:
        resolved("backbone=resnet1d", "backbone.kernels=[-2]")
    assert not [said for said in caught.value.complaints if said.endswith("use -1")]
