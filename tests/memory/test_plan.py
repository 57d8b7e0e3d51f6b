"""The plan: how a batch is cut, in which arithmetic, and what is refused."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import CONF, slurm
from tests.memory.own import NEEDS_TORCHAO, hardware, own, training
from tests.model.batches import SIZES
from vibench.config.training import Checkpointing, Optimizer, OptimizerState, Precision, Sharding
from vibench.errors import ConfigError, MemoryFitError, TimeFitError
from vibench.memory.cards import usable
from vibench.memory.plan import GIB, Traces, fit, refit
from vibench.memory.refusal import gib
from vibench.memory.trace import Levers, trace
from vibench.model import build_model
from vibench.step.ranks import BUCKET_BYTES

HARDWARE = sorted(path.stem for path in (CONF / "hardware").glob("*.yaml"))
CARDS = [name for name in HARDWARE if name not in ("cpu", "local")]
FOUNDATION = sorted(
    path.stem for path in (CONF / "experiment" / "foundation").glob("*.yaml") if not path.stem.endswith("_debug")
)
HUGE = ("backbone=patchtst", "d_model=16384", "backbone.d_ff=65536")  # 9.9 billion parameters
WINDOWS = {"train": 100, "val": 30, "test": 20}
PLENTY = 1000.0
STATES = [OptimizerState.device, OptimizerState.int8, OptimizerState.host]


@pytest.fixture(scope="module")
def planned():
    """The plan of an experiment; its traces are made once for each name."""
    traces = cache(lambda name: Traces())
    return lambda name, config, **how: fit(config, **SIZES, traces=traces(name), **how)


@pytest.fixture(scope="module")
def config(tiny):
    """On a CPU, where nothing is traced."""
    return tiny("backbone.e_layers=1")


# the parts of a batch


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


def legal(config, devices=1):
    return not list(config.training.complaints(devices=devices))


@given(wish=wishes(), devices=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_parts_of_all_devices_cover_the_global_batch_and_none_is_empty(config, wish, devices):
    config = hardware(training(config, **wish), gpus=devices)
    if not legal(config, devices):
        return
    plan, batch = fit(config, **SIZES), wish["global_batch_size"]
    assert plan.devices == devices
    assert plan.micro_batch * plan.accumulation * devices >= batch
    assert plan.micro_batch * (plan.accumulation - 1) * devices < batch
    assert 1 <= plan.micro_batch <= batch


@pytest.mark.parametrize("key", ["micro_batch", "accumulation"])
def test_a_number_that_was_wished_for_is_planned_or_refused(config, key):
    changed = []
    for batch in range(1, 9):
        for number in range(1, batch + 1):
            wished = training(config, **{"global_batch_size": batch, key: str(number)})
            if legal(wished) and getattr(fit(wished, **SIZES), key) != number:
                changed.append((batch, number))
    assert changed == []


@pytest.mark.parametrize(("devices", "share"), [(1, 48), (2, 24)])
def test_without_a_wish_the_share_of_a_device_is_whole(config, devices, share):
    plan = fit(hardware(training(config, global_batch_size=48), gpus=devices), **SIZES)
    assert (plan.micro_batch, plan.accumulation) == (share, 1)


@pytest.fixture(scope="module")
def deep(small):
    """Activations that outweigh everything else; 12 ways to cut the batch."""
    deep = small("rtx3090", "backbone.e_layers=2", "data.window=1024", "d_model=64", "training.global_batch_size=60")
    return training(deep, checkpointing=Checkpointing.none, optimizer_state=OptimizerState.device)


def test_the_largest_cut_that_fits_is_planned(planned, deep):
    """Against the slow way: every cut on its own."""
    sizes = [size for size in range(1, 61) if 60 % size == 0]
    peaks = {m: planned("deep", training(deep, micro_batch=str(m)), usable_gib=PLENTY).peak_gib for m in sizes}
    assert len(set(peaks.values())) > 4
    for gib_there in sorted(set(peaks.values())):
        plan = planned("deep", deep, usable_gib=gib_there)
        assert plan.micro_batch == max(m for m, peak in peaks.items() if peak <= gib_there)
        assert (plan.micro_batch * plan.accumulation, plan.peak_gib) == (60, peaks[plan.micro_batch])
    with pytest.raises(MemoryFitError, match="the least that this experiment takes is"):
        planned("deep", deep, usable_gib=0.999 * min(peaks.values()))


def test_a_card_that_offers_just_what_is_needed_is_enough(planned, deep):
    peak = planned("deep", deep, usable_gib=PLENTY).peak_gib
    assert planned("deep", deep, usable_gib=peak).micro_batch == 60
    assert planned("deep", deep, usable_gib=peak - 1e-9).micro_batch < 60


# arithmetic


@pytest.mark.parametrize("name", HARDWARE)
def test_automatic_precision_is_one_that_the_hardware_has(planned, light, name):
    config = light(name)
    precision = planned("light", config).precision
    assert precision == ("bf16" if name in CARDS and config.hardware.compute_capability >= 8 else "fp32")


@pytest.mark.parametrize(
    ("name", "wish"), [("rtx3090", "fp32"), ("rtx3090", "fp16"), ("v100", "fp16"), ("cpu", "bf16")]
)
def test_a_precision_that_was_wished_for_is_kept(planned, light, name, wish):
    assert planned("light", light(name, f"training.precision={wish}")).precision == wish


def test_a_precision_that_was_wished_for_and_that_a_layer_does_not_have_is_refused_by_its_name(planned, small):
    with pytest.raises(
        ConfigError,
        match=r"^Spectral cannot be trained in bf16: Unsupported dtype BFloat16; use training\.precision=fp32$",
    ):
        planned("spectral", own(small("rtx3090", "training.precision=bf16"), "Spectral"))


@pytest.mark.parametrize(
    ("name", "rejected"), [("v100", []), ("h100", ["Spectral cannot be trained in bf16: Unsupported dtype BFloat16"])]
)
def test_automatic_precision_is_fp32_where_a_layer_has_no_other(planned, small, name, rejected):
    plan = planned("spectral", own(small(name), "Spectral"))
    assert (plan.precision, plan.rejected) == ("fp32", rejected)
    assert plan.peak_gib is not None


def test_a_model_without_another_precision_is_refused_for_its_size_in_fp32(planned, small):
    with pytest.raises(MemoryFitError, match=r"the least that this experiment takes is .* \(fp32, checkpointing=none"):
        planned("spectral", own(small("rtx3090"), "Spectral"), usable_gib=0.01)


@pytest.mark.parametrize("name", ["rtx3090", "v100"])
def test_a_model_that_cannot_be_traced_is_planned_by_its_state_alone_and_that_is_said(small, caplog, name):
    plan = fit(own(small(name), "Asks"), **SIZES)
    assert (plan.micro_batch, plan.peak_gib, plan.rejected) == (32, None, [])
    assert "MEMORY IS NOT PREDICTED: the model cannot be traced" in caplog.text


# the state


@pytest.mark.parametrize(("optimizer", "copies"), [(Optimizer.adamw, 4), (Optimizer.adam, 4), (Optimizer.sgd, 3)])
def test_the_state_is_weights_gradients_and_what_the_optimizer_keeps(config, optimizer, copies):
    plan = fit(training(config, optimizer=optimizer), **SIZES)
    assert plan.parameters == sum(p.numel() for p in build_model(config, **SIZES).parameters())
    assert plan.state_gib * GIB == pytest.approx(plan.parameters * 4 * copies)  # fp32 each: 4 bytes


@pytest.mark.parametrize(("state", "copies"), [("device", 4), ("int8", 2 + 2.03 / 4), ("host", 2)])
@pytest.mark.parametrize(("sharding", "parts"), [("none", 1), ("full", 4)])
def test_the_state_is_less_where_it_lies_elsewhere_or_on_several_cards(config, state, copies, sharding, parts):
    placed = training(config, optimizer_state=OptimizerState(state), sharding=Sharding(sharding))
    plan = fit(hardware(placed, gpus=4), **SIZES)
    assert plan.state_gib * GIB == pytest.approx(plan.parameters * 4 * copies / parts)


def test_a_model_whose_state_exceeds_the_card_is_refused_with_its_largest_layer(small):
    layer = r"backbone\.blocks\.0\.feed_forward\.0\.weight \(65536, 16384\)"
    with pytest.raises(
        MemoryFitError,
        match=rf"^rtx3090 offers 19\.7 GiB, .* 9\.\d\d billion .* alone take 7\d\.\d GiB, at any batch size; "
        rf"largest: {layer}; use a smaller d_model=16384",
    ):
        fit(small("rtx3090", *HUGE), **SIZES)


def test_the_timesnet_of_the_bug_report_is_refused_for_its_kernels(resolved):
    """2.4 billion weights and their gradients, even with the optimizer on the host."""
    of_the_report = resolved("hardware=v100", "experiment=foundation/timesnet", "backbone.d_ff=2048")
    with pytest.raises(
        MemoryFitError,
        match=r"v100 offers 13\.8 GiB, .* 2\.40 billion .* 17\.9 GiB, at any batch size; largest: .*kernels\.5",
    ):
        fit(of_the_report, **SIZES)


@pytest.mark.parametrize("name", ["cpu", "local"])
def test_a_large_model_is_not_refused_where_there_is_no_card(small, name):
    plan = fit(small(name, *HUGE), **SIZES)
    assert (plan.usable_gib, plan.peak_gib) == (None, None)


# levers


@pytest.fixture(scope="module")
def wide(small):
    """A model that is most of its memory: 17 million weights in one layer, and eight windows."""
    return own(small("rtx3090", "d_model=4096", "training.global_batch_size=8"), "Wide")


@pytest.fixture(scope="module")
def whole(wide):
    return training(wide, micro_batch="8")


@pytest.fixture(scope="module")
def places(planned, whole):
    """Place of the optimizer's state -> the plan of the whole batch with it."""
    return {state.value: planned("wide", training(whole, optimizer_state=state), usable_gib=PLENTY) for state in STATES}


