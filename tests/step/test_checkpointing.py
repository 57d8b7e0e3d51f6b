"""Activation checkpointing: the same gradient, to the bit, from less memory."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook

from tests.conftest import CONF
from tests.model.batches import SIZES, random_batch
from vibench.backbones.patchtst import PatchTST
from vibench.layers.encoder import Attention
from vibench.memory.trace import Levers, live_peak, rehearse
from vibench.memory.tracker import Tracker
from vibench.model import Model, build_model
from vibench.run import run_experiment
from vibench.step.checkpointing import blocks_of, checkpoint_blocks, levels, slices_of
from vibench.step.micro_batch import accumulate

TWO = "backbone.e_layers=2"
BLOCKS = {  # two blocks each; what falls out is drawn again as it was
    "patchtst": ("backbone=patchtst", TWO, "backbone.dropout=0.3"),
    "transformer": ("backbone=transformer", TWO, "backbone.dropout=0.3"),
    "tcn": ("backbone=tcn", TWO, "backbone.dropout=0.3"),
    "timesnet": ("backbone=timesnet", TWO, "backbone.dropout=0.3", "backbone.d_ff=8", "backbone.top_k=2"),
    "mamba2": ("backbone=mamba2", TWO),
    "fno": ("backbone=fno", TWO, "backbone.modes=3"),
    "resnet1d": ("backbone=resnet1d", TWO),
    "bimamba_gnn": (
        *("backbone=bimamba_gnn", "backbone.n_nodes=5", "backbone.node_width=4", "backbone.node_layers=2"),
        *("backbone.edge_width=2", "backbone.edge_layers=1", "backbone.d_state=2", "backbone.edge_d_state=2"),
        *("backbone.head_dim=2", "backbone.edge_head_dim=2", "backbone.encoding_dim=3", "backbone.dropout=0.3"),
        *("backbone.gnn_layers=1", "backbone.slice=2"),  # 5 electrodes in three slices, 10 pairs in five
    ),
}
NO_BLOCKS = ("backbone=dlinear", "backbone.moving_average=3")
ENCODER = (
    *("embedding=tcn", "embedding.channels=[4,6]", "embedding.kernel=3", "embedding.stride=16"),
    "embedding.dropout=0.3",
)
DEEP = {  # the backbone is most of it
    "patchtst": ("backbone=patchtst", "backbone.e_layers=3"),
    "mamba2": ("backbone=mamba2", "backbone.e_layers=3"),
}
HOW = ["selective", "full"]
SLICED = {"bimamba_gnn": BLOCKS["bimamba_gnn"], "behind an encoder": (*ENCODER, *BLOCKS["bimamba_gnn"])}


def stepped(config, how, losses=None):
    """Gradients and buffers after a step in two parts, whatever was drawn drawn with the same seed."""
    torch.manual_seed(0)
    model = build_model(config, **SIZES).train()
    checkpoint_blocks(model, how)
    torch.manual_seed(1)
    shares = accumulate(
        model,
        random_batch(config, 5),
        factors=dict.fromkeys(model.tasks, 1.0),
        micro_batch=3,
        device=torch.device("cpu"),
        autocast=nullcontext,
        scale=lambda loss: loss,
        measure=False,
    )
    if losses is not None:
        losses.append({name: float(share.loss) for name, share in shares.items()})
    return {name: p.grad for name, p in model.named_parameters()} | dict(model.named_buffers())


def test_every_backbone_with_blocks_is_tried_below(tiny):
    names = set()
    for name in sorted(path.stem for path in (CONF / "backbone").glob("*.yaml")):
        keys = BLOCKS.get(name, (f"backbone={name}", *NO_BLOCKS[1:] * (name == "dlinear")))
        if blocks_of(build_model(tiny(*keys), **SIZES)):
            names.add(name)
    assert names == set(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_gradient_is_the_same_to_the_bit(tiny, name):
    config = tiny(*BLOCKS[name])
    losses = []
    expected = stepped(config, "none", losses)
    for how in HOW:
        found = stepped(config, how, losses)
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    assert losses == [losses[0]] * 3


def test_blocks_of_the_embedding_are_units_as_well(tiny):
    model = build_model(tiny(*BLOCKS["patchtst"]), **SIZES)
    model.embedding.blocks = nn.ModuleList([nn.Linear(2, 2)])
    assert blocks_of(model) == [*model.embedding.blocks, *model.backbone.blocks]


@pytest.mark.parametrize("name", SLICED)
def test_slices_leave_the_loss_and_the_gradient(tiny, name):
    """A weight's gradient is a sum over its sequences, which rounds otherwise in another order."""
    config = tiny(*SLICED[name])
    losses = []
    expected, found = stepped(config, "none", losses), stepped(config, "sliced", losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=key)
        assert value.shape == found[key].shape


