"""Who holds the memory at the peak."""

import pytest

from tests.model.batches import SIZES
from vibench.memory.bill import GIB, SHOWN, bill
from vibench.memory.trace import Levers, live_peak, trace
from vibench.memory.tracker import Block
from vibench.model import build_model

MICRO_BATCH = 3
PLAIN = ("backbone=patchtst", "backbone.e_layers=1", "backbone.d_ff=512")
AUTO = Levers(precision="fp32", checkpointing="none")


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(*PLAIN)


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


def test_a_wide_layer_is_the_first_row(tiny):
    """Its activations: of 3 channels, 16 windows and every token, 2048 numbers each."""
    found = trace(tiny(*PLAIN[:2], "backbone.d_ff=2048", "data.window=1024"), AUTO, **SIZES)
    layer, component, _ = bill(found.blocks(16), found.events(2)).layers[0]
    assert (layer.rpartition(".")[0], component) == ("backbone.blocks.0.feed_forward", "activations")


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