def why(plan, there):
    """What is said of a plan that does not fit."""
    state = f", optimizer_state={plan.optimizer_state}" if plan.optimizer_state != "device" else ""
    if plan.state_gib > there:
        return f"bf16{state}: weights, gradients and optimizer state alone {gib(plan.state_gib)} GiB"
    return f"bf16, checkpointing=none{state}, micro-batch 8: {gib(plan.peak_gib)} GiB"


@NEEDS_TORCHAO
def test_as_a_card_is_smaller_the_state_is_rounded_then_moved_to_the_host_then_refused(planned, whole, places):
    """Just what a place needs is enough for it; a hair less, and the next one is taken."""
    needs = [plan.peak_gib for plan in places.values()]
    assert needs == sorted(needs, reverse=True)
    for number, (state, peak) in enumerate(zip(places, needs, strict=True)):
        for there in (peak, 0.999 * needs[number - 1]) if number else (peak,):
            plan = planned("wide", whole, usable_gib=there)
            assert (plan.optimizer_state, plan.micro_batch, plan.peak_gib, plan.usable_gib) == (state, 8, peak, there)
            assert plan.rejected == [why(other, there) for other in list(places.values())[:number]]
            assert ("optimizer on the host" in plan.host) == (state == "host")
    there = 0.999 * needs[-1]
    with pytest.raises(MemoryFitError) as refused:
        planned("wide", whole, usable_gib=there)
    assert str(refused.value).endswith(f"; tried: {' | '.join(why(plan, there) for plan in places.values())}")


