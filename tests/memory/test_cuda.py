"""Operators as on a GPU, where there is none."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from tests.model.batches import N_CHANNELS, SIZES
from vibench.memory.cuda import as_on_gpu
from vibench.memory.trace import Levers, trace
from vibench.memory.tracker import Tracker

BF16 = torch.bfloat16


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


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_dropout_that_drops_nothing_makes_nothing(seen, p, training):
    with as_on_gpu(8.6):
        assert seen(lambda: F.dropout(torch.ones(1000, requires_grad=True), p, training)) == [4000]


@pytest.mark.parametrize(
    ("capability", "dtype"), [(8.6, BF16), (8.6, torch.float32), (7.0, torch.float32), (7.0, torch.float16)]
)
def test_attention_keeps_no_weights_on_a_gpu(seen, capability, dtype):
    with as_on_gpu(capability):
        assert largest(seen(lambda: attended(dtype)), dtype) < 64 * 64
    assert largest(seen(lambda: attended(dtype)), dtype) >= 2 * 64 * 64


@pytest.mark.parametrize(("hardware", "precision"), [("rtx3090", "bf16"), ("v100", "fp32")])
def test_the_attention_of_a_trace_keeps_no_weights_on_a_card(small, hardware, precision):
    """The tokens of all channels are far fewer bytes than their pairs."""
    config = small(hardware, "backbone=patchtst", "backbone.e_layers=1")
    blocks = trace(config, Levers(precision=precision, checkpointing="none"), **SIZES).blocks(100)
    n, heads = config.embedding.n_tokens(256), config.backbone.n_heads
    weights = 100 * N_CHANNELS * heads * n * n * (2 if precision == "bf16" else 4)
    assert weights not in {block.nbytes for block in blocks if block.layer.endswith("attention")}


# autocast: what a GPU does (the tables of PyTorch's manual), and what a CPU does

FP32_ON_A_GPU = {
    "layer_norm": lambda x: F.layer_norm(x, (8,)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "exp": torch.exp,
    "log": torch.log,
    "pow": lambda x: x**3,
    "power of a number": lambda x: 3**x,
    "rsqrt": torch.rsqrt,
    "softplus": F.softplus,
    "sum": torch.sum,
    "sum over one": lambda x: x.sum(-1),
    "sum by its place": lambda x: torch.sum(x, 1, True),
    "cumsum": lambda x: x.cumsum(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "norm": torch.linalg.vector_norm,
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0),
}
BF16_ON_A_GPU = {
    "replication padding": lambda x: F.pad(x, (1, 1), mode="replicate"),
    "reflection padding": lambda x: F.pad(x, (1, 1), mode="reflect"),
    "average of neighbours": lambda x: F.avg_pool1d(x, 2),
    "average of neighbours in a volume": lambda x: F.avg_pool3d(x[None], (2, 1, 1)),
    "most of neighbours in a volume": lambda x: F.max_pool3d(x[None], (2, 1, 1)),
    "gelu": F.gelu,
    "mean": lambda x: x.mean(-1),
    "sum with its dtype": lambda x: x.sum(-1, dtype=BF16),
    "softmax with its dtype": lambda x: x.softmax(-1, dtype=BF16),
    "stack": lambda x: torch.stack([x, x]),
}
FP32_ON_A_CPU = (
    "replication padding",
    "reflection padding",
    "average of neighbours in a volume",
    "most of neighbours in a volume",
)


def half():
    return torch.ones(4, 4, 8, dtype=BF16)


@pytest.mark.parametrize("name", FP32_ON_A_GPU)
def test_autocast_calculates_in_fp32_what_it_does_on_a_gpu_and_not_on_a_cpu(name):
    call = FP32_ON_A_GPU[name]
    with FakeTensorMode():
        with as_on_gpu(8.6), torch.autocast("cpu", BF16):
            assert call(half()).dtype is torch.float32
            assert call(half().float()).dtype is torch.float32
            assert call(half().double()).dtype is torch.float64
        with as_on_gpu(8.6):
            assert call(half()).dtype is BF16  # without autocast
        with torch.autocast("cpu", BF16):
            assert call(half()).dtype is BF16


@pytest.mark.parametrize("name", BF16_ON_A_GPU)
def test_autocast_leaves_in_bf16_what_it_does_on_a_gpu(name):
    call = BF16_ON_A_GPU[name]
    with FakeTensorMode():
        with as_on_gpu(8.6), torch.autocast("cpu", BF16):
            assert call(half()).dtype is BF16
        with torch.autocast("cpu", BF16):
            assert call(half()).dtype is (torch.float32 if name in FP32_ON_A_CPU else BF16)


def test_the_fourier_transform_is_not_cast_on_a_gpu_and_there_is_none_in_bf16():
    with FakeTensorMode():
        with torch.autocast("cpu", BF16):
            assert torch.fft.rfft(half()).dtype is torch.complex64
        with as_on_gpu(8.6), torch.autocast("cpu", BF16):
            assert torch.fft.rfft(half().float()).dtype is torch.complex64
            with pytest.raises(RuntimeError, match="Unsupported dtype BFloat16"):
                torch.fft.rfft(half())


PRODUCTS = {
    "linear": lambda x: F.linear(x, torch.ones(5, 8)),
    "matmul": lambda x: x @ x.transpose(1, 2),
    "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)),
    "convolution": lambda x: F.conv1d(x, torch.ones(3, 4, 3)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_in_bf16_on_either(name):
    call = PRODUCTS[name]
    with FakeTensorMode(), torch.autocast("cpu", BF16):
        assert call(half().float()).dtype is BF16
        with as_on_gpu(8.6):
            assert call(half().float()).dtype is BF16


def test_a_promotion_goes_to_the_widest():
    with FakeTensorMode(), as_on_gpu(8.6), torch.autocast("cpu", BF16):
        assert torch.cat([half(), half().float()]).dtype is torch.float32
        assert (half() + half().float()).dtype is torch.float32


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("sum", [256, 4]),
        ("sum over one", [256, 64]),
        ("sum by its place", [256, 128]),
    ],
)
def test_a_sum_reads_bf16_and_adds_in_fp32_without_a_copy_of_its_argument(seen, name, sizes):
    with as_on_gpu(8.6), torch.autocast("cpu", BF16):
        assert seen(lambda: FP32_ON_A_GPU[name](half())) == sizes


@pytest.mark.parametrize("name", ["exp", "rsqrt", "pow", "softmax"])
def test_what_is_calculated_in_fp32_makes_a_copy_of_its_argument(seen, name):
    with as_on_gpu(8.6), torch.autocast("cpu", BF16):
        assert seen(lambda: FP32_ON_A_GPU[name](half())) == [256, 512, 512]


@pytest.mark.parametrize("name", FP32_ON_A_GPU)
def test_gradients_come_back_in_the_precision_of_what_went_in(name):
    with FakeTensorMode(), as_on_gpu(8.6), torch.autocast("cpu", BF16):
        x = half().requires_grad_()
        FP32_ON_A_GPU[name](x).sum().backward()
    assert (x.grad.shape, x.grad.dtype) == (x.shape, BF16)


# afterwards


def all_of_it(seen):
    """What is otherwise on a GPU."""
    calls = FP32_ON_A_GPU | BF16_ON_A_GPU
    with FakeTensorMode(), torch.autocast("cpu", BF16):
        kinds = {name: call(half()).dtype for name, call in calls.items()}
        kinds["rfft"] = torch.fft.rfft(half()).dtype
    return seen(dropped), seen(lambda: attended(torch.float32)), kinds


def test_after_a_trace_for_a_gpu_everything_is_as_on_a_cpu_again(seen, light):
    before = all_of_it(seen)
    with as_on_gpu(8.6), pytest.raises(RuntimeError, match="Unsupported dtype BFloat16"):
        all_of_it(seen)
    trace(light("rtx3090"), Levers(precision="bf16", checkpointing="none"), **SIZES)
    assert all_of_it(seen) == before


def test_code_that_fails_as_on_a_gpu_leaves_the_cpu_as_it_was(seen):
    before = all_of_it(seen)
    with pytest.raises(ValueError, match="of the code"), as_on_gpu(8.6):
        raise ValueError("of the code")
    assert all_of_it(seen) == before


def test_real_numbers_are_the_same_on_either():
    """What autocast casts otherwise, without autocast."""
    x = torch.rand(4, 4, 8) + 0.5
    expected = {name: call(x) for name, call in (FP32_ON_A_GPU | BF16_ON_A_GPU).items()}
    with as_on_gpu(8.6):
        found = {name: call(x) for name, call in (FP32_ON_A_GPU | BF16_ON_A_GPU).items()}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
