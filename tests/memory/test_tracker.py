"""What a tracker sees of code whose allocations are known."""

import gc
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vibench.memory.trace import live_peak
from vibench.memory.tracker import Observer, Tracker, bias_in_place

KIB = 1024


@pytest.fixture
def tracker():
    return Tracker()


def sizes(tracker):
    return [block.nbytes for block in tracker.timeline.blocks]


class Net(nn.Module):
    """Two layers; no shape is another's, so that a size tells what it is."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(8, 64, bias=False), nn.Linear(64, 3, bias=False)

    def forward(self, x):
        return self.narrow(self.wide(x).relu())


def trained(tracker, forward=lambda net, x: net(x)):
    """A forward and a backward pass of five rows."""
    with tracker:
        net, x = Net(), torch.ones(5, 8)
        tracker.phase = "forward"
        with tracker.named(net):
            forward(net, x).sum().backward()
    return net


def at(tracker, nbytes, phase):
    return {block.layer for block in tracker.timeline.blocks if (block.nbytes, block.phase) == (nbytes, phase)}


@pytest.mark.parametrize("fake", [True, False])
def test_an_allocation_is_a_block_of_its_size(tracker, fake):
    with FakeTensorMode() if fake else nullcontext(), tracker:
        kept = torch.ones(256), torch.zeros(3, dtype=torch.int64)
    assert sizes(tracker) == [KIB, 24]
    assert tracker.timeline.events == [(0, True), (1, True)]
    del kept


def test_a_view_is_no_block(tracker):
    with tracker:
        whole = torch.ones(16, 16)
        kept = whole[3:], whole.T, whole.view(-1), whole.expand(2, 16, 16), whole.detach()
    assert sizes(tracker) == [KIB]
    del kept


def test_what_is_done_in_place_is_no_block(tracker):
    with tracker:
        torch.ones(256).add_(1).relu_().zero_()
    assert sizes(tracker) == [KIB]


def test_an_empty_tensor_is_no_block(tracker):
    with tracker:
        kept = torch.ones(0)
    assert sizes(tracker) == []
    del kept


def test_a_block_goes_when_the_last_view_of_it_dies(tracker):
    with tracker:
        whole = torch.ones(256)
        view = whole[:1]
        del whole
        assert tracker.timeline.events == [(0, True)]
        del view
        assert tracker.timeline.events == [(0, True), (0, False)]


def test_what_dies_after_the_tracker_is_seen_too(tracker):
    with tracker:
        kept = torch.ones(256)
    del kept
    assert tracker.timeline.events == [(0, True), (0, False)]


def test_what_was_there_before_is_no_block_when_it_is_only_read(tracker):
    before = torch.ones(256)
    with tracker:
        kept = before.sum()
    assert sizes(tracker) == [4]
    del kept


def test_an_address_that_is_used_again_is_a_new_block(tracker):
    with tracker:
        for _ in range(3):
            torch.ones(256)
    assert tracker.timeline.events == [(0, True), (0, False), (1, True), (1, False), (2, True), (2, False)]


def test_what_is_ignored_is_no_block_and_neither_are_its_views(tracker):
    host = torch.ones(256)
    tracker.ignore([host])
    with tracker:
        kept = host[1:].view(-1), host.mul_(2), host.clone()
    assert sizes(tracker) == [KIB]  # the copy
    del kept


def test_a_phase_ends_where_it_ends(tracker):
    with tracker:
        with pytest.raises(ValueError, match="inside"), tracker.during("input"):
            kept = [torch.ones(1)]
            raise ValueError("inside")
        kept.append(torch.ones(2))
    assert [block.phase for block in tracker.timeline.blocks] == ["input", "weights"]


def test_a_block_is_of_the_micro_batch_in_which_it_was_made(tracker):
    with tracker:
        for tracker.part in range(3):
            torch.ones(1)
    assert [block.part for block in tracker.timeline.blocks] == [0, 1, 2]


def test_weights_are_on_the_account_of_their_layer(tracker):
    net = trained(tracker)
    assert at(tracker, net.wide.weight.nbytes, "weights") >= {"wide"}
    assert at(tracker, net.narrow.weight.nbytes, "weights") >= {"narrow"}


def test_gradients_of_weights_are_marked_with_their_layer(tracker):
    net = trained(tracker)
    marked = [(block.layer, block.nbytes) for block in tracker.timeline.blocks if block.gradient]
    assert sorted(marked) == [("narrow", net.narrow.weight.nbytes), ("wide", net.wide.weight.nbytes)]


def test_a_layer_that_is_frozen_has_no_gradient(tracker):
    with tracker:
        net = Net()
        net.wide.requires_grad_(False)
        with tracker.named(net):
            net(torch.ones(5, 8)).sum().backward()
    assert [block.layer for block in tracker.timeline.blocks if block.gradient] == ["narrow"]


def test_activations_are_on_the_account_of_the_layer_that_made_them(tracker):
    trained(tracker)
    assert at(tracker, 5 * 64 * 4, "forward") == {"wide", ""}  # the second is of the relu, in no layer but the whole
    assert at(tracker, 5 * 3 * 4, "forward") == {"narrow"}


def test_the_backward_pass_is_a_phase_on_the_account_of_the_layer_it_goes_through(tracker):
    trained(tracker)
    assert "narrow" in at(tracker, 5 * 64 * 4, "backward")  # the gradient of what went into it
    assert {block.phase for block in tracker.timeline.blocks} == {"weights", "forward", "backward"}


def test_recomputation_is_on_the_account_of_the_layer_that_is_recomputed(tracker):
    """It happens in the backward pass, as the weights of a layer are used again."""
    trained(tracker, lambda net, x: checkpoint(net, x, use_reentrant=False))
    assert "wide" in at(tracker, 5 * 64 * 4, "backward")


def test_a_forward_pass_that_fails_leaves_no_layer_open(tracker):
    with tracker:
        net = Net()
        with tracker.named(net):
            with pytest.raises(RuntimeError, match="cannot be multiplied"):
                net(torch.ones(5, 7))
            kept = torch.ones(99)
    assert [block.layer for block in tracker.timeline.blocks if block.nbytes == 396] == [""]
    del kept


def test_hooks_are_gone_after_the_naming(tracker):
    net = trained(tracker)
    before = len(tracker.timeline.blocks)
    net(torch.ones(5, 8)).sum().backward()
    assert len(tracker.timeline.blocks) == before


def small_training():
    net, x = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 3)), torch.ones(5, 8)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    for _ in range(2):
        net(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("fake", [True, False])
def test_the_peak_of_a_small_training_is_the_allocators(tracker, fake):
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        small_training()
    live = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    with FakeTensorMode() if fake else nullcontext(), tracker:
        small_training()
    gc.collect()
    assert live_peak(tracker.timeline.blocks, tracker.timeline.events)[0] == most > 0
    assert sum(1 if comes else -1 for _, comes in tracker.timeline.events) == 0  # all of it is gone


def test_what_dies_after_the_end_is_no_event(tracker):
    with tracker:
        kept = torch.ones(256)
        torch.ones(1)
        tracker.finish()
    del kept
    assert tracker.timeline.events == [(0, True), (1, True), (1, False)]


# scratch


def twice_what_is_read(operator, args, kwargs):
    return 2 * sum(arg.nbytes for arg in args if isinstance(arg, torch.Tensor))


def test_scratch_comes_and_goes_after_what_its_operator_makes():
    tracker = Tracker(twice_what_is_read)
    x = torch.ones(256)
    with tracker, tracker.during("forward"):
        kept = x.exp()
    made, scratch = tracker.timeline.blocks
    assert (made.nbytes, made.phase) == (KIB, "forward")
    assert (scratch.nbytes, scratch.phase) == (2 * KIB, "scratch")
    assert tracker.timeline.events == [(0, True), (1, True), (1, False)]
    del kept


def test_scratch_is_on_the_account_of_the_layer_and_of_the_micro_batch():
    tracker = Tracker(twice_what_is_read)
    with tracker:
        net, x = Net(), torch.ones(5, 8)
        tracker.phase, tracker.part = "forward", 3
        with tracker.named(net):
            net(x)
    wide = 2 * (x.nbytes + net.wide.weight.nbytes)  # of the product
    assert {(b.layer, b.part) for b in tracker.timeline.blocks if (b.nbytes, b.phase) == (wide, "scratch")} == {
        ("wide", 3)
    }


def test_a_view_needs_no_scratch():
    tracker, x = Tracker(twice_what_is_read), torch.ones(16, 16)
    tracker.ignore([x])
    with tracker:
        kept = x.t()[3:], x.view(-1), x.detach()
    assert tracker.timeline.blocks == []
    del kept


# an observer that only watches


class Watcher(Observer):
    """Notes when which operators run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append((self.phase, self.part, func._schema.name.removeprefix("aten::")))
        return func(*args, **(kwargs or {}))