def test_what_the_places_of_the_state_save_is_what_it_takes(places):
    """Segments grow by 20 MiB; the state is 8 bytes for each weight, in 8 bits 2 and a scale of 4 for 256 of them."""
    peaks, n = {state: plan.peak_gib * GIB for state, plan in places.items()}, places["device"].parameters
    assert peaks["device"] - peaks["host"] == pytest.approx(8 * n, abs=20 * 2**20)
    assert peaks["device"] - peaks["int8"] == pytest.approx((8 - 2 * (1 + 4 / 256)) * n, abs=20 * 2**20)


@NEEDS_TORCHAO
def test_what_cannot_fit_by_its_state_alone_is_not_traced_and_said_once(small):
    """Three ways to keep less in blocks make no difference to it."""
    stack = own(small("rtx3090", "d_model=2048"), "Stack")

    def traces(*args, **sizes):
        raise AssertionError("it was traced")

    with pytest.raises(
        MemoryFitError,
        match=r"rtx3090 offers 0\.1 GiB, but .* of 0\.03 billion parameters alone take 0\.19 GiB, at any batch size; "
        r"largest: backbone\.blocks\.0\.0\.weight \(2048, 2048\); .* tried: "
        r"bf16: weights, gradients and optimizer state alone 0\.38 GiB \| "
        r"bf16, optimizer_state=int8: weights, .* alone 0\.24 GiB \| "
        r"bf16, optimizer_state=host: weights, .* alone 0\.19 GiB$",
    ):
        fit(stack, **SIZES, usable_gib=0.1, traces=traces)
    with pytest.raises(AssertionError, match="it was traced"):
        fit(stack, **SIZES, usable_gib=1.0, traces=traces)


