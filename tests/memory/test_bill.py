"""Who holds the memory at the peak."""

from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.own import own
from tests.model.batches import SIZES
from vibench.memory.bill import GIB, PHASES, POINTS, SHOWN, bill, timeline
from vibench.memory.trace import Levers, live_peak, trace
from vibench.memory.tracker import Block
from vibench.model import build_model

MICRO_BATCH = 3
AUTO = Levers(precision="fp32", checkpointing="none")


@pytest.fixture(scope="module")
def config(small):
    return small("rtx3090", "backbone=patchtst", "backbone.e_layers=1", "backbone.d_ff=512")


@pytest.fixture(scope="module")
def traced(config):
    found = trace(config, AUTO, **SIZES)
    return found.blocks(MICRO_BATCH), found.events(2)


@pytest.fixture(scope="module")
def made(traced):
    return bill(*traced)


def test_the_components_sum_to_the_live_peak(traced, made):
    assert sum(made.components.values()) * GIB == pytest.approx(live_peak(*traced)[0], abs=0.5)


def test_weights_gradients_and_optimizer_take_what_their_number_says(config, made):
    """AdamW, in the second micro-batch of a second step: all of them are there. A counter of steps for each weight."""
    weights = list(build_model(config, **SIZES).parameters())
    n = sum(p.numel() for p in weights)
    assert made.components["parameters"] * GIB == pytest.approx(4 * n)
    assert made.components["gradients"] * GIB == pytest.approx(4 * n)
    assert made.components["optimizer"] * GIB == pytest.approx(8 * n + 4 * len(weights))


def test_components_and_layers_are_largest_first(made):
    sizes = list(made.components.values())
    assert sizes == sorted(sizes, reverse=True)
    rows = [gib for *_, gib in made.layers]
    assert rows == sorted(rows, reverse=True)
    assert len(rows) == SHOWN


def test_a_layer_of_many_activations_is_the_first_row(small):
    """Of 3 channels, 16 windows and every token, 2048 numbers each."""
    wide = small("rtx3090", "backbone=patchtst", "backbone.e_layers=1", "backbone.d_ff=2048", "data.window=1024")
    found = trace(wide, AUTO, **SIZES)
    layer, component, _ = bill(found.blocks(16), found.events(2)).layers[0]
    assert (layer.rpartition(".")[0], component) == ("backbone.blocks.0.feed_forward", "activations")


def test_a_layer_of_many_weights_has_rows_for_them_and_their_gradients(small):
    found = trace(own(small("rtx3090", "d_model=1024"), "Wide"), AUTO, **SIZES)
    rows = {(layer, component): gib for layer, component, gib in bill(found.blocks(1), found.events(1)).layers}
    weights = 1024**2 * 4 / GIB
    assert rows["backbone.layer", "parameters"] == rows["backbone.layer", "gradients"] == weights


def test_the_metrics_are_a_component_of_the_bill(traced, made):
    """Two histograms of 8192 bins for each class, of AUROC and of average precision, in int64, are most of it."""
    blocks, _ = traced
    assert made.components["metrics"] * GIB == sum(block.nbytes for block in blocks if block.phase == "metrics")
    assert made.components["metrics"] * GIB >= SIZES["n_classes"] * 8192 * 8 * 4


def test_the_bill_is_of_the_moment_of_the_peak_alone():
    """The first block is gone by then, the last not yet there; the first moment counts where two are alike."""
    blocks = [
        Block(3 * GIB, "forward", "early", 0),
        Block(2 * GIB, "weights", "a", 0),
        Block(2 * GIB, "forward", "b", 0),
        Block(2 * GIB, "forward", "late", 0),
    ]
    events = [(0, True), (0, False), (1, True), (2, True), (2, False), (3, True)]
    made = bill(blocks, events)
    assert made.components == {"parameters": 2.0, "activations": 2.0}
    assert {layer for layer, *_ in made.layers} == {"a", "b"}


