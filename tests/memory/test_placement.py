"""A card that does not hold everything in fp32: state in 8 bits or on the host, weights on several cards."""

import pytest
import torch
from torch import nn

from tests.memory.own import NEEDS_TORCHAO
from vibench.memory.placement import placed, replicated, sharded
from vibench.memory.trace import live_peak
from vibench.memory.tracker import Block
from vibench.step.ranks import BUCKET_BYTES

KEEPS, GOES = True, False
MIB = 2**20
SHAPES = [  # around the sizes at which a tensor is worth a scale per group
    (64, 64),
    (64, 63),
    (4096,),
    (4095,),
    (65, 64),
    (68, 64),
    (100, 256),
    (4097,),
    (16, 1000),
    (300,),
    (1,),
]


class Stacked(nn.Module):
    """Five weights outside of the blocks, and blocks of so many weights each."""

    def __init__(self, *sizes):
        super().__init__()
        self.head = nn.Linear(5, 1, bias=False)
        self.backbone = nn.Module()
        if sizes:
            self.backbone.blocks = nn.ModuleList(nn.Linear(size, 1, bias=False) for size in sizes)


def through(*, stays):
    return [(0, True)] if stays else [(0, True), (0, False)]


def moment(numel):
    return Block(4 * numel, "optimizer", "layer", 0)


EVERYTHING_ELSE = pytest.mark.parametrize(
    ("phase", "gradient", "stays"),
    [
        ("weights", False, KEEPS),
        ("metrics", False, KEEPS),
        ("input", False, GOES),
        ("forward", False, KEEPS),
        ("forward", False, GOES),
        ("backward", False, GOES),
        ("backward", True, GOES),
        ("optimizer", False, GOES),
        ("score", False, KEEPS),
        ("scratch", False, GOES),
    ],
)


# the optimizer's state elsewhere


def test_on_the_device_everything_stays_as_it_is():
    blocks = [Block(8, "weights", "a", 0), moment(5000)]
    assert placed(blocks, [(0, True), (1, True)], "device") == blocks


@pytest.mark.parametrize("numel", [1, 5000])
def test_on_the_host_the_state_takes_nothing_of_the_card(numel):
    assert [block.nbytes for block in placed([moment(numel)], through(stays=True), "host")] == [0]


@pytest.mark.parametrize("state", ["int8", "host"])
@EVERYTHING_ELSE
def test_only_what_the_optimizer_keeps_lies_elsewhere(state, phase, gradient, stays):
    """Its temporaries do not, and no gradient that is still there."""
    block = Block(4 * 8192, phase, "layer", 0, gradient)
    assert placed([block], through(stays=stays), state) == [block]


def test_the_blocks_of_a_trace_are_not_changed():
    block = moment(8192)
    placed([block], through(stays=True), "host")
    assert block == moment(8192)


def kept_by_torchao(parameters):
    """Bytes of both moments of every parameter after a real step, what lies on the host left out."""
    from torchao.optim import AdamW8bit

    optimizer = AdamW8bit(parameters)
    with torch.compiler.set_stance("force_eager"):  # compiling takes a minute
        optimizer.step()
    found = []
    for parameter in parameters:
        moments = [tensor for key, tensor in optimizer.state[parameter].items() if key != "step"]
        parts = [[m.codes, m.scale, m.qmap] if hasattr(m, "codes") else [m] for m in moments]
        assert len(parts) == 2
        found.append(sum(part.nbytes for moment in parts for part in moment))
    return found


@NEEDS_TORCHAO
def test_in_8_bits_the_state_is_what_torchao_keeps_to_the_byte():
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    ours = [2 * placed([moment(p.numel())], through(stays=True), "int8")[0].nbytes for p in parameters]
    assert ours == kept_by_torchao(parameters)


# weights on several cards


@pytest.mark.parametrize(("phase", "gradient", "stays"), [("weights", False, KEEPS), ("backward", True, GOES)])
def test_weights_and_gradients_are_cut(phase, gradient, stays):
    found, _ = sharded([Block(1000, phase, "layer", 0, gradient)], through(stays=stays), Stacked(), 4)
    assert found[0].nbytes == 250


def test_the_state_is_cut_and_the_temporaries_of_the_optimizer_are_not():
    blocks = [Block(1000, "optimizer", "layer", 0), Block(1000, "optimizer", "layer", 0)]
    found, _ = sharded(blocks, [(0, True), (1, True), (1, False)], Stacked(), 4)
    assert [block.nbytes for block in found[:2]] == [250, 1000]