def test_a_refusal_says_what_there_is_what_is_needed_and_who_holds_it(planned, whole, places):
    only, peak = training(whole, optimizer_state=OptimizerState.device), gib(places["device"].peak_gib)
    with pytest.raises(
        MemoryFitError,
        match=rf"^rtx3090 offers 0\.3 GiB, the least that this experiment takes is {peak} GiB "
        r"\(bf16, checkpointing=none, micro-batch 8\): optimizer 0\.\d+ \+ .*parameters 0\.\d+ .* GiB; "
        r"largest: .*; so much is offered by hardware=a100_40, a100_80, .*; tried: ",
    ):
        planned("wide", only, usable_gib=0.3)


def test_a_refusal_names_the_layer_that_holds_most(planned, whole):
    """Weights, gradients and state of one layer, as everything else is a hundredth of it."""
    only = training(whole, precision=Precision.fp32, optimizer_state=OptimizerState.device)
    with pytest.raises(MemoryFitError, match=r"; largest: \w+ of backbone\.layer, 0\.\d+ GiB;"):
        planned("wide", only, usable_gib=0.26)


def test_the_least_that_is_named_is_the_least_of_all_that_was_tried(planned, wide):
    """A batch as a whole has no old gradients beside the new ones, so that a part of it can take more."""
    cuts = [training(wide, micro_batch=size, optimizer_state=state) for state in STATES for size in "1248"]
    least = min(planned("wide", cut, usable_gib=PLENTY).peak_gib for cut in cuts)
    with pytest.raises(MemoryFitError, match=f"the least that this experiment takes is {gib(least)} GiB"):
        planned("wide", wide, usable_gib=0.99 * least)


@pytest.fixture(scope="module")
def blocks(deep):
    """Two blocks of which much is kept; one cut of the batch, and one place for the state."""
    return training(deep, checkpointing=Checkpointing.auto, micro_batch="60")


def test_as_a_card_is_smaller_blocks_keep_less_and_then_the_experiment_is_refused(planned, blocks):
    kept = {
        how.value: planned("deep", training(blocks, checkpointing=how), usable_gib=PLENTY)
        for how in Checkpointing
        if how not in (Checkpointing.auto, Checkpointing.sliced)
    }
    assert [plan.checkpointing for plan in kept.values()] == ["none", "selective", "full"]
    tried = [f"bf16, checkpointing={how}, micro-batch 60: {gib(plan.peak_gib)} GiB" for how, plan in kept.items()]
    for number, (how, plan) in enumerate(kept.items()):
        found = planned("deep", blocks, usable_gib=plan.peak_gib)
        assert (found.micro_batch, found.checkpointing, found.peak_gib) == (60, how, plan.peak_gib)
        assert found.rejected == tried[:number]
    with pytest.raises(MemoryFitError, match=r"\(bf16, checkpointing=full, micro-batch 60\): .*; tried: "):
        planned("deep", blocks, usable_gib=0.999 * kept["full"].peak_gib)


