"""A step that can be made again: random numbers and buffers to the bit, and where it failed."""

import random
import re

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from vibench.errors import is_out_of_memory
from vibench.step.recovery import Snapshot, first_line, give_back, place_of, rng_state, set_rng_state, wanted

CPU = torch.device("cpu")
TOO_MUCH = 2**60  # bytes; no address space has them


class Counts(nn.Module):
    """Buffers that change in every way a buffer can: in place, by assignment, from nothing, to nothing."""

    def __init__(self):
        super().__init__()
        self.register_buffer("in_place", torch.zeros(3))
        self.register_buffer("assigned", torch.zeros(3), persistent=False)
        self.register_buffer("made", None)
        self.register_buffer("dropped", torch.ones(2))

    def forward(self, x):
        self.in_place.add_(x.detach().mean(0))
        self.assigned = self.assigned + 1
        self.made = x.detach().clone()
        self.dropped = None
        return x


class Late(nn.Module):
    """A buffer that the first steps leave as it is, as where a task is trained later."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps += 1
        if self.steps > 2:
            self.seen += x.detach().mean(0)
        return x


def model_with(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), layer, nn.Dropout(0.5))


def step(model, rows=5):
    return model(torch.randn(rows, 3)).detach()


def buffers(model):
    """As lists, by name; None for none."""
    return {
        f"{name}.{key}": None if buffer is None else buffer.tolist()
        for name, module in model.named_modules()
        for key, buffer in module._buffers.items()
    }


def lost(model, steps_before=0):
    """What a snapshot does not put back after two attempts of other sizes at the step after so many others."""
    snapshot = Snapshot([model], CPU)
    for _ in range(steps_before):
        snapshot.take()
        step(model)
    snapshot.take()
    before = buffers(model)
    for rows in (4, 7):
        step(model, rows)
        changed = buffers(model)
        snapshot.restore()
    assert changed != before  # else nothing would be put back
    after = buffers(model)
    return [key for key in before if after[key] != before[key]]


@pytest.mark.parametrize("steps_before", [0, 1, 3])
def test_buffers_are_put_back_to_the_bit_however_a_step_changes_them(steps_before):
    assert lost(model_with(Counts()), steps_before) == []


@pytest.mark.parametrize("steps_before", [0, 2])
def test_the_statistics_of_a_batch_norm_are_put_back_to_the_bit(steps_before):
    assert lost(model_with(nn.BatchNorm1d(3)), steps_before) == []


def test_a_buffer_that_changes_for_the_first_time_in_a_later_step_is_put_back():
    assert lost(model_with(Late()), steps_before=2) == []


def test_what_is_put_back_is_the_buffer_that_was_there_and_not_another():
    """Who else holds it sees what the model sees."""
    model = model_with(Counts())
    held = model[1].assigned
    snapshot = Snapshot([model], CPU)
    snapshot.take()
    step(model)
    assert model[1].assigned is not held
    snapshot.restore()
    assert model[1].assigned is held


def test_a_step_that_is_kept_stays():
    model = model_with(Counts())
    snapshot = Snapshot([model], CPU)
    for _ in range(3):
        snapshot.take()
        step(model)
    assert model[1].assigned.tolist() == [3, 3, 3]


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.LayerNorm])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_the_same_numbers_are_drawn_again(steps_before, kind):
    model = model_with(kind(3))
    snapshot = Snapshot([model], CPU)
    for _ in range(steps_before):
        snapshot.take()
        step(model)
    snapshot.take()
    before = torch.get_rng_state()
    first = step(model)
    assert not torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(step(model), first)
    snapshot.restore()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(step(model), first)


def test_a_state_of_random_numbers_is_a_copy():
    state = rng_state(CPU)
    first = torch.rand(3)
    for _ in range(2):
        set_rng_state(state, CPU)
        assert torch.equal(torch.rand(3), first)


def test_the_state_of_a_card_is_no_matter_to_a_cpu():
    """A checkpoint of a run on a card can be gone on with elsewhere."""
    state = rng_state(CPU)
    first = torch.rand(3)
    set_rng_state(state | {"cuda": torch.zeros(16, dtype=torch.uint8)}, CPU)
    assert torch.equal(torch.rand(3), first)


def test_letting_go_changes_no_number():
    state, kept = rng_state(CPU), torch.rand(100)
    before, python = kept.clone(), random.getstate()
    set_rng_state(state, CPU)
    give_back(CPU)
    assert torch.equal(torch.rand(100), before)
    assert torch.equal(kept, before)
    assert random.getstate() == python


# where it failed


class Greedy(nn.Module):
    """Asks for too much, forward, or backward."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def forward(self, x):
        if self.when == "forward":
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return GreedyFunction.apply(x) if self.when == "backward" else x.exp()


class GreedyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        torch.empty(TOO_MUCH, dtype=torch.uint8)


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Net(nn.Module):
    def __init__(self, when):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([Block(nn.Linear(3, 3)), Block(Greedy(when))])

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def failure(work):
    with pytest.raises(RuntimeError, match="allocate") as caught:
        work()
    assert is_out_of_memory(caught.value)
    return caught.value


def test_a_failure_forward_is_of_the_innermost_layer():
    model = Net("forward")
    error = failure(lambda: model(torch.ones(2, 3)))
    assert place_of(error, model) == "the forward pass of blocks.1.inner"


def test_a_failure_of_a_kernel_is_of_the_layer_that_called_it():
    model = Net("")
    error = failure(lambda: model.first(torch.ones(3).expand(2**50, 3)))
    assert place_of(error, model) == "the forward pass of first"


def test_a_layer_is_named_as_its_model_names_it():
    model = Net("forward")
    error = failure(lambda: model(torch.ones(2, 3)))
    assert place_of(error, model.blocks) == "the forward pass of 1.inner"
    assert place_of(error, model.blocks[1]) == "the forward pass of inner"


def test_a_failure_beside_the_model_is_of_the_step():
    model = Net("forward")
    error = failure(lambda: torch.empty(TOO_MUCH, dtype=torch.uint8))
    assert place_of(error, model) == "the step"
    assert place_of(failure(lambda: model(torch.ones(2, 3))), nn.Linear(3, 3)) == "the step"


def test_a_failure_backward_is_of_the_backward_pass():
    model = Net("backward")
    out = model(torch.ones(2, 3)).sum()
    assert place_of(failure(out.backward), model) == "the backward pass"


def test_a_failure_of_a_layer_that_is_computed_again_is_of_its_backward_pass():
    model = Net("")
    out = checkpoint(model.blocks[1], model.first(torch.ones(2, 3)), use_reentrant=False).sum()
    model.blocks[1].inner.when = "forward"
    assert place_of(failure(out.backward), model) == "the backward pass of blocks.1.inner"


def test_an_error_that_was_never_raised_is_of_the_step():
    assert place_of(RuntimeError("x"), Net("")) == "the step"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("one"), "one"),
        (RuntimeError("\n  one \ntwo"), "one "),
        (RuntimeError("x" * 301), "x" * 300),
        (MemoryError(), "MemoryError"),
        (RuntimeError(" \n "), "RuntimeError"),
        (OSError(12, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
    ],
    ids=repr,
)
def test_what_an_error_says_is_one_line(error, said):
    assert first_line(error) == said


def test_what_torch_says_is_one_line():
    assert re.fullmatch(r".*can't allocate memory.*", first_line(failure(lambda: torch.empty(TOO_MUCH)))) is not None


def test_what_torch_could_not_have_is_told_in_mib():
    assert wanted(failure(lambda: torch.empty(2**50 * 3 // 2, dtype=torch.uint8))) == f"asked for {2**30 * 3 / 2} MiB"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has"), "asked for 2.5 GiB"),
        (RuntimeError("x\ny: you tried to allocate 1572864 bytes."), "asked for 1.5 MiB"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED\nmore"), "CUBLAS_STATUS_ALLOC_FAILED"),
        (MemoryError(), "MemoryError"),
    ],
    ids=repr,
)
def test_what_could_not_be_had_is_told_in_the_words_of_the_allocator(error, said):
    assert wanted(error) == said