@pytest.mark.parametrize(
    ("phase", "stays"),
    [("forward", GOES), ("backward", GOES), ("input", GOES), ("metrics", KEEPS), ("scratch", GOES), ("score", KEEPS)],
)
def test_nothing_else_is_cut(phase, stays):
    block = Block(1000, phase, "layer", 0)
    assert sharded([block], through(stays=stays), Stacked(), 4)[0][0] == block


@pytest.mark.parametrize(("nbytes", "devices", "part"), [(1000, 1, 1000), (1000, 3, 334), (4, 8, 1)])
def test_a_part_is_rounded_up(nbytes, devices, part):
    found, _ = sharded([Block(nbytes, "weights", "", 0)], through(stays=True), Stacked(), devices)
    assert found[0].nbytes == part


@pytest.mark.parametrize(
    ("blocks", "weights"),
    [((), 2 * 5), ((7,), 2 * 5 + 5 * 7), ((7, 11, 9), 2 * 5 + 5 * 11)],
)
def test_the_weights_at_work_lie_whole_beside_their_parts(blocks, weights):
    """Those outside of the blocks and their gradients, and five times the largest block."""
    found, _ = sharded([], [], Stacked(*blocks), 2)
    assert found == [Block(4 * weights, "gathered", "", 0)]


def test_weights_lie_whole_only_while_they_are_at_work():
    """They are put together for the first part of a batch, and again after the optimizer's step."""
    phases = [
        "weights",
        "metrics",
        "input",
        "forward",
        "backward",
        "optimizer",
        "input",
        "forward",
        "optimizer",
        "score",
    ]
    blocks = [Block(4, phase, "", 0) for phase in phases]
    events = [(number, True) for number in range(len(blocks))]
    _, found = sharded(blocks, [*events, (9, False)], Stacked(), 2)
    whole = (len(blocks), True), (len(blocks), False)
    assert found == [
        *events[:2], whole[0], *events[2:5], whole[1], *events[5:6],
        whole[0], *events[6:8], whole[1], *events[8:9], whole[0], *events[9:], (9, False),
    ]  # fmt: skip


def test_of_what_is_only_state_a_card_holds_its_part():
    """Three steps of a model of one weight: weights, gradients, state; no weight is at work at their peak."""
    blocks = [Block(1200, "weights", "w", 0), Block(1200, "backward", "w", 0, True), Block(2400, "optimizer", "w", 0)]
    events = [(0, True), (1, True), (2, True)]
    for devices in (1, 2, 3, 4):
        found, after = sharded(blocks, events, Stacked(), devices)
        assert live_peak(found, after)[0] == 4800 // devices


# every card holds everything


def step(*gradients):
    """Blocks and events of two steps with gradients of those sizes; the optimizer makes a block of 8 bytes in each."""
    blocks, events = [], []
    for _ in range(2):
        first = len(blocks)
        blocks += [Block(4, "forward", "", 0), *(Block(size, "backward", "", 0, True) for size in gradients)]
        blocks.append(Block(8, "optimizer", "", 0))
        events += [(number, True) for number in range(first, len(blocks))]
        events += [(number, False) for number in range(first, len(blocks))]
    return blocks, events


def test_gradients_are_summed_once_a_step_when_all_of_them_are_there():
    blocks, events = step(100, 50)
    found, after = replicated(blocks, events)
    assert found == [*blocks, Block(150, "gathered", "", 0)]
    bucket = [(8, True), (8, False)]
    assert after == [*events[:3], *bucket, *events[3:11], *bucket, *events[11:]]


def test_gradients_are_summed_in_buckets():
    blocks, events = step(*[BUCKET_BYTES // 4] * 10)
    assert replicated(blocks, events)[0][-1].nbytes == BUCKET_BYTES


def test_a_gradient_as_large_as_a_bucket_is_summed_where_it_is():
    """``sum_over_ranks`` sends it alone, without a copy."""
    blocks, events = step(3 * BUCKET_BYTES)
    assert replicated(blocks, events)[0][-1].nbytes == 0


def test_gradients_are_summed_in_every_step_also_where_the_optimizer_makes_nothing():
    """A fused optimizer makes its state in its first step, and without clipping nothing at all after that."""
    blocks = [
        Block(4, "forward", "", 0),
        Block(100, "backward", "", 0, True),
        Block(200, "optimizer", "", 0),
        Block(4, "forward", "", 0),
        Block(100, "backward", "", 0, True),
        Block(4, "score", "", 0),
    ]
    events = [(0, True), (1, True), (0, False), (2, True), (1, False), (3, True), (4, True), (3, False), (4, False)]
    found, after = replicated(blocks, [*events, (5, True), (5, False)])
    assert after.count((6, True)) == after.count((6, False)) == 2
    assert live_peak(found, after)[0] == 100 + 200 + 100  # a gradient, the state, and what is summed
