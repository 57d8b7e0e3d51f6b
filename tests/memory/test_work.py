"""The work of a training step, and the seconds it takes on some hardware."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.memory.own import own
from tests.model.batches import N_CHANNELS, SIZES
from vibench.memory.trace import SIZES as WINDOWS
from vibench.memory.trace import Levers
from vibench.memory.work import LAUNCH_S, PRODUCTS, STREAMS, Counter, Kernel, Seconds, Work, count

FP32 = Levers(precision="fp32", checkpointing="none")


# what is counted


@pytest.mark.parametrize(("rows", "wide", "narrow"), [(1, 1, 1), (7, 16, 5), (64, 3, 130)])
def test_a_layer_forward_and_backward_is_three_products(rows, wide, narrow):
    """One forward, one for the gradient of what goes in, one for that of the weight."""
    with FakeTensorMode():
        layer, x = nn.Linear(wide, narrow, bias=False), torch.ones(rows, wide, requires_grad=True)
        with Counter() as counter:
            layer(x).sum().backward()
    assert sum(kernel.operations for kernel in counter.kernels) == 3 * 2 * rows * wide * narrow


def test_a_kernel_moves_what_it_reads_and_what_it_writes():
    with FakeTensorMode():
        a, b = torch.ones(100), torch.ones(100)
        with Counter() as counter:
            a + b
            a.bfloat16()
            a.sum()
    assert [kernel.nbytes for kernel in counter.kernels] == [1200, 600, 404]
    assert [kernel.half for kernel in counter.kernels] == [False, True, False]
    assert [kernel.operations for kernel in counter.kernels] == [0, 0, 0]


def test_a_view_is_no_work():
    with FakeTensorMode():
        a = torch.ones(100)
        with Counter() as counter:
            a.view(10, 10).t()[3:].detach().expand(2, 7, 10)
    assert counter.kernels == []


def part_of(config, micro_batch, levers=FP32):
    """Operations of one micro-batch, forward and backward."""
    work, (first, second) = count(config, levers, **SIZES), WINDOWS
    sums = [sum(k.operations for k in kernels if k.phase == "forward") for kernels in (work.small, work.large)]
    return sums[0] + (sums[1] - sums[0]) * (micro_batch - first) / (second - first)


@pytest.mark.parametrize(("name", "layers"), [("Wide", 1), ("Stack", 6)])
def test_the_work_of_a_micro_batch_is_that_of_its_layers(small, name, layers):
    """Beyond what the same experiment without the layers takes; of 3 channels, all tokens of one size after another."""
    config = small("rtx3090")
    tokens = 5 * N_CHANNELS * config.embedding.n_tokens(config.data.window)
    expected = layers * 3 * 2 * tokens * config.d_model**2
    more = part_of(own(config, name), 5) - part_of(own(config, "Bare"), 5)
    assert more == expected


def test_checkpointing_goes_forward_once_more_up_to_the_last_product_of_a_block(small):
    """Whose result is asked for by nobody."""
    config = own(small("rtx3090"), "Stack")
    tokens = 5 * N_CHANNELS * config.embedding.n_tokens(config.data.window)
    again = part_of(config, 5, replace(FP32, checkpointing="full")) - part_of(config, 5)
    assert again == 3 * 2 * tokens * config.d_model**2


@pytest.fixture(scope="module")
def light_work(light):
    return count(light("rtx3090"), FP32, **SIZES)


def test_the_kernels_of_two_sizes_are_alike(light_work):
    assert len(light_work.small) == len(light_work.large) > 0
    assert [(k.phase, k.part, k.half) for k in light_work.small] == [
        (k.phase, k.part, k.half) for k in light_work.large
    ]


def test_work_is_counted_in_its_phases_and_once(light_work):
    """The second micro-batch of a step, which adds to gradients that are there."""
    assert {k.phase for k in light_work.small} == {"input", "forward", "optimizer", "score"}
    assert {k.part for k in light_work.small if k.phase in ("input", "forward")} == {1}


def test_the_optimizer_moves_what_does_not_depend_on_the_batch(light_work):
    small, large = ([k.nbytes for k in ks if k.phase == "optimizer"] for ks in (light_work.small, light_work.large))
    assert small == large
    assert sum(small) > 0


def test_a_prediction_is_less_work_than_a_step_of_training(light_work):
    forward, score = (sum(k.nbytes for k in light_work.large if k.phase == phase) for phase in ("forward", "score"))
    assert 0 < score < forward


# what it takes


@pytest.fixture
def card(small):
    """10^12 operations a second, twice as many in half precision, 10^9 bytes a second."""
    return replace(small("rtx3090").hardware, fp32_tflops=1.0, half_tflops=2.0, bandwidth_gbs=1.0)


def works(*kernels):
    """Work that is the same for every size of micro-batch."""
    return Work(list(kernels), list(kernels))


@pytest.mark.parametrize(
    ("operations", "nbytes", "half", "seconds"),
    [
        (3e12, 0, False, 3 / PRODUCTS),
        (3e12, 0, True, 1.5 / PRODUCTS),
        (0, 4e9, False, 4 / STREAMS),
        (0, 4e9, True, 4 / STREAMS),
        (3e12, 4e9, False, max(3 / PRODUCTS, 4 / STREAMS)),
        (3e12, 4e9, True, max(1.5 / PRODUCTS, 4 / STREAMS)),
        (0, 0, False, 0),
    ],
)
def test_a_kernel_takes_the_longer_of_calculating_and_moving_and_its_start(card, operations, nbytes, half, seconds):
    work = works(Kernel(operations, nbytes, half, "forward", 1))
    assert work.seconds(7, card).part == pytest.approx(seconds + LAUNCH_S)


def test_kernels_one_after_another_take_the_sum_of_their_times(card):
    """One calculates while nothing is moved, the other moves while nothing is calculated."""
    work = works(Kernel(3e12, 0, False, "forward", 1), Kernel(0, 4e9, False, "forward", 1))
    assert work.seconds(7, card).part == pytest.approx(3 / PRODUCTS + 4 / STREAMS + 2 * LAUNCH_S)


def test_at_best_kernels_reach_the_data_sheet_and_start_at_once(card):
    """That of half precision: fp32 may be calculated in TF32."""
    work = works(Kernel(3e12, 1e9, False, "forward", 1), Kernel(0, 4e9, False, "optimizer", 0))
    assert work.seconds(7, card, at_best=True) == Seconds(part=1.5, update=4.0, score=0.0)


def test_each_phase_is_on_the_account_of_its_part_of_a_run(card):
    phases = {"input": 1e9, "forward": 2e9, "optimizer": 4e9, "score": 8e9}
    work = works(*(Kernel(0, nbytes, False, phase, 1) for phase, nbytes in phases.items()))
    assert work.seconds(7, card, at_best=True) == Seconds(part=3.0, update=4.0, score=8.0)


def test_without_a_rate_for_half_precision_that_of_fp32_counts(card):
    work = works(Kernel(3e12, 0, True, "forward", 1))
    assert work.seconds(7, replace(card, half_tflops=None), at_best=True).part == 3.0


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 11, 100])
def test_seconds_grow_on_the_line_through_the_two_sizes(card, micro_batch):
    """Two seconds and half a second for every window; the other kernel shrinks, but never below nothing."""
    grows = [Kernel(0, (2 + size / 2) * 1e9, False, "forward", 1) for size in WINDOWS]
    shrinks = [Kernel((100 - size) * 1e12, 0, False, "score", 0) for size in WINDOWS]
    found = Work([grows[0], shrinks[0]], [grows[1], shrinks[1]]).seconds(micro_batch, card, at_best=True)
    assert found.part == pytest.approx(2 + micro_batch / 2)
    assert found.score == pytest.approx((100 - micro_batch) / 2)


def test_a_faster_card_takes_less(light_work, small):
    seconds = [light_work.seconds(32, small(name).hardware) for name in ("v100", "rtx3090", "h100")]
    assert seconds[0].part > seconds[1].part > seconds[2].part
    best = [light_work.seconds(32, small(name).hardware, at_best=True) for name in ("v100", "rtx3090", "h100")]
    assert all(at_best.part < usual.part for at_best, usual in zip(best, seconds, strict=True))