def test_a_whole_batch_is_taken_where_its_parts_would_not_fit(planned, wide, places):
    """They have old gradients beside the new ones; the whole has none."""
    half = planned("wide", training(wide, micro_batch="4", optimizer_state=OptimizerState.device), usable_gib=PLENTY)
    plan = planned("wide", wide, usable_gib=places["device"].peak_gib)
    assert (plan.micro_batch, plan.optimizer_state) == (8, "device")
    assert plan.peak_gib < half.peak_gib


def test_a_batch_is_cut_before_its_blocks_keep_less(planned, blocks):
    free = training(blocks, micro_batch="auto")
    plan = planned("deep", free, usable_gib=0.999 * planned("deep", blocks, usable_gib=PLENTY).peak_gib)
    assert plan.micro_batch < 60
    assert (plan.checkpointing, plan.rejected) == ("none", [])


# cards


def test_two_cards_hold_the_state_in_parts_where_one_cannot_hold_it(planned, small):
    two = hardware(own(small("rtx3090", "d_model=2048", "training.global_batch_size=16"), "Stack"), gpus=2)
    kept = {"checkpointing": Checkpointing.none, "optimizer_state": OptimizerState.device}
    apart = {
        how.value: planned("two", training(two, sharding=how, **kept), usable_gib=PLENTY)
        for how in (Sharding.none, Sharding.full)
    }
    assert apart["none"].state_gib == 2 * apart["full"].state_gib
    assert apart["none"].peak_gib > apart["full"].peak_gib
    for how, plan in apart.items():
        found = planned("two", training(two, **kept), usable_gib=plan.peak_gib)
        assert (found.sharding, found.devices) == (how, 2)
        assert found.micro_batch * found.accumulation * 2 == 16
    assert "sharding=full" not in "".join(found.rejected)
    assert found.rejected[0].startswith("bf16, checkpointing=none, micro-batch 1: ")
    assert apart["full"].components["gathered weights"] > 0


def test_a_second_card_that_holds_everything_needs_no_room_to_sum_large_gradients(planned, wide):
    """They are summed where they are; of the batch, twice as large, each sees as much."""
    one = training(wide, precision=Precision.fp32, optimizer_state=OptimizerState.device)
    two = hardware(training(one, global_batch_size=16, sharding=Sharding.none), gpus=2)
    alone, together = (planned("wide", config, usable_gib=PLENTY) for config in (one, two))
    assert alone.micro_batch == together.micro_batch == 8
    assert (together.peak_gib - alone.peak_gib) * GIB == pytest.approx(0, abs=BUCKET_BYTES / 3)


def test_a_workspace_lies_beside_the_model_and_a_larger_one_from_hopper_on(planned, light):
    plans = {name: planned("light", light(name)) for name in ("rtx3090", "a100_80", "h100")}
    assert plans["rtx3090"].peak_gib == plans["a100_80"].peak_gib
    assert plans["h100"].peak_gib - plans["rtx3090"].peak_gib == pytest.approx((32 - 16.25) / 1024)


def test_cards_whose_kernels_are_alike_share_a_trace(light):
    traces, levers = Traces(), Levers(precision="bf16", checkpointing="none")
    first = traces(trace, light("rtx3090"), levers, **SIZES)
    assert traces(trace, light("h100"), levers, **SIZES) is first
    elsewhere = Levers(precision="bf16", checkpointing="none", optimizer_state="host", sharding="full")
    assert traces(trace, light("rtx3090"), elsewhere, **SIZES) is first
    assert traces(trace, light("v100"), levers, **SIZES) is not first


def test_what_cannot_be_traced_is_tried_once(light):
    tried = []

    def fails(config, levers):
        tried.append(levers)
        raise RuntimeError("it asks for numbers")

    traces, levers = Traces(), Levers(precision="bf16", checkpointing="none")
    for name in ("rtx3090", "h100"):
        with pytest.raises(RuntimeError, match="it asks for numbers"):
            traces(fails, light(name), levers)
    assert tried == [levers]


