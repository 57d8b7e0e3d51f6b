"""The plan: how a batch is cut, in which arithmetic, and what is refused."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import CONF
from tests.model.batches import SIZES
from vibench.config.backbone import BackboneConfig
from vibench.config.training import Checkpointing, Optimizer
from vibench.errors import MemoryFitError
from vibench.memory.plan import GIB, fit, usable
from vibench.model import build_model

HARDWARE = sorted(path.stem for path in (CONF / "hardware").glob("*.yaml"))
FOUNDATION = sorted(path.stem for path in (CONF / "experiment" / "foundation").glob("*.yaml"))
HUGE = ("backbone=patchtst", "d_model=16384", "backbone.d_ff=65536")  # 9.9 billion parameters


@pytest.fixture(scope="module")
def config(tiny):
    return tiny("backbone.e_layers=1")


@pytest.fixture(scope="module")
def on(resolved):
    """The default experiment on a hardware, with overrides; composed once."""
    return cache(lambda hardware, *overrides: resolved(f"hardware={hardware}", *overrides))


@pytest.fixture(scope="module")
def light(resolved):
    """One task of a small model on a hardware: a trace in a fifth of a second."""
    small = ("backbone=dlinear", "backbone.moving_average=3", "task=classification")
    return cache(lambda hardware, *overrides: resolved(f"hardware={hardware}", *small, *overrides))


def planned(config, **training):
    return fit(replace(config, training=replace(config.training, **training)), **SIZES)


def legal(config, **training):
    return not list(replace(config.training, **training).complaints())


@st.composite
def wishes(draw):
    """A global batch, and a number or auto for its cutting."""
    batch = draw(st.integers(1, 300))
    number = st.integers(1, batch).map(str)
    return {
        "global_batch_size": batch,
        "micro_batch": draw(st.just("auto") | number),
        "accumulation": draw(st.just("auto") | number),
    }


@given(wish=wishes())
@settings(max_examples=40, deadline=None)
def test_the_parts_cover_the_global_batch_and_none_is_empty(config, wish):
    if not legal(config, **wish):
        return
    plan, batch = planned(config, **wish), wish["global_batch_size"]
    assert plan.micro_batch * plan.accumulation >= batch
    assert plan.micro_batch * (plan.accumulation - 1) < batch
    assert 1 <= plan.micro_batch <= batch


@pytest.mark.parametrize("key", ["micro_batch", "accumulation"])
def test_a_number_that_was_wished_for_is_planned_or_refused(config, key):
    changed = []
    for batch in range(1, 9):
        for number in range(1, batch + 1):
            wish = {"global_batch_size": batch, key: str(number)}
            if legal(config, **wish) and getattr(planned(config, **wish), key) != number:
                changed.append(wish)
    assert changed == []


def test_without_a_wish_the_batch_is_whole(config):
    plan = planned(config, global_batch_size=48, micro_batch="auto", accumulation="auto")
    assert (plan.micro_batch, plan.accumulation) == (48, 1)


@pytest.mark.parametrize(
    ("hardware", "precision"),
    [
        ("cpu", "fp32"),
        ("local", "fp32"),
        ("v100", "fp32"),
        ("rtx3090", "bf16"),
        ("rtx4090", "bf16"),
        ("a100_40", "bf16"),
        ("a100_80", "bf16"),
        ("h100", "bf16"),
        ("h200", "bf16"),
    ],
)
def test_automatic_precision_is_bf16_on_cards_that_have_it(light, hardware, precision):
    assert fit(light(hardware), **SIZES).precision == precision


@pytest.mark.parametrize("hardware", HARDWARE)
def test_automatic_precision_is_one_that_the_hardware_has(light, hardware):
    precision = fit(light(hardware), **SIZES).precision
    assert precision == "fp32" or (precision == "bf16" and light(hardware).hardware.compute_capability >= 8)


@pytest.mark.parametrize(
    ("hardware", "wish"), [("rtx3090", "fp32"), ("rtx3090", "fp16"), ("v100", "fp16"), ("cpu", "bf16")]
)
def test_a_precision_that_was_wished_for_is_kept(light, hardware, wish):
    assert fit(light(hardware, f"training.precision={wish}"), **SIZES).precision == wish


@pytest.mark.parametrize(("optimizer", "copies"), [(Optimizer.adamw, 4), (Optimizer.adam, 4), (Optimizer.sgd, 3)])
def test_the_state_is_weights_gradients_and_what_the_optimizer_keeps(config, optimizer, copies):
    plan = planned(config, optimizer=optimizer)
    assert plan.parameters == sum(p.numel() for p in build_model(config, **SIZES).parameters())
    assert plan.state_gib * GIB == pytest.approx(plan.parameters * 4 * copies)  # fp32 each: 4 bytes


def test_a_model_whose_state_exceeds_the_card_is_refused_with_its_largest_layer(on):
    layer = r"backbone\.blocks\.0\.feed_forward\.0\.weight \(65536, 16384\)"
    with pytest.raises(
        MemoryFitError, match=rf"rtx3090 offers 19\.7 GiB, .* 9\.9\d billion .* largest: {layer}; use a smaller d_model"
    ):
        fit(on("rtx3090", *HUGE), **SIZES)


@pytest.mark.parametrize("hardware", ["cpu", "local"])
def test_a_large_model_is_not_refused_where_there_is_no_card(on, hardware):
    assert fit(on(hardware, *HUGE), **SIZES).usable_gib is None


def with_usable(config, card, gib):
    """The experiment on a card that offers just so much."""
    size = (gib + card.context_mib / 1024) / card.usable_share
    return replace(config, hardware=replace(card, gpu_memory_gib=size))


def test_the_state_alone_is_held_against_what_is_usable_not_against_what_the_card_has(config, on):
    """16 bytes per parameter, on a card that is a hair too small, and on one where something else does not fit."""
    card, need = on("rtx3090").hardware, fit(config, **SIZES).state_gib
    with pytest.raises(MemoryFitError, match=r"rtx3090 offers .* parameters alone take"):
        fit(with_usable(config, card, 0.999 * need), **SIZES)
    with pytest.raises(MemoryFitError, match=r"rtx3090 offers .* the least that this experiment takes is"):
        fit(with_usable(config, card, 1.001 * need), **SIZES)


@pytest.fixture(scope="module")
def deep(resolved):
    """Activations that outweigh everything else."""
    small = ("backbone.e_layers=2", "task=classification", "training.global_batch_size=64")
    return resolved("hardware=rtx3090", *small)


def test_a_batch_that_does_not_fit_is_cut_and_the_plan_says_what_it_takes(deep):
    whole = fit(deep, **SIZES)
    assert (whole.micro_batch, whole.accumulation, whole.checkpointing) == (64, 1, "none")
    cut = fit(with_usable(deep, deep.hardware, 0.8 * whole.peak_gib), **SIZES)
    assert cut.micro_batch < 64
    assert cut.micro_batch * cut.accumulation >= 64
    assert cut.peak_gib <= 0.8 * whole.peak_gib
    assert cut.checkpointing == "none"  # the cheaper lever was enough


def test_a_micro_batch_that_was_wished_for_is_kept_and_less_is_kept_of_its_blocks(deep):
    fixed = replace(deep, training=replace(deep.training, micro_batch="64"))
    whole = fit(fixed, **SIZES)
    selective = fit(replace(fixed, training=replace(fixed.training, checkpointing=Checkpointing.selective)), **SIZES)
    assert selective.peak_gib < whole.peak_gib
    plan = fit(with_usable(fixed, deep.hardware, 1.001 * selective.peak_gib), **SIZES)
    assert (plan.micro_batch, plan.checkpointing) == (64, "selective")
    assert plan.rejected == [f"bf16, checkpointing=none, micro-batch 64: {whole.peak_gib:.2g} GiB"]
    full = fit(with_usable(fixed, deep.hardware, 0.999 * selective.peak_gib), **SIZES)
    assert (full.micro_batch, full.checkpointing) == (64, "full")
    assert len(full.rejected) == 2


def test_checkpointing_that_was_wished_for_is_kept(deep):
    for how in Checkpointing:
        if how is not Checkpointing.auto:
            plan = fit(replace(deep, training=replace(deep.training, checkpointing=how)), **SIZES)
            assert plan.checkpointing == how.value


def test_what_does_not_fit_is_refused_with_all_that_was_tried_and_with_what_would_hold_it(deep):
    fixed = replace(deep, training=replace(deep.training, micro_batch="64"))
    with pytest.raises(MemoryFitError) as refused:
        fit(with_usable(fixed, deep.hardware, 0.1 * fit(fixed, **SIZES).peak_gib), **SIZES)
    said = str(refused.value)
    for text in ("the least that this experiment takes is", "checkpointing=full, micro-batch 64", "activations"):
        assert text in said
    for how in ("none", "selective", "full"):
        assert f"tried: bf16, checkpointing={how}" in said or f"| bf16, checkpointing={how}" in said
    assert "it would fit hardware=a100_40, a100_80" in said


def test_on_a_cpu_nothing_is_traced(config):
    plan = fit(config, **SIZES)
    assert (plan.peak_gib, plan.components, plan.checkpointing) == (None, {}, "none")


def test_usable_is_a_share_of_the_card_less_the_context(on):
    card = replace(on("rtx3090").hardware, gpu_memory_gib=20.0, usable_share=0.5, context_mib=512)
    assert usable(card) == pytest.approx(9.5)


@pytest.mark.parametrize("hardware", HARDWARE)
def test_every_card_has_usable_memory_below_its_own(on, hardware):
    card = on(hardware).hardware
    if card.gpu_memory_gib is None:
        assert usable(card) is None
    else:
        assert 0.8 * card.gpu_memory_gib < usable(card) < card.gpu_memory_gib


@pytest.mark.parametrize("foundation", FOUNDATION)
@pytest.mark.parametrize("hardware", ["rtx3090", "v100"])
def test_the_foundation_experiments_fit_the_cards_of_the_bug_reports(on, hardware, foundation):
    config = on(hardware, f"experiment=foundation/{foundation}")
    plan = fit(config, **SIZES)
    assert plan.micro_batch * plan.accumulation >= config.training.global_batch_size
    assert plan.peak_gib < {"rtx3090": 20, "v100": 14}[hardware]


def test_the_timesnet_of_the_bug_report_is_refused_for_its_kernels(on):
    with pytest.raises(MemoryFitError, match=r"2\.40 billion .* 35\.8 GiB, at any batch size; largest: .*kernels\.5"):
        fit(on("rtx3090", "experiment=foundation/timesnet", "backbone.d_ff=2048"), **SIZES)


def test_a_plan_is_plain_types(config):
    content = fit(config, **SIZES).as_dict()
    assert json.loads(json.dumps(content)) == content
    assert content["micro_batch"] * content["accumulation"] >= config.training.global_batch_size


class Asks(nn.Module):
    """A layer of one's own that branches on a number."""

    def __init__(self, *, n_tokens: int, d_model: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(d_model))

    def forward(self, tokens):
        return tokens * self.scale if float(tokens.detach().sum()) > 0 else -tokens


def test_a_model_that_cannot_be_traced_is_planned_by_its_state_alone_and_that_is_said(deep, caplog):
    asks = replace(deep, backbone=BackboneConfig(_target_=f"{__name__}.Asks"))
    plan = fit(asks, **SIZES)
    assert (plan.micro_batch, plan.peak_gib) == (64, None)
    assert "MEMORY IS NOT PREDICTED: the model cannot be traced" in caplog.text
