"""The traced memory of a training step against what the CPU allocator hands out to the same step, really run."""

import gc
from functools import cache

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from tests.model.batches import N_CHANNELS, SIZES
from vibench.config.training import TaskWeights
from vibench.data.batch import blank_batch
from vibench.memory.cuda import as_on_gpu
from vibench.memory.trace import Levers, live_peak, trace
from vibench.memory.tracker import Tracker
from vibench.model import build_model, targets
from vibench.step.checkpointing import checkpoint_blocks
from vibench.step.optimizer import build_optimizer
from vibench.step.step import Step
from vibench.step.task_weights import Weighing

CPU = torch.device("cpu")
PATCHTST = ("backbone=patchtst", "backbone.e_layers=1")
BACKBONES = {
    "patchtst": PATCHTST,
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
HOST = {"transformer": 8}  # the number that tokens are scaled by, kept for the backward pass as a tensor on the host


@pytest.fixture(scope="module")
def of(tiny):
    """The config of some overrides."""
    return cache(tiny)


@pytest.fixture(scope="module")
def traced(of):
    """The trace of some overrides; each is made once."""

    @cache
    def call(*overrides, precision="fp32", checkpointing="none"):
        return trace(of(*overrides), Levers(precision=precision, checkpointing=checkpointing), **SIZES)

    return call


@pytest.fixture(scope="module")
def on_card(resolved):
    """A tiny experiment of default overrides on a card."""
    return cache(lambda hardware: resolved(f"hardware={hardware}", "data.window=256", "d_model=16", *PATCHTST))


def peak(found, micro_batch, accumulation=2):
    return live_peak(found.blocks(micro_batch), found.events(accumulation))[0]


def really(config, micro_batch, accumulation=2, precision="fp32", checkpointing="none"):
    """Most bytes that the CPU allocator had handed out at once in two real steps, and how many blocks there are."""
    host = blank_batch(targets(config), accumulation * micro_batch, N_CHANNELS, config.data.window)
    gc.collect()  # what dies in the measurement must have been born in it
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build_model(config, **SIZES)
        checkpoint_blocks(model.backbone, checkpointing)
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
                check=lambda shares: None,
            )
    live = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most, len(getattr(model.backbone, "blocks", ()))


@pytest.mark.parametrize("micro_batch", [1, 3, 16])
@pytest.mark.parametrize("name", BACKBONES)
def test_the_live_peak_is_that_of_the_real_step_to_the_byte(of, traced, name, micro_batch):
    measured, _ = really(of(*BACKBONES[name]), micro_batch)
    assert peak(traced(*BACKBONES[name]), micro_batch) == measured - HOST.get(name, 0)


@pytest.mark.parametrize("checkpointing", ["selective", "full"])
@pytest.mark.parametrize(
    ("name", "micro_batch"),  # of one window, a product in Mamba2 copies its argument for as long as it runs
    [("patchtst", 1), ("patchtst", 3), ("patchtst", 16), ("transformer", 3), ("mamba2", 3), ("mamba2", 16)],
)
def test_the_live_peak_with_checkpointing_is_that_of_the_real_step_to_the_byte(
    of, traced, name, checkpointing, micro_batch
):
    measured, blocks = really(of(*BACKBONES[name]), micro_batch, checkpointing=checkpointing)
    found = peak(traced(*BACKBONES[name], checkpointing=checkpointing), micro_batch)
    assert found == measured - blocks * RANDOM_STATE - HOST.get(name, 0)


@pytest.mark.parametrize(("accumulation", "events"), [(1, 1), (3, 2)])
def test_a_step_of_one_part_and_one_of_many_are_the_real_ones_to_the_byte(of, traced, accumulation, events):
    measured, _ = really(of(*PATCHTST), 3, accumulation)
    assert peak(traced(*PATCHTST), 3, events) == measured


