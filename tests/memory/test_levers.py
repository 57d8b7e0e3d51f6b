"""What may be tried to make an experiment fit, and in which order."""

import sys
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.own import NEEDS_TORCHAO, hardware, training
from tests.model.batches import SIZES
from vibench.config.hardware import Device
from vibench.config.training import Checkpointing, Optimizer, OptimizerState, Precision, Sharding
from vibench.errors import ConfigError
from vibench.memory.levers import candidates, cuts, parts_of, per_device, precision_of, with_levers
from vibench.model import build_model

KEPT = ["none", "selective", "full"]


@pytest.fixture(scope="module")
def config(small):
    """Blocks, and a card with bf16."""
    return small("rtx3090", "backbone=patchtst")


@pytest.fixture(scope="module")
def model(config):
    with torch.device("meta"):
        return build_model(config, **SIZES)


@pytest.fixture(scope="module")
def blockless(small):
    with torch.device("meta"):
        return build_model(small("rtx3090", "backbone=dlinear", "backbone.moving_average=3"), **SIZES)


def tried(config, model):
    """(state of the optimizer, sharding, what blocks keep), in order."""
    return [(c.optimizer_state, c.sharding, c.checkpointing) for c in candidates(config, model)]


def in_order(states, shardings=("none",), kept=KEPT):
    return [(state, sharding, how) for state, sharding, how in product(states, shardings, kept)]


@NEEDS_TORCHAO
def test_what_blocks_keep_is_tried_first_then_8_bits_then_the_host(config, model):
    assert tried(config, model) == in_order(["device", "int8", "host"])


@NEEDS_TORCHAO
def test_several_cards_share_the_state_before_it_is_rounded_and_never_with_the_host(config, model):
    two = hardware(config, gpus=2)
    assert tried(two, model) == in_order(["device", "int8"], ["none", "full"]) + in_order(["host"])


@NEEDS_TORCHAO
def test_a_backbone_of_many_sequences_is_tried_in_slices_before_anything_is_moved(small):
    config = small("rtx3090", "backbone=bimamba_gnn")
    with torch.device("meta"):
        model = build_model(config, **SIZES)
    assert tried(config, model) == in_order(["device", "int8", "host"], kept=[*KEPT, "sliced"])
    assert tried(training(config, checkpointing=Checkpointing.full), model)[0] == ("device", "none", "full")
    wished = training(config, checkpointing=Checkpointing.sliced)
    assert {how for _, _, how in tried(wished, model)} == {"sliced"}


def test_slices_that_a_run_had_to_go_through_are_asked_for_when_it_goes_on(config):
    assert with_levers(config, {"checkpointing": "sliced"}).training.checkpointing is Checkpointing.sliced