@pytest.mark.parametrize("foundation", FOUNDATION)
def test_the_foundation_experiments_fit_the_smallest_card_of_the_bug_reports(resolved, foundation):
    config = resolved("hardware=v100", f"experiment=foundation/{foundation}")
    plan = fit(config, **SIZES)
    assert plan.micro_batch * plan.accumulation >= config.training.global_batch_size
    assert plan.peak_gib <= usable(config.hardware) < 14
    assert plan.optimizer_state == "device"


# a card that others use, too


@pytest.fixture(scope="module")
def alone(planned, light):
    config = light("rtx3090", "d_model=64", "training.global_batch_size=256")
    return config, planned("alone", config)


def test_a_plan_that_fits_what_is_free_stays(alone):
    config, plan = alone
    assert refit(config, plan, plan.peak_gib, **SIZES, windows=WINDOWS) is plan


def test_a_plan_for_no_card_stays(config):
    plan = fit(config, **SIZES)
    assert refit(config, plan, 0.0, **SIZES, windows=WINDOWS) is plan


def test_where_less_is_free_the_same_batch_is_cut_smaller_and_that_is_said(alone, caplog):
    config, plan = alone
    assert (plan.micro_batch, plan.accumulation) == (256, 1)
    less = refit(config, plan, 0.8 * plan.peak_gib, **SIZES, windows=WINDOWS)
    assert less.micro_batch < 256
    assert less.micro_batch * less.accumulation == 256
    margin = config.hardware.usable_share  # what is not known of a whole card is not known of a part of it either
    assert less.peak_gib <= 0.8 * plan.peak_gib * margin == pytest.approx(less.usable_gib)
    assert less.step_seconds > 0
    said = f"THE CARD IS SHARED: {gib(0.8 * plan.peak_gib)} GiB are free, the plan needs {gib(plan.peak_gib)}"
    assert said in caplog.text


def test_where_too_little_is_free_the_run_is_refused(alone):
    config, plan = alone
    with pytest.raises(MemoryFitError, match=r"rtx3090 offers 0\.017 GiB, the least that this experiment takes is"):
        refit(config, plan, 0.02, **SIZES, windows=WINDOWS)


# the rest of a plan


@pytest.mark.usefixtures("own_cache")
def test_with_the_windows_of_the_data_its_time_is_estimated(planned, light):
    config = light("rtx3090")
    plan = planned("light", config, windows=WINDOWS)
    steps = config.training.epochs * 4  # of 100 windows, 32 each
    assert steps * plan.step_seconds < plan.run_seconds < 2 * steps * plan.step_seconds
    assert plan.pace is None
    without = planned("light", config)
    assert (without.step_seconds, without.run_seconds) == (None, None)


@pytest.mark.usefixtures("own_cache")
def test_a_run_that_cannot_end_in_its_time_is_refused(planned, light):
    config = hardware(light("rtx3090"), slurm=slurm(time="00:00:01", requeues=0))
    with pytest.raises(TimeFitError, match=r"rtx3090 needs .* hardware\.slurm\.time=00:00:01 ends it before"):
        planned("light", config, windows={"train": 10**9, "test": 0})


def test_on_a_cpu_nothing_is_traced_unless_asked_for(planned, light):
    config = light("cpu")
    plan = planned("light", config)
    assert (plan.peak_gib, plan.components, plan.timeline, plan.checkpointing) == (None, {}, {}, "none")
    assert plan.host["training step"] == plan.state_gib
    traced = planned("light", config, on_cpu=True)
    assert traced.host["training step"] == traced.peak_gib > traced.state_gib
    assert sum(traced.components.values()) == pytest.approx(traced.peak_gib)
    assert traced.usable_gib is None


def test_a_plan_is_plain_types(planned, light):
    for name in ("cpu", "rtx3090"):
        content = planned("light", light(name), windows=WINDOWS).as_dict()
        content["layers"] = [list(row) for row in content["layers"]]
        assert json.loads(json.dumps(content)) == content
        assert content["micro_batch"] * content["accumulation"] >= light(name).training.global_batch_size