@pytest.mark.parametrize("size", [1, 3])
def test_an_evaluation_in_slices_is_the_same_and_runs_a_part_at_a_time(tiny, size):
    config = tiny(*BLOCKS["bimamba_gnn"])
    model, batch = build_model(config, **SIZES).eval(), random_batch(config, size)
    with torch.no_grad():
        expected = model(batch)
    checkpoint_blocks(model, "sliced")
    seen = {"nodes": [], "edges": []}
    for name, sizes in seen.items():
        layer = getattr(model.backbone, name)[0]
        layer.onward.register_forward_pre_hook(lambda module, inputs, sizes=sizes: sizes.append(len(inputs[0])))
    with torch.no_grad():
        found = model(batch)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    channels = SIZES["n_channels"]  # each of them is a sequence of its own
    assert (len(seen["nodes"]), sum(seen["nodes"])) == (3, 5 * size * channels)
    assert (len(seen["edges"]), sum(seen["edges"])) == (5, 10 * size * channels)
    assert all(max(sizes) - min(sizes) <= 1 for sizes in seen.values())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (NO_BLOCKS, ["none"]),
        ((*ENCODER, *NO_BLOCKS), ["none"]),
        (BLOCKS["patchtst"], ["none", "selective", "full"]),
        (BLOCKS["mamba2"], ["none", "selective", "full"]),
        (BLOCKS["bimamba_gnn"], ["none", "selective", "full", "sliced"]),
        ((*BLOCKS["bimamba_gnn"], "backbone.slice=10"), ["none", "selective", "full"]),  # all pairs at once
        ((*BLOCKS["bimamba_gnn"], "backbone.slice=9"), ["none", "selective", "full", "sliced"]),
    ],
    ids=["dlinear", "tcn", "patchtst", "mamba2", "bimamba_gnn", "one slice", "two slices"],
)
def test_the_levels_of_a_model_are_those_that_do_something(tiny, keys, expected):
    assert levels(build_model(tiny(*keys), **SIZES)) == expected


def test_a_block_is_cut_into_as_few_slices_as_hold_no_more_than_was_asked(tiny):
    for size, parts in ((1, (5, 10)), (2, (3, 5)), (4, (2, 3)), (5, (1, 2)), (10, (1, 1))):
        backbone = build_model(tiny(*BLOCKS["bimamba_gnn"], f"backbone.slice={size}"), **SIZES).backbone
        assert (slices_of(backbone.nodes[0]), slices_of(backbone.edges[0])) == parts
        assert slices_of(backbone.graph[0]) == 1  # a graph needs all of its electrodes


def test_dropout_is_drawn_in_what_is_compared(tiny):
    """Else the same gradient would prove nothing of it."""
    config = tiny(*BLOCKS["patchtst"])
    off = tiny(*BLOCKS["patchtst"][:2], "backbone.dropout=0")
    name = "backbone.blocks.0.attention.qkv.weight"
    assert not torch.equal(stepped(config, "none")[name], stepped(off, "none")[name])


