"""The traced memory of a training step against what the CPU allocator hands out to the same step, really run."""

import gc
import logging
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch.utils._pytree import tree_leaves

from tests.memory.own import own, training
from tests.model.batches import N_CHANNELS, SIZES
from vibench.config.training import Optimizer, TaskWeights
from vibench.data.batch import blank_batch
from vibench.memory.trace import Levers, emulated, live_peak, rehearse, trace
from vibench.memory.tracker import Observer, Tracker
from vibench.model import build_model, targets
from vibench.step.checkpointing import checkpoint_blocks
from vibench.step.optimizer import build_optimizer
from vibench.step.scores import Scores
from vibench.step.step import Step
from vibench.step.task_weights import Weighing

CPU = torch.device("cpu")
PATCHTST = ("backbone=patchtst", "backbone.e_layers=1")
ALL_TASKS = (*PATCHTST, "task=multitask")
BACKBONES = {
    "patchtst": ALL_TASKS,
    "dlinear": ("backbone=dlinear", "backbone.moving_average=3"),
    "transformer": ("backbone=transformer", "backbone.e_layers=1"),
    "mamba2": ("backbone=mamba2", "backbone.e_layers=1"),
}
SCRATCH = {  # kernels of convolution and of the FFT keep some of their own for as long as they run
    "fno": ("backbone=fno", "backbone.modes=3"),
    "tcn": ("backbone=tcn", "backbone.e_layers=2"),
    "resnet1d": ("backbone=resnet1d", "backbone.e_layers=2"),
    "timesnet": ("backbone=timesnet", "backbone.period=4", "backbone.e_layers=1"),
}
RANDOM_STATE = 5056  # bytes of a generator's state, which a checkpointed block keeps on the host, whatever the device
HOST = {  # numbers kept for the backward pass as tensors on the host: what tokens are scaled by
    "transformer": 8,
    "timesnet": 16,
}