@pytest.mark.parametrize("name", SCRATCH)
def test_the_live_peak_of_convolutions_is_that_of_the_real_step_but_for_their_scratch(of, traced, name):
    measured, _ = really(of(*SCRATCH[name]), 3)
    assert peak(traced(*SCRATCH[name]), 3) == pytest.approx(measured, rel=0.06)


def test_the_live_peak_in_half_precision_is_that_of_the_real_step_but_for_its_scratch(of, traced):
    """Wide enough that the copies a bf16 product makes for as long as it runs are less than a hundredth."""
    wide = ("backbone=patchtst", "d_model=64", "data.window=1024")
    measured, _ = really(of(*wide), 3, precision="bf16")
    assert peak(traced(*wide, precision="bf16"), 3) == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("size", [1, 7, 64, 256])
@pytest.mark.parametrize(
    ("name", "checkpointing", "precision"), [("patchtst", "none", "fp32"), ("dlinear", "none", "bf16")]
)
def test_every_size_of_micro_batch_follows_from_two(of, traced, name, checkpointing, precision, size):
    levers = Levers(precision=precision, checkpointing=checkpointing)
    with FakeTensorMode():
        direct = record(of(*BACKBONES[name]), levers, size, on_gpu=False, **SIZES)
    found = traced(*BACKBONES[name], precision=precision, checkpointing=checkpointing)
    assert peak(found, size) == live_peak(direct.blocks, direct.events)[0]
    if size > 1:  # of one window a copy of DLinear's in bf16 is a view, and does not last anyway
        assert found.blocks(size) == direct.blocks
        assert sorted(found.events(2)) == sorted(direct.events)  # autocast lets its copies go in the order of a hash


@pytest.mark.parametrize("name", BACKBONES)
def test_one_micro_batch_peaks_no_higher_than_two(traced, name):
    found = traced(*BACKBONES[name])
    assert [m for m in range(1, 33) if peak(found, m, 1) > peak(found, m, 2)] == []


def test_old_gradients_lie_beside_the_activations_of_a_second_micro_batch(of, traced):
    """Wide and of one window: the weights are most of it."""
    heavy = (*PATCHTST, "backbone.d_ff=1024")
    weights = 4 * sum(p.numel() for p in build_model(of(*heavy), **SIZES).parameters())
    more = peak(traced(*heavy), 1, 2) - peak(traced(*heavy), 1, 1)
    assert 0.1 * weights < more <= weights


def test_a_trace_draws_no_random_number(of):
    before = torch.random.get_rng_state()
    trace(of(*PATCHTST), Levers(precision="fp32", checkpointing="full"), **SIZES)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_trace_keeps_no_tensor_alive(traced, of):
    traced(*PATCHTST)  # what PyTorch keeps for itself, it keeps from the first time on

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before = tensors()
    found = trace(of(*PATCHTST), Levers(precision="fp32", checkpointing="none"), **SIZES)
    assert found.blocks(1)
    assert tensors() == before


def test_the_batch_on_the_host_is_not_counted(traced):
    assert not [block for block in traced(*PATCHTST).blocks(3) if block.phase == "input"]


def test_a_part_of_the_batch_is_counted_on_a_gpu(on_card):
    config = on_card("rtx3090")
    part = blank_batch(targets(config), 3, N_CHANNELS, config.data.window)
    leaves = tree_leaves(part.values())
    found = trace(config, Levers(precision="fp32", checkpointing="none"), **SIZES)
    blocks, copies = found.blocks(3), sorted(leaf.nbytes for leaf in leaves)
    second = [block.nbytes for block in blocks if block.phase == "input" and block.part == 1]
    assert sorted(second) == sorted(2 * copies)  # in either step
    assert sum(second) > 2 * 3 * N_CHANNELS * config.data.window * 4


# as on a GPU


@pytest.fixture
def seen():
    """Sizes in bytes of what some code on fake tensors makes, in order."""

    def call(code):
        with FakeTensorMode():
            with Tracker() as tracker:
                kept = code()
            del kept
        return [block.nbytes for block in tracker.timeline.blocks]

    return call


