"""Activation checkpointing: the same gradient, to the bit, from less memory."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook

from tests.model.batches import SIZES, random_batch
from vibench.backbones.patchtst import PatchTST
from vibench.layers.encoder import Attention
from vibench.memory.trace import Levers, live_peak, rehearse
from vibench.memory.tracker import Tracker
from vibench.model import Model, build_model
from vibench.run import run_experiment
from vibench.step.checkpointing import checkpoint_blocks
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
}
DEEP = {  # the backbone is most of it
    "patchtst": ("backbone=patchtst", "backbone.e_layers=3"),
    "mamba2": ("backbone=mamba2", "backbone.e_layers=2"),
}
HOW = ["selective", "full"]


def stepped(config, how):
    """Gradients and buffers after a step in two parts, whatever was drawn drawn with the same seed."""
    torch.manual_seed(0)
    model = build_model(config, **SIZES).train()
    checkpoint_blocks(model, how)
    torch.manual_seed(1)
    accumulate(
        model,
        random_batch(config, 5),
        factors=dict.fromkeys(model.tasks, 1.0),
        micro_batch=3,
        device=torch.device("cpu"),
        autocast=nullcontext,
        scale=lambda loss: loss,
        measure=False,
    )
    return {name: p.grad for name, p in model.named_parameters()} | dict(model.named_buffers())


def test_every_backbone_with_blocks_is_tried_below(tiny):
    names = {
        name
        for name, keys in (BLOCKS | {"dlinear": ("backbone=dlinear", "backbone.moving_average=3")}).items()
        if hasattr(build_model(tiny(*keys), **SIZES).backbone, "blocks")
    }
    assert names == set(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_gradient_is_the_same_to_the_bit(tiny, name):
    config = tiny(*BLOCKS[name])
    expected = stepped(config, "none")
    for how in HOW:
        found = stepped(config, how)
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


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
    assert peak["full"] < 0.75 * peak["none"]


@pytest.mark.parametrize("how", HOW)
def test_the_names_of_the_weights_stay(tiny, how):
    model = build_model(tiny(*BLOCKS["patchtst"]), **SIZES)
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
    config = tiny("backbone=dlinear", "backbone.moving_average=3")
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