@pytest.mark.parametrize("name", DEEP)
def test_the_peak_falls(resolved, name):
    config = resolved("hardware=cpu", "task=classification", "data.window=256", "d_model=16", *DEEP[name])
    peak = {}
    for how in ["none", *HOW]:
        tracker = Tracker(None)
        with FakeTensorMode():
            rehearse(config, Levers(precision="fp32", checkpointing=how), 32, tracker, **SIZES)
        peak[how], _ = live_peak(tracker.timeline.blocks, tracker.timeline.events)
    assert peak["full"] < peak["selective"] < peak["none"]
    assert peak["full"] < 0.8 * peak["none"]


def test_slices_hold_less_than_whole_blocks(resolved):
    """28 pairs in two slices."""
    keys = (*BLOCKS["bimamba_gnn"], "backbone.n_nodes=8", "backbone.slice=14", "backbone.node_layers=1")
    config = resolved(
        "hardware=cpu", "task=classification", "data.window=256", "d_model=16", *keys, "backbone.chunk=64"
    )
    peak = {}
    for how in ("full", "sliced"):
        tracker = Tracker(None)
        with FakeTensorMode():
            rehearse(config, Levers(precision="fp32", checkpointing=how), 8, tracker, **SIZES, steps=1)
        peak[how], _ = live_peak(tracker.timeline.blocks, tracker.timeline.events)
    assert peak["sliced"] < 0.8 * peak["full"]


@pytest.mark.parametrize("how", [*HOW, "sliced"])
def test_the_names_of_the_weights_stay(tiny, how):
    model = build_model(tiny(*BLOCKS["bimamba_gnn"]), **SIZES)
    before = list(model.state_dict())
    checkpoint_blocks(model, how)
    assert list(model.state_dict()) == before


def calls(model, batch, context):
    """How often the first block's attention is called, backward pass and all."""
    count = []
    model.backbone.blocks[0].attention.register_forward_hook(lambda *_: count.append(1))
    with context:
        loss = model(batch)["classification"].sum()
        if loss.requires_grad:
            loss.backward()
    return len(count)


@pytest.mark.parametrize(("how", "times"), [("none", 1), ("selective", 2), ("full", 2)])
def test_a_block_is_run_again_in_the_backward_pass(tiny, how, times):
    config = tiny(*BLOCKS["patchtst"])
    model = build_model(config, **SIZES)
    checkpoint_blocks(model, how)
    assert calls(model, random_batch(config, 2), nullcontext()) == times


@pytest.mark.parametrize("how", HOW)
def test_an_evaluation_keeps_nothing_and_runs_a_block_once(tiny, how):
    config = tiny(*BLOCKS["patchtst"])
    model, batch = build_model(config, **SIZES).eval(), random_batch(config, 2)
    with torch.no_grad():
        expected = model(batch)
    checkpoint_blocks(model, how)
    with torch.no_grad():
        found = model(batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert calls(model, batch, torch.no_grad()) == 1


def test_a_backbone_without_blocks_is_left_as_it_is(tiny):
    config = tiny(*NO_BLOCKS)
    expected, found = stepped(config, "none"), stepped(config, "full")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("how", "times"), [("none", 1), ("full", 2)])
def test_what_is_asked_for_reaches_the_training(tiny, tmp_path, how, times):
    config = tiny("backbone=patchtst", "backbone.e_layers=1", f"training.checkpointing={how}", "training.max_steps=2")
    count = []

    def attended(module, *_):
        if isinstance(module, Attention) and module.training:
            count.append(1)

    hook = register_module_forward_hook(attended)
    try:
        status = run_experiment(config, tmp_path / "run")
    finally:
        hook.remove()
    assert status["plan"]["checkpointing"] == how
    assert len(count) == times * status["steps"] * status["plan"]["accumulation"] == 2 * times


def test_a_model_is_let_go_without_a_garbage_collection():
    backbone = PatchTST(n_tokens=5, d_model=4, e_layers=1, n_heads=1, d_ff=4, dropout=0.0)
    checkpoint_blocks(Model(nn.Identity(), backbone, {}), "full")
    backbone(torch.randn(2, 5, 4)).sum().backward()
    weight = weakref.ref(backbone.blocks[0].attention.qkv.weight)
    gc.disable()
    try:
        del backbone
        assert weight() is None
    finally:
        gc.enable()