def dropped():
    return F.dropout(torch.ones(1000, requires_grad=True), 0.5, True)


def attended(dtype, **kwargs):
    """Attention of two heads among 64 tokens, with dropout on its weights."""
    query = torch.ones(1, 2, 64, 8, dtype=dtype, requires_grad=True)
    return F.scaled_dot_product_attention(query, query, query, dropout_p=0.1, **kwargs)


def largest(sizes, dtype):
    return max(sizes) // torch.empty((), dtype=dtype).element_size()


def test_the_mask_of_dropout_is_a_byte_per_element_on_a_gpu(seen):
    with as_on_gpu(8.6):
        assert seen(dropped) == [4000, 4000, 1000]  # input, output, mask
    assert 1000 not in seen(dropped)


@pytest.mark.parametrize(
    ("capability", "dtype"), [(8.6, torch.bfloat16), (8.6, torch.float32), (7.0, torch.float32), (7.0, torch.float16)]
)
def test_attention_keeps_no_weights_on_a_gpu(seen, capability, dtype):
    with as_on_gpu(capability):
        assert largest(seen(lambda: attended(dtype)), dtype) < 64 * 64
    assert largest(seen(lambda: attended(dtype)), dtype) >= 2 * 64 * 64


@pytest.mark.parametrize(("hardware", "precision"), [("rtx3090", "bf16"), ("v100", "fp32")])
def test_the_attention_of_a_trace_keeps_no_weights_on_a_card(on_card, hardware, precision):
    """The tokens of all channels are far fewer bytes than their pairs."""
    config = on_card(hardware)
    blocks = trace(config, Levers(precision=precision, checkpointing="none"), **SIZES).blocks(100)
    n, heads = config.embedding.n_tokens(256), config.backbone.n_heads
    weights = 100 * N_CHANNELS * heads * n * n * (2 if precision == "bf16" else 4)
    assert weights not in {block.nbytes for block in blocks if block.layer.endswith("attention")}


FP32_ON_A_GPU = {
    "layer_norm": lambda x: F.layer_norm(x, (8,)),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "exp": torch.exp,
    "pow": lambda x: x**3,
    "rsqrt": torch.rsqrt,
    "softplus": F.softplus,
    "sum": torch.sum,
    "sum over one": lambda x: x.sum(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
}


@pytest.mark.parametrize("name", FP32_ON_A_GPU)
def test_autocast_calculates_in_fp32_what_it_does_on_a_gpu_and_not_on_a_cpu(name):
    call, half = FP32_ON_A_GPU[name], torch.ones(4, 8, dtype=torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with as_on_gpu(8.6), torch.autocast("cpu", torch.bfloat16):
            assert call(half).dtype is torch.float32
        with as_on_gpu(8.6):
            assert call(half).dtype is torch.bfloat16  # without autocast
        with torch.autocast("cpu", torch.bfloat16):
            assert call(half).dtype is torch.bfloat16


def test_after_a_trace_for_a_gpu_everything_is_as_on_a_cpu_again(seen, on_card):
    def all_of_it():
        with torch.autocast("cpu", torch.bfloat16):
            kind = F.layer_norm(torch.ones(4, 8, dtype=torch.bfloat16), (8,)).dtype
        return seen(dropped), seen(lambda: attended(torch.float32)), kind

    before = all_of_it()
    with as_on_gpu(8.6):
        assert all_of_it() != before
    trace(on_card("rtx3090"), Levers(precision="bf16", checkpointing="none"), **SIZES)
    assert all_of_it() == before


def test_code_that_fails_as_on_a_gpu_leaves_the_cpu_as_it_was(seen):
    before = seen(dropped)
    with pytest.raises(ValueError, match="of the code"), as_on_gpu(8.6):
        raise ValueError("of the code")
    assert seen(dropped) == before