@pytest.mark.parametrize(
    ("phase", "gradient", "stays", "component"),
    [
        ("weights", False, True, "parameters"),
        ("input", False, False, "input"),
        ("forward", False, False, "activations"),
        ("backward", False, False, "temporaries"),
        ("backward", True, False, "gradients"),
        ("optimizer", False, True, "optimizer"),
        ("optimizer", False, False, "temporaries"),
        ("metrics", False, True, "metrics"),
        ("gathered", False, False, "gathered weights"),
        ("scratch", False, False, "temporaries"),
        ("score", False, False, "activations"),
    ],
)
def test_a_block_is_of_the_component_that_its_phase_says(phase, gradient, stays, component):
    events = [(0, True)] if stays else [(0, True), (0, False)]
    made = bill([Block(GIB, phase, "layer", 0, gradient)], events)
    assert made.layers == [("layer", component, 1.0)]


def test_blocks_of_a_layer_are_one_row_and_those_of_none_are_a_dash():
    blocks = [Block(GIB, "forward", "a", 0), Block(GIB, "forward", "a", 1), Block(GIB, "forward", "", 0)]
    made = bill(blocks, [(0, True), (1, True), (2, True)])
    assert made.layers == [("a", "activations", 2.0), ("-", "activations", 1.0)]


# over time

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["weights", "forward", "backward", "optimizer", *PHASES]),
        st.integers(0, 2**40),
        st.integers(1, 5),  # events until it goes
    ),
    min_size=1,
    max_size=400,
)


def come_and_go(made):
    """Blocks of phase and size, and their events: each goes after as many others have come as it says."""
    blocks, events, due = [], [], {}
    for number, (phase, nbytes, until) in enumerate(made):
        blocks.append(Block(nbytes, phase, "", 0))
        events.append((number, True))
        if phase != "weights":
            due.setdefault(number + until, []).append(number)
        events += [(gone, False) for gone in due.pop(number, [])]
    return blocks, events


def totals(blocks, events):
    """Bytes alive after each event."""
    live, found = 0, []
    for number, comes in events:
        live += blocks[number].nbytes if comes else -blocks[number].nbytes
        found.append(live)
    return found


@given(EVENTS)
@settings(deadline=None)
def test_every_point_is_the_most_that_was_alive_since_the_last(made):
    """Of the events from the first forward pass on, in as many stretches as there are points."""
    blocks, events = come_and_go(made)
    begin = next((at for at, (number, _) in enumerate(events) if blocks[number].phase == "forward"), 0)
    window, stretches = totals(blocks, events)[begin:], {}
    for at, live in enumerate(window):
        stretches.setdefault(floor(at * POINTS / len(window)), []).append(live)
    shown = timeline(blocks, events)
    sums = [sum(gib) * GIB for gib in zip(*shown.values(), strict=True)]
    assert sums == pytest.approx([max(stretch) for stretch in stretches.values()])
    assert len(sums) <= POINTS
    assert all(gib >= 0 for points in shown.values() for gib in points)


def test_the_highest_point_is_the_peak_with_the_components_of_its_bill(traced, made):
    shown = timeline(*traced)
    highest = max(zip(*shown.values(), strict=True), key=sum)
    assert sum(highest) * GIB == pytest.approx(live_peak(*traced)[0])
    at_peak = {name: gib for name, gib in zip(shown, highest, strict=True) if gib}
    assert at_peak == pytest.approx(made.components)


def test_weights_and_metrics_are_there_all_the_time_and_state_from_the_first_step_on(traced, made):
    shown = timeline(*traced)
    assert len(next(iter(shown.values()))) == POINTS
    for name in ("parameters", "metrics"):
        assert shown[name] == pytest.approx([made.components[name]] * POINTS)
    state = shown["optimizer"]
    assert state == sorted(state)
    assert (state[0], state[-1]) == (0, pytest.approx(made.components["optimizer"]))


def test_of_nothing_there_is_no_picture():
    assert timeline([], []) == {}