def test_an_observer_is_told_of_phases_and_parts():
    watcher, x = Watcher(), torch.ones(4)
    with watcher:
        x + x
        with watcher.during("forward"):
            watcher.part = 1
            x * x
        x - x
    assert watcher.seen == [("weights", 0, "add"), ("forward", 1, "mul"), ("weights", 1, "sub")]


def test_an_observer_that_takes_no_notes_changes_nothing():
    watcher, net = Watcher(), Net()
    with watcher, watcher.named(net):
        watcher.ignore(list(net.parameters()))
        loss = net(torch.ones(5, 8)).sum()
        loss.backward()
        watcher.finish()
    assert net.wide.weight.grad.shape == (64, 8)
    assert not net._forward_hooks
    with torch.no_grad():
        assert net(torch.ones(5, 8)).sum() == loss


# the bias of a linear layer

INPUTS = {
    "rows": lambda: torch.randn(7, 8),
    "sequences": lambda: torch.randn(3, 7, 8),
    "sequences on their side": lambda: torch.randn(3, 8, 7).transpose(1, 2),
    "every second sequence": lambda: torch.randn(6, 7, 8)[::2],
    "batches of sequences": lambda: torch.randn(2, 3, 7, 8),
    "one row": lambda: torch.randn(8),
}


def linear(x, bias):
    """A linear layer as it is, and all gradients of a loss of its result."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 8, generator=random).requires_grad_()
    bias = torch.randn(5, generator=random).requires_grad_() if bias else None
    x = x.detach().requires_grad_()
    out = F.linear(x, weight, bias)
    out.square().sum().backward()
    return [out.detach(), x.grad, weight.grad, *([bias.grad] if bias is not None else [])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", INPUTS)
def test_a_bias_that_is_added_in_place_gives_the_same_numbers_and_gradients(name, bias):
    x = INPUTS[name]()
    expected = linear(x, bias)
    with bias_in_place():
        found = linear(x, bias)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def handed_out(code):
    """Bytes of each allocation of the CPU's allocator while code runs, in order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = code()
    del kept
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert all(a.start_ns() <= b.start_ns() for a, b in pairwise(events))
    return [event.nbytes() for event in events if event.nbytes() > 0]


def seen(tracker, layer, x):
    """Bytes of each allocation that a tracker sees of a layer, in order."""
    tracker.ignore([x, *layer.parameters()])
    with tracker:
        kept = layer(x)
    del kept
    return sizes(tracker)


@pytest.mark.parametrize("name", INPUTS)
def test_a_linear_layer_makes_what_it_makes_without_a_tracker(tracker, name):
    layer, x = nn.Linear(8, 5), INPUTS[name]()
    with bias_in_place():
        assert seen(tracker, layer, x) == handed_out(lambda: layer(x))


def test_with_a_tracker_a_linear_layer_makes_a_copy_of_its_result():
    """Which is why its bias is added in place; after that, and after an error in it, all is as before."""
    layer, x = nn.Linear(8, 5), INPUTS["every second sequence"]()
    once, twice = handed_out(lambda: layer(x)), seen(Tracker(), layer, x)
    assert twice == [*once, once[-1]]
    with bias_in_place():
        assert seen(Tracker(), layer, x) == once
    assert seen(Tracker(), layer, x) == twice
    with pytest.raises(ValueError, match="of the code"), bias_in_place():
        raise ValueError("of the code")
    assert seen(Tracker(), layer, x) == twice