@pytest.fixture(scope="module", autouse=True)
def swift():
    """What is there from the beginning is no garbage: looking through it takes longer than a step."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def levers(precision="fp32", checkpointing="none"):
    return Levers(precision=precision, checkpointing=checkpointing)


@pytest.fixture(scope="module")
def traced(small):
    """The trace of some overrides; each is made once."""

    @cache
    def call(*overrides, hardware="cpu", **how):
        return trace(small(hardware, *overrides), levers(**how), **SIZES)

    return call


def peak(found, micro_batch, accumulation=2):
    """Most bytes alive at once, without the metrics, which are no part of a step."""
    blocks = [replace(b, nbytes=0) if b.phase == "metrics" else b for b in found.blocks(micro_batch)]
    return live_peak(blocks, found.events(accumulation))[0]


def handed_out(code):
    """Most bytes that the CPU allocator had handed out at once while some code ran, and how many are left."""
    gc.collect()  # what dies in the measurement must have been born in it
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = code()
    live = most = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most, live, kept


def really(config, micro_batch, accumulation=2, precision="fp32", checkpointing="none"):
    """Most bytes handed out at once in two real steps, and how many blocks there are."""
    host = blank_batch(targets(config), accumulation * micro_batch, N_CHANNELS, config.data.window)

    def steps():
        model = build_model(config, **SIZES)
        checkpoint_blocks(model, checkpointing)
        weighing = Weighing(model, config.task, TaskWeights.fixed)
        optimizer = build_optimizer(model, weighing, config.training, precision, "device")
        off = torch.amp.GradScaler("cpu", enabled=False)
        step = Step(model, weighing, config.training, precision=precision, scaler=off, device=CPU)
        for _ in range(2):
            step(
                host,
                optimizer,
                weighing.factors(),
                micro_batch=micro_batch,
                measure=True,
                check=lambda shares, norm: True,
            )
        return len(getattr(model.backbone, "blocks", ()))

    most, _, blocks = handed_out(steps)
    return most, blocks


# to the byte


@pytest.mark.parametrize("micro_batch", [1, 16])
@pytest.mark.parametrize("name", BACKBONES)
def test_the_live_peak_is_that_of_the_real_step_to_the_byte(small, traced, name, micro_batch):
    measured, _ = really(small("cpu", *BACKBONES[name]), micro_batch)
    assert peak(traced(*BACKBONES[name]), micro_batch) == measured - HOST.get(name, 0)


@pytest.mark.parametrize("checkpointing", ["selective", "full"])
def test_the_live_peak_with_checkpointing_is_that_of_the_real_step_to_the_byte(small, traced, checkpointing):
    found = traced(*PATCHTST, checkpointing=checkpointing)
    for micro_batch in (1, 3):
        measured, blocks = really(small("cpu", *PATCHTST), micro_batch, checkpointing=checkpointing)
        assert blocks > 0
        assert peak(found, micro_batch) == measured - blocks * RANDOM_STATE


@pytest.mark.parametrize(("accumulation", "events"), [(1, 1), (3, 2)])
def test_a_step_of_one_part_and_one_of_many_are_the_real_ones_to_the_byte(small, traced, accumulation, events):
    measured, _ = really(small("cpu", *ALL_TASKS), 3, accumulation)
    assert peak(traced(*ALL_TASKS), 3, events) == measured


def test_another_optimizer_is_the_real_one_to_the_byte(small):
    config = training(small("cpu", *BACKBONES["dlinear"]), optimizer=Optimizer.sgd)
    measured, _ = really(config, 3)
    assert peak(trace(config, levers(), **SIZES), 3) == measured


# within the bar: 1 % below, 3 % above


@pytest.mark.parametrize("name", SCRATCH)
def test_the_live_peak_of_convolutions_and_transforms_is_that_of_the_real_step_within_the_bar(small, traced, name):
    """Of a single window kernels take other ways, and never more than the line through two sizes says."""
    config, found = small("cpu", *SCRATCH[name]), traced(*SCRATCH[name])
    off = {m: peak(found, m) / (really(config, m)[0] - HOST.get(name, 0)) for m in (1, 3, 16)}
    assert min(off.values()) >= 0.99
    assert max(off[3], off[16]) <= 1.03


@pytest.mark.parametrize("name", ["fno", "tcn", "resnet1d"])
def test_without_the_scratch_of_kernels_the_peak_would_be_missed(traced, name):
    found = traced(*SCRATCH[name])
    without = replace(found, small=bare(found.small), large=bare(found.large))
    assert peak(without, 3) < 0.97 * peak(found, 3)


def bare(timeline):
    """A timeline without scratch."""
    return replace(timeline, blocks=[replace(b, nbytes=0) if b.phase == "scratch" else b for b in timeline.blocks])


@pytest.mark.parametrize(
    "overrides",
    [
        (*PATCHTST, "d_model=64", "data.window=1024"),
        (*BACKBONES["dlinear"], "d_model=64", "data.window=1024"),
        (*SCRATCH["tcn"], "d_model=64"),
    ],
)
def test_the_live_peak_in_half_precision_is_that_of_the_real_step_within_the_bar(small, traced, overrides):
    measured, _ = really(small("cpu", *overrides), 16, precision="bf16")
    assert 0.99 * measured <= peak(traced(*overrides, precision="bf16"), 16) <= 1.03 * measured


# every size from two


def rehearsed(config, how, size):
    """The timeline of a direct rehearsal with micro-batches of that size."""
    tracker = Tracker()
    with emulated(config.hardware.compute_capability):
        rehearse(config, how, size, tracker, **SIZES)
    return tracker.timeline


@pytest.mark.parametrize(
    ("overrides", "hardware", "how", "sizes"),
    [
        (PATCHTST, "rtx3090", {"precision": "bf16"}, (1, 256)),
        (BACKBONES["dlinear"], "v100", {"precision": "fp16"}, (1, 3, 10, 100, 256)),
        (SCRATCH["timesnet"], "h100", {"checkpointing": "full"}, (1, 256)),
    ],
)
def test_every_size_of_micro_batch_on_a_card_follows_from_two(small, traced, overrides, hardware, how, sizes):
    found = traced(*overrides, hardware=hardware, **how)
    for size in sizes:
        direct = rehearsed(small(hardware, *overrides), levers(**how), size)
        assert live_peak(found.blocks(size), found.events(2))[0] == live_peak(direct.blocks, direct.events)[0]
        if size > 1:  # of one window some copies are views, and do not last anyway
            assert found.blocks(size) == direct.blocks
            assert sorted(found.events(2)) == sorted(direct.events)  # autocast lets go in the order of a hash


@pytest.mark.parametrize("name", ["dlinear", "fno"])
def test_every_size_of_micro_batch_on_a_cpu_follows_from_two_but_for_scratch(small, traced, name):
    overrides = (BACKBONES | SCRATCH)[name]
    found = traced(*overrides)
    for size in (7, 64):
        direct = rehearsed(small("cpu", *overrides), levers(), size)
        assert [block for block in found.blocks(size) if block.phase != "scratch"] == direct.blocks


@pytest.mark.parametrize("name", BACKBONES)
def test_one_micro_batch_peaks_no_higher_than_two(traced, name):
    found = traced(*BACKBONES[name])
    assert [m for m in (1, 2, 3, 5, 8, 16, 32) if peak(found, m, 1) > peak(found, m, 2)] == []


def test_old_gradients_lie_beside_the_activations_of_a_second_micro_batch(small):
    """Wide and of one window: the weights are most of it."""
    config = own(small("rtx3090", "d_model=512"), "Wide")
    found = trace(config, levers(), **SIZES)
    weights = 4 * sum(p.numel() for p in build_model(config, **SIZES).parameters())
    assert 0.1 * weights < peak(found, 1, 2) - peak(found, 1, 1) <= weights


# what is in it, and what is not


def test_a_trace_draws_no_random_number(small):
    """Not even for the scratch of dropout, which is run in earnest."""
    before = torch.random.get_rng_state()
    trace(small("cpu", *PATCHTST), levers(checkpointing="full"), **SIZES)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_trace_keeps_no_tensor_alive(small, traced):
    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    dlinear = BACKBONES["dlinear"]
    for hardware in ("cpu", "v100"):
        traced(*dlinear, hardware=hardware)  # what PyTorch keeps for itself, it keeps from the first time on
        before = tensors()
        found = trace(small(hardware, *dlinear), levers(), **SIZES)
        assert found.blocks(1)
        assert tensors() == before


def test_the_batch_on_the_host_is_not_counted(traced):
    assert not [block for block in traced(*ALL_TASKS).blocks(3) if block.phase == "input"]


def test_a_part_of_the_batch_is_counted_on_a_gpu(small, traced):
    config = small("rtx3090", *ALL_TASKS)
    part = blank_batch(targets(config), 3, N_CHANNELS, config.data.window)
    copies = sorted(leaf.nbytes for leaf in tree_leaves(part.values()))
    blocks = traced(*ALL_TASKS, hardware="rtx3090").blocks(3)
    second = [block.nbytes for block in blocks if block.phase == "input" and block.part == 1]
    assert sorted(second) == sorted(2 * copies)  # in either step
    assert sum(second) > 2 * 3 * N_CHANNELS * config.data.window * 4


def test_no_scratch_is_measured_for_a_card(traced):
    phases = {block.phase for block in traced(*ALL_TASKS, hardware="rtx3090").blocks(3)}
    assert phases == {"weights", "metrics", "input", "forward", "backward", "optimizer", "score"}


def test_the_metrics_take_what_they_really_take(small, traced):
    """They are there as long as the model is: what has been counted, and what to begin with again."""
    config = small("cpu", *ALL_TASKS)
    model = build_model(config, **SIZES)
    _, left, scores = handed_out(lambda: Scores(model))
    assert list(scores.metrics) == list(config.task)
    assert sum(block.nbytes for block in traced(*ALL_TASKS).blocks(3) if block.phase == "metrics") == left


def test_an_operator_that_is_refused_says_so_and_is_not_logged_with_its_traceback():
    """As it is by PyTorch before and after."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    assert not log.disabled
    with pytest.raises(RuntimeError, match="Unsupported dtype BFloat16"), emulated(8.6):
        assert log.disabled
        torch.fft.rfft(torch.ones(3, 8, dtype=torch.bfloat16))
    assert not log.disabled


class Watcher(Observer):
    """Notes when what goes on becomes something else."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        now = f"{self.phase} {self.part}"
        if self.seen[-1:] != [now]:
            self.seen.append(now)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("steps", [1, 2])
def test_a_rehearsal_is_steps_of_two_micro_batches_and_a_prediction(light, steps):
    watcher = Watcher()
    with emulated(8.6):
        rehearse(light("rtx3090"), levers(), 3, watcher, **SIZES, steps=steps)
    part = [["forward 0", "input 0", "forward 0"], ["forward 1", "input 1", "forward 1"]]
    step = [*part[0], *part[1], "optimizer 0"]
    assert watcher.seen == ["weights 0", "metrics 0", *steps * step, "input 0", "score 0"]
