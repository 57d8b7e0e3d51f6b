"""The plan: how a batch is cut, in which arithmetic, and what is refused."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import CONF
from tests.model.batches import SIZES
from vibench.config.training import Optimizer
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
def test_automatic_precision_is_bf16_on_cards_that_have_it(on, hardware, precision):
    assert fit(on(hardware), **SIZES).precision == precision


@pytest.mark.parametrize("hardware", HARDWARE)
def test_automatic_precision_is_one_that_the_hardware_has(on, hardware):
    precision = fit(on(hardware), **SIZES).precision
    assert precision == "fp32" or (precision == "bf16" and on(hardware).hardware.compute_capability >= 8)


@pytest.mark.parametrize(
    ("hardware", "wish"), [("rtx3090", "fp32"), ("rtx3090", "fp16"), ("v100", "fp16"), ("cpu", "bf16")]
)
def test_a_precision_that_was_wished_for_is_kept(on, hardware, wish):
    assert fit(on(hardware, f"training.precision={wish}"), **SIZES).precision == wish


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


def test_the_limit_is_what_is_usable_not_what_the_card_has(config, on):
    """A state of 16 bytes per parameter, held against a card that is a hair too small and one a hair large enough."""
    card = on("rtx3090").hardware
    need = fit(config, **SIZES).state_gib
    size = {step: (step * need + card.context_mib / 1024) / card.usable_share for step in (0.999, 1.001)}
    fits = replace(config, hardware=replace(card, gpu_memory_gib=size[1.001]))
    assert fit(fits, **SIZES).usable_gib == pytest.approx(1.001 * need)
    with pytest.raises(MemoryFitError, match="rtx3090 offers"):
        fit(replace(config, hardware=replace(card, gpu_memory_gib=size[0.999])), **SIZES)


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
@pytest.mark.parametrize("hardware", HARDWARE)
def test_the_foundation_experiments_have_a_plan_on_every_hardware(on, hardware, foundation):
    config = replace(on("cpu", f"experiment=foundation/{foundation}"), hardware=on(hardware).hardware)
    plan = fit(config, **SIZES)
    assert plan.micro_batch * plan.accumulation >= config.training.global_batch_size
    assert plan.parameters > 0


def test_a_plan_is_plain_types(config):
    content = fit(config, **SIZES).as_dict()
    assert {type(value) for value in content.values()} <= {int, float, str, type(None)}
    assert content["micro_batch"] * content["accumulation"] >= config.training.global_batch_size
