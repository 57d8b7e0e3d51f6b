"""TimesNet against one sequence, one period and one convolution after the other."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tests.backbones.plain import plain_timesnet, plain_timesnet_block, published_timesnet_block
from vibench.backbones.timesnet import TimesBlock, TimesNet

SIZES = [(2, 1), (3, 1), (6, 1), (6, 3), (7, 2), (7, 3), (8, 3), (8, 4), (13, 2), (13, 6), (32, 5)]  # N, top_k
SMALL = {"d_model": 4, "d_ff": 3, "num_kernels": 3}


def block_of(n, top_k, period=None):
    """A block with biases that are not zero, which would hide them."""
    torch.manual_seed(0)
    block = TimesBlock(n, 4, 3, top_k, period, 3)
    for name, parameter in block.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return block


def model_of(n, top_k, *, period=None, dropout=0.0):
    torch.manual_seed(0)
    return TimesNet(n_tokens=n, e_layers=2, top_k=top_k, period=period, dropout=dropout, **SMALL)


def sinusoid(frequency, n):
    """Four features (1, N, 4) of one frequency, with different phases."""
    return torch.sin(2 * math.pi * frequency * torch.arange(n)[None, :, None] / n + torch.tensor([0.3, 1.1, 2.5, 4.0]))


class Convolved(TorchFunctionMode):
    """Counts the tokens of the planes that are convolved, padding included."""

    def __init__(self):
        super().__init__()
        self.tokens = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d:
            planes = args[0]
            self.tokens += planes.numel() // planes.shape[1]
        return func(*args, **(kwargs or {}))


def convolved(block, tokens):
    with Convolved() as counted:
        block(tokens)
    return counted.tokens


@pytest.mark.parametrize(("n", "top_k"), SIZES)
def test_a_block_is_the_one_of_the_paper(n, top_k):
    block, tokens = block_of(n, top_k), torch.randn(5, n, 4)
    torch.testing.assert_close(block(tokens), plain_timesnet_block(block, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "top_k"), SIZES)
def test_the_gradients_of_a_block_are_those_of_the_paper(n, top_k):
    block = block_of(n, top_k).double()  # all but the spectrum
    tokens = torch.randn(5, n, 4, dtype=torch.float64, requires_grad=True)
    into = [tokens, *block.parameters()]
    fast, slow = block(tokens), plain_timesnet_block(block, tokens)
    towards = torch.randn_like(slow)
    got, expected = (torch.autograd.grad(out, into, towards) for out in (fast, slow))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "top_k"), [(7, 2), (32, 5)])
def test_the_model_is_blocks_with_a_normalisation_after_each(n, top_k):
    model, tokens = model_of(n, top_k), torch.randn(3, n, 4)
    nn.init.normal_(model.norm.weight)
    nn.init.normal_(model.norm.bias)
    torch.testing.assert_close(model(tokens), plain_timesnet(model, tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n", "top_k"), [(7, 2), (32, 5)])
def test_one_sequence_is_treated_as_by_the_published_code(n, top_k):
    block, tokens = block_of(n, top_k), torch.randn(1, n, 4)  # whose mean spectrum is its own
    torch.testing.assert_close(block(tokens), published_timesnet_block(block, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "frequency"), [(n, f) for n in (12, 13) for f in range(1, 7)])
def test_a_sinusoid_folds_by_its_period_rounded_up(n, frequency):
    found, given = block_of(n, 1), block_of(n, 1, period=math.ceil(n / frequency))
    tokens = sinusoid(frequency, n)
    torch.testing.assert_close(found(tokens), given(tokens))


@pytest.mark.parametrize("period", [1, 2, 5, 13])  # 5 does not divide 13
def test_a_period_that_is_given_folds_every_sequence(period):
    block = block_of(13, 3, period)
    tokens = torch.cat([torch.randn(2, 13, 4), sinusoid(4, 13), torch.zeros(1, 13, 4)])
    expected = plain_timesnet_block(block, tokens, period)
    torch.testing.assert_close(block(tokens), expected, rtol=1e-4, atol=1e-5)


def test_beside_a_given_period_top_k_counts_for_nothing():
    tokens = torch.randn(2, 13, 4)
    assert torch.equal(block_of(13, 1, 4)(tokens), block_of(13, 99, 4)(tokens))


def test_the_strong_period_of_a_neighbour_is_not_taken():
    block, quiet, loud = block_of(12, 1), sinusoid(4, 12), 100 * sinusoid(1, 12)
    beside = block(torch.cat([quiet, loud]))[:1]
    torch.testing.assert_close(beside, block(quiet))
    assert not torch.allclose(beside, block_of(12, 1, 12)(quiet), atol=0.1)  # what the neighbour's would give


def test_equal_sequences_are_treated_alike_wherever_they_stand():
    block, one, other = block_of(12, 2), torch.randn(12, 4), torch.randn(12, 4)
    out = block(torch.stack([one, other, one, one, other]))
    torch.testing.assert_close(out[[2, 3]], out[[0, 0]])
    torch.testing.assert_close(out[4], out[1])


@pytest.mark.parametrize("top_k", [1, 5, 16])  # 16 frequencies of 32 tokens have 10 periods
def test_the_weights_of_the_periods_sum_to_one(top_k):
    block, tokens = block_of(32, top_k), torch.randn(3, 32, 4)
    for conv in block.narrow.kernels:  # a constant, so that only its weight is seen
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, 2.0)
    torch.testing.assert_close(block(tokens), tokens + 2)


@pytest.mark.parametrize("shift", [1, 5])
def test_tokens_turned_in_a_circle_keep_their_periods_and_weights(shift):
    block, tokens = block_of(13, 3), torch.randn(4, 13, 4)
    before, after = block._shares(tokens), block._shares(tokens.roll(shift, 1))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_constant_tokens_have_finite_gradients(level):
    model = model_of(8, 3)
    tokens = torch.full((2, 8, 4), level, requires_grad=True)  # no frequency is stronger than another
    model(tokens).square().sum().backward()
    gradients = {"tokens": tokens.grad} | {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, grad in gradients.items() if not grad.isfinite().all()] == []


@pytest.mark.parametrize("n", [7, 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype, n):
    model, tokens = model_of(n, 3), torch.randn(3, n, 4)
    with torch.autocast("cpu", dtype):
        out = model(tokens)
    torch.testing.assert_close(out.float(), model(tokens), rtol=0, atol=0.1)
    out.sum().backward()
    assert [name for name, p in model.named_parameters() if not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("n", [7, 32])
def test_a_trace_without_numbers_runs_forward_and_backward(n, precision):
    with FakeTensorMode():
        model, tokens = model_of(n, 3), torch.randn(3, n, 4, requires_grad=True)
        with torch.autocast("cpu", precision, enabled=precision is not None):
            out = model(tokens)
        out.float().sum().backward()
        assert out.shape == tokens.grad.shape == (3, n, 4)


@pytest.mark.parametrize("period", [None, 5])
def test_tokens_on_device_meta_run_forward_and_backward(period):
    with torch.device("meta"):
        model, tokens = model_of(13, 3, period=period), torch.randn(3, 13, 4, requires_grad=True)
    out = model(tokens)
    out.sum().backward()
    assert out.shape == tokens.grad.shape == (3, 13, 4)


@pytest.mark.parametrize(("n", "top_k"), [(6, 1), (6, 3), (7, 2), (13, 1), (13, 6), (32, 1), (32, 5), (32, 16)])
def test_a_trace_convolves_as_many_tokens_as_the_worst_input(n, top_k):
    frequency_of = {math.ceil(n / f): f for f in range(1, n // 2 + 1)}
    widest = sorted(frequency_of, key=lambda period: math.ceil(n / period) * period)[-top_k:]
    worst = sum(sinusoid(frequency_of[period], n) for period in widest).expand(3, n, 4)
    with FakeTensorMode():
        traced = convolved(block_of(n, top_k), torch.randn(3, n, 4))
    assert traced == convolved(block_of(n, top_k), worst)


@pytest.mark.parametrize(("n", "top_k"), [(6, 2), (7, 1), (13, 2), (13, 6), (32, 5)])
def test_no_input_convolves_more_tokens_than_a_trace(n, top_k):
    block = block_of(n, top_k)
    with FakeTensorMode():
        traced = convolved(block_of(n, top_k), torch.randn(8, n, 4))
    assert max(convolved(block, torch.randn(8, n, 4)) for _ in range(5)) <= traced


def test_dropout_acts_in_training_only():
    model, tokens = model_of(8, 3, dropout=0.5), torch.randn(1, 8, 4)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_the_weights_fit_any_number_of_tokens():
    model = model_of(7, 2)
    model.load_state_dict(model_of(32, 5).state_dict())
    assert model(torch.randn(2, 7, 4)).shape == (2, 7, 4)


@pytest.mark.parametrize(("d", "ff", "layers", "kernels"), [(4, 3, 2, 3), (5, 8, 3, 6), (4, 4, 1, 1)])
def test_the_number_of_parameters_follows_from_the_sizes(d, ff, layers, kernels):
    model = TimesNet(
        n_tokens=13, d_model=d, e_layers=layers, d_ff=ff, top_k=2, period=None, num_kernels=kernels, dropout=0.0
    )
    taps = sum((2 * k + 1) ** 2 for k in range(kernels))
    block = 2 * taps * d * ff + kernels * (ff + d)
    assert sum(p.numel() for p in model.parameters()) == layers * block + 2 * d  # one normalisation for all