def test_without_torchao_there_are_no_8_bits(config, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    assert tried(config, model) == in_order(["device", "host"])


def test_8_bits_that_were_wished_for_are_refused_without_torchao(config, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    wished = training(config, optimizer_state=OptimizerState.int8)
    with pytest.raises(
        ConfigError, match=r"training\.optimizer_state=int8 needs torchao; pip install 'vibench\[int8\]'"
    ):
        tried(wished, model)


@pytest.mark.parametrize("optimizer", [Optimizer.adam, Optimizer.sgd])
def test_only_adamw_is_rounded_to_8_bits(config, model, optimizer):
    assert tried(training(config, optimizer=optimizer), model) == in_order(["device", "host"])


def test_fp16_keeps_its_state_on_the_device_since_its_losses_are_scaled(config, model):
    half = training(config, precision=Precision.fp16)
    assert tried(half, model) == in_order(["device"])
    assert tried(hardware(half, gpus=2), model) == in_order(["device"])


def test_a_backbone_without_blocks_has_nothing_to_compute_again(config, blockless):
    assert {kept for *_, kept in tried(config, blockless)} == {"none"}


def test_where_there_is_no_card_nothing_is_tried(small, model):
    assert tried(small("cpu", "backbone=patchtst"), model) == [("device", "none", "none")]


@pytest.mark.parametrize("how", [how for how in Checkpointing if how is not Checkpointing.auto])
def test_checkpointing_that_was_wished_for_is_the_only_one(config, model, blockless, how):
    wished = training(config, checkpointing=how)
    assert {kept for *_, kept in tried(wished, model)} == {how.value}
    assert {kept for *_, kept in tried(wished, blockless)} == {how.value}


@pytest.mark.parametrize(
    "state",
    [OptimizerState.device, pytest.param(OptimizerState.int8, marks=NEEDS_TORCHAO), OptimizerState.host],
)
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_place_for_the_state_that_was_wished_for_is_the_only_one(config, model, state, gpus):
    wished = hardware(training(config, optimizer_state=state), gpus=gpus)
    shardings = ["none"] if gpus == 1 or state is OptimizerState.host else ["none", "full"]
    assert tried(wished, model) == in_order([state.value], shardings)


@pytest.mark.parametrize("sharding", [Sharding.none, Sharding.full])
def test_sharding_that_was_wished_for_is_the_only_one(config, model, sharding):
    wished = hardware(training(config, sharding=sharding), gpus=2)
    found = tried(wished, model)
    assert {where for _, where, _ in found} == {sharding.value}
    assert ("host" in {state for state, *_ in found}) == (sharding is Sharding.none)


@pytest.mark.parametrize(
    ("name", "precision"),
    [("cpu", "fp32"), ("local", "fp32"), ("v100", "fp32"), ("rtx3090", "bf16"), ("h100", "bf16")],
)
def test_automatic_precision_is_bf16_on_cards_that_have_it(small, name, precision):
    assert precision_of(small(name)).value == precision


@pytest.mark.parametrize("wish", [wish for wish in Precision if wish is not Precision.auto])
@pytest.mark.parametrize("name", ["cpu", "v100", "rtx3090"])
def test_a_precision_that_was_wished_for_is_kept(small, name, wish):
    assert precision_of(training(small(name), precision=wish)) is wish


def test_every_combination_has_the_one_precision(config, model):
    assert {c.precision for c in candidates(config, model)} == {"bf16"}
    assert config.hardware.device is Device.cuda


@given(batch=st.integers(1, 400), gpus=st.integers(1, 8))
@settings(deadline=None)
def test_a_batch_is_cut_into_even_parts_the_largest_of_which_is_the_whole(config, batch, gpus):
    cut = hardware(training(config, global_batch_size=batch), gpus=gpus)
    sizes, own = cuts(cut), per_device(cut)
    assert own * gpus >= batch > (own - 1) * gpus
    assert sizes == [size for size in range(1, own + 1) if set(map(len, split(own, size))) == {size}]
    assert [parts_of(cut, size) for size in sizes] == [len(split(own, size)) for size in sizes]


def split(windows, size):
    """A batch in parts of that size, the last of them what is left."""
    return [range(windows)[start : start + size] for start in range(0, windows, size)]


@pytest.mark.parametrize(("gpus", "micro", "parts"), [(1, 12, 4), (2, 12, 2), (4, 12, 1), (2, 5, 5)])
def test_a_micro_batch_that_was_wished_for_is_the_only_cut(config, gpus, micro, parts):
    wished = hardware(training(config, global_batch_size=48, micro_batch=str(micro)), gpus=gpus)
    assert cuts(wished) == [micro]
    assert parts_of(wished, micro) == parts


@pytest.mark.parametrize(("gpus", "accumulation", "micro"), [(1, 4, 12), (2, 4, 6), (1, 5, 10), (1, 1, 48), (1, 48, 1)])
def test_parts_that_were_wished_for_are_the_only_cut(config, gpus, accumulation, micro):
    wished = hardware(training(config, global_batch_size=48, accumulation=str(accumulation)), gpus=gpus)
    assert cuts(wished) == [micro]
    assert parts_of(wished, micro) == accumulation
