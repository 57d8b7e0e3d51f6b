"""Real failures for want of memory, and what is made of them: the same gradient from less, to the bit."""

import dataclasses
import gc
import logging
from functools import partial

import pytest
import torch

from tests.memory.own import training
from tests.model.batches import SIZES, random_batch
from vibench.config.training import Checkpointing
from vibench.errors import ConfigError, NanError, OutOfMemoryError, Restart
from vibench.memory.plan import fit
from vibench.memory.recovery import Recovery, Thrashing, halve_until_it_fits
from vibench.model import build_model
from vibench.step.checkpointing import checkpoint_blocks
from vibench.step.precision import grad_scaler
from vibench.step.recovery import Snapshot
from vibench.step.step import Step
from vibench.step.task_weights import Weighing

SIZE = 13
CPU = torch.device("cpu")
BLOCKS = ("backbone=patchtst", "backbone.e_layers=2", "embedding=patch", "backbone.dropout=0.3")
NO_BLOCKS = ("backbone=dlinear", "embedding=patch", "backbone.moving_average=3")
SLICED = (  # five electrodes in three slices
    *("backbone=bimamba_gnn", "backbone.n_nodes=5", "backbone.node_width=4", "backbone.node_layers=1"),
    *("backbone.edge_width=2", "backbone.edge_layers=1", "backbone.d_state=2", "backbone.edge_d_state=2"),
    *("backbone.head_dim=2", "backbone.edge_head_dim=2", "backbone.encoding_dim=3", "backbone.gnn_layers=1"),
    *("backbone.slice=2", "backbone.dropout=0"),
)
DRAWN = ("backbone=tcn", "backbone.e_layers=1", "embedding=hse", "backbone.dropout=0.3")


def ask_torch():
    torch.empty(2**60, dtype=torch.uint8)


def ask_python():
    bytearray(2**62)


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Every failure collects garbage: what there was before takes a second to go through, and is none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(*BLOCKS)


@pytest.fixture(scope="module")
def planned(config):
    return fit(config, **SIZES)


def build(config):
    torch.manual_seed(0)
    return build_model(config, **SIZES).train()


@pytest.fixture
def recovery(config, planned):
    """The levers of a run that was planned with thirteen windows at once, and the events it noted."""

    def call(*, model=None, micro_batch=SIZE, checkpointing="none", wish=Checkpointing.auto, **plan):
        plan = dataclasses.replace(planned, micro_batch=micro_batch, checkpointing=checkpointing, **plan)
        events = []
        wished = training(config, checkpointing=wish).training
        return Recovery(build(config) if model is None else model, wished, plan, CPU, events.append), events

    return call


class Attempts:
    """Fails for want of memory until it may not, and remembers how it was asked."""

    def __init__(self, recovery, fits, ask=ask_torch):
        self.recovery, self.fits, self.ask = recovery, fits, ask
        self.order = []

    def __call__(self, micro_batch):
        self.order.append((micro_batch, self.recovery.checkpointing))
        if not self.fits(micro_batch, self.recovery.checkpointing):
            self.ask()
        return "done"

    def again(self):
        self.order.append("again")


def made(recovery, fits, *, size=SIZE, step=4, ask=ask_torch):
    attempts = Attempts(recovery, fits, ask)
    result = recovery.of_step(attempts, attempts.again, size, step)
    return result, attempts.order


def never(*_):
    return False


@pytest.mark.parametrize("ask", [ask_torch, ask_python])
def test_a_step_is_made_again_with_half_as_much_at_once_until_it_can_be_made(recovery, ask):
    one, _ = recovery()
    result, order = made(one, lambda micro_batch, _: micro_batch <= 2, ask=ask)
    assert result == "done"
    assert order == [(13, "none"), "again", (7, "none"), "again", (4, "none"), "again", (2, "none")]
    assert one.micro_batch == 2


def test_then_blocks_keep_less_one_way_after_the_other(recovery):
    one, _ = recovery()
    _, order = made(one, lambda micro_batch, checkpointing: checkpointing == "full")
    tried = [attempt for attempt in order if attempt != "again"]
    assert tried == [(13, "none"), (7, "none"), (4, "none"), (2, "none"), (1, "none"), (1, "selective"), (1, "full")]
    assert order == [text for attempt in tried for text in (attempt, "again")][:-1]


def test_after_that_the_sequences_of_a_block_go_through_it_in_slices(recovery, tiny):
    one, events = recovery(model=build(tiny(*SLICED)), micro_batch=1)
    _, order = made(one, lambda _, checkpointing: checkpointing == "sliced")
    tried = [attempt for attempt in order if attempt != "again"]
    assert tried == [(1, "none"), (1, "selective"), (1, "full"), (1, "sliced")]
    assert events[-1]["changes"] == {"checkpointing": "sliced"}
    assert events[-1]["text"].endswith("checkpointing full -> sliced")


def test_slices_are_not_pulled_where_full_checkpointing_was_asked_for(recovery, tiny):
    one, _ = recovery(model=build(tiny(*SLICED)), micro_batch=1, checkpointing="full", wish=Checkpointing.full)
    with pytest.raises(OutOfMemoryError, match="with micro-batch 1 and checkpointing full"):
        made(one, never)


def test_after_slices_nothing_is_left(recovery, tiny):
    one, _ = recovery(model=build(tiny(*SLICED)), micro_batch=1, checkpointing="sliced")
    with pytest.raises(OutOfMemoryError, match="with micro-batch 1 and checkpointing sliced"):
        made(one, never)


def test_a_step_that_was_made_in_slices_has_the_gradient_of_the_whole(recovery, tiny):
    config = tiny(*SLICED)
    batch, found = random_batch(config, 2), {}
    for fits in ("none", "sliced"):
        model = build(config)
        one, _ = recovery(model=model, micro_batch=1)

        def attempt(micro_batch, model=model, one=one, fits=fits):
            if one.checkpointing != fits:
                ask_torch()
            loss = sum(value.square().mean() for value in model(batch).values())
            loss.backward()
            return float(loss.detach())

        loss = one.of_step(attempt, lambda model=model: model.zero_grad(), 2, 0)
        found[fits] = loss, {name: p.grad for name, p in model.named_parameters()}
    (loss, gradient), (again, sliced) = found.values()
    assert again == pytest.approx(loss, rel=1e-6)
    for name, value in gradient.items():
        torch.testing.assert_close(sliced[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_ranks_that_share_their_weights_go_on_in_slices_from_the_last_checkpoint(recovery, tiny):
    one, _ = recovery(model=build(tiny(*SLICED)), micro_batch=1, checkpointing="full", sharding="full")
    with pytest.raises(Restart, match=r"^out of memory in the step ") as caught:
        made(one, never)
    assert caught.value.changes == {"checkpointing": "sliced"}


def test_what_was_pulled_stays_so_for_the_next_step(recovery):
    one, events = recovery()
    made(one, lambda micro_batch, _: micro_batch <= 4)
    assert made(one, lambda micro_batch, _: micro_batch <= 4, step=5)[1] == [(4, "none")]
    assert [event["step"] for event in events] == [5, 5]


def test_what_happened_is_noted_with_its_step_its_place_and_what_is_done_otherwise(recovery):
    one, events = recovery(micro_batch=3)
    made(one, lambda micro_batch, checkpointing: checkpointing == "full")
    assert [event["changes"] for event in events] == [
        {"micro_batch": "2"},
        {"micro_batch": "1"},
        {"checkpointing": "selective"},
        {"checkpointing": "full"},
    ]
    assert {(event["kind"], event["step"]) for event in events} == {("memory", 5)}
    assert all(event["text"].startswith("out of memory in the step (") for event in events)
    ends = ["micro-batch 3 -> 2", "micro-batch 2 -> 1", "checkpointing none -> selective"]
    ends += ["checkpointing selective -> full"]
    assert [event["text"].rpartition("): ")[2] for event in events] == ends


def test_what_happened_is_told(recovery, caplog):
    made(recovery(micro_batch=2)[0], lambda micro_batch, _: micro_batch == 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("MEMORY: out of memory in the step (")
    assert record.getMessage().endswith(" at step 5; micro-batch 2 -> 1, the same batch again")


def test_a_batch_smaller_than_the_micro_batch_is_halved_by_its_own_size(recovery):
    one, events = recovery()
    _, order = made(one, lambda micro_batch, _: micro_batch <= 3, size=5)
    assert order == [(13, "none"), "again", (3, "none")]
    assert events[0]["changes"] == {"micro_batch": "3"}


def test_where_no_lever_is_left_the_step_and_the_place_are_named(recovery):
    one, events = recovery(checkpointing="selective")
    attempts = Attempts(one, never)
    with pytest.raises(
        OutOfMemoryError,
        match=r"^out of memory at step 5 in the step \(.+\), with micro-batch 1 and checkpointing full$",
    ):
        one.of_step(attempts, attempts.again, SIZE, 4)
    assert len(events) == 5
    assert attempts.order[-1] == "again"  # nothing of it is left behind


def test_the_windows_that_were_at_once_on_the_device_are_named(recovery):
    one, _ = recovery(wish=Checkpointing.none)
    with pytest.raises(OutOfMemoryError, match="out of memory at step 5") as caught:
        made(one, never, size=1)
    assert "with micro-batch 1 and" in str(caught.value)


@pytest.mark.parametrize("wish", [Checkpointing.none, Checkpointing.selective, Checkpointing.full])
def test_blocks_that_are_to_keep_what_they_keep_are_left_as_they_are(recovery, wish):
    one, _ = recovery(micro_batch=2, checkpointing=wish.value, wish=wish)
    with pytest.raises(OutOfMemoryError, match=f"with micro-batch 1 and checkpointing {wish.value}"):
        made(one, never)


def test_a_backbone_without_blocks_keeps_what_it_keeps(recovery, tiny):
    one, _ = recovery(model=build(tiny(*NO_BLOCKS)), micro_batch=2)
    with pytest.raises(OutOfMemoryError, match="with micro-batch 1 and checkpointing none"):
        made(one, never)


def test_the_layer_that_failed_is_named(recovery, config):
    model = build(config)
    one, _ = recovery(model=model, micro_batch=1, checkpointing="full")
    model.backbone.register_forward_pre_hook(lambda *_: ask_torch())
    batch = random_batch(config, 2)

    def attempt(micro_batch):
        model(batch)

    with pytest.raises(OutOfMemoryError, match=r"at step 1 in the forward pass of [a-z0-9_.]+ "):
        one.of_step(attempt, lambda: None, 2, 0)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("not memory"),
        RuntimeError("a size does not match"),
        KeyboardInterrupt("out of memory"),
        NanError("out of memory"),
        ConfigError(["out of memory"]),
        OutOfMemoryError("out of memory"),
        Restart("out of memory", kind="MEMORY", changes={}, step=1),
    ],
    ids=repr,
)
def test_another_error_and_one_of_ours_goes_on_at_once(recovery, error):
    one, events = recovery()
    asked = []

    def attempt(micro_batch):
        asked.append(micro_batch)
        raise error

    with pytest.raises(type(error), match=str(error)) as caught:
        one.of_step(attempt, lambda: asked.append("again"), SIZE, 0)
    assert caught.value is error
    assert (asked, events) == ([SIZE], [])


def test_what_an_attempt_returns_may_be_nothing(recovery):
    one, _ = recovery()
    assert one.of_step(lambda micro_batch: None, pytest.fail, SIZE, 0) is None


@pytest.mark.parametrize(
    ("micro_batch", "checkpointing", "changes"),
    [
        (13, "none", {"micro_batch": "7"}),
        (1, "none", {"checkpointing": "selective"}),
        (1, "selective", {"checkpointing": "full"}),
    ],
)
def test_ranks_that_share_their_weights_go_on_from_the_last_checkpoint(recovery, micro_batch, checkpointing, changes):
    one, events = recovery(micro_batch=micro_batch, checkpointing=checkpointing, sharding="full")
    with pytest.raises(Restart, match=r"^out of memory in the step ") as caught:
        made(one, never)
    assert (caught.value.changes, caught.value.step, caught.value.kind) == (changes, 5, "MEMORY")
    assert (events, one.micro_batch) == ([], micro_batch)


def test_ranks_that_share_their_weights_end_where_no_lever_is_left(recovery):
    one, _ = recovery(micro_batch=1, checkpointing="full", sharding="full")
    with pytest.raises(OutOfMemoryError, match=r"at step 5, with micro-batch 1, checkpointing full"):
        made(one, never)


# the optimizer


@pytest.mark.parametrize("ask", [ask_torch, ask_python])
def test_on_a_cpu_an_optimizer_without_room_ends_the_run(recovery, ask):
    one, events = recovery()
    with (
        pytest.raises(OutOfMemoryError, match=r"^out of memory in the optimizer \(.+\) at step 5: a small"),
        one.of_optimizer(4),
    ):
        ask()
    assert events == []


@pytest.mark.parametrize("error", [ZeroDivisionError("not memory"), NanError("out of memory")], ids=repr)
def test_another_error_within_the_optimizer_goes_on_as_it_is(recovery, error):
    one, _ = recovery()
    with pytest.raises(type(error), match=str(error)) as caught, one.of_optimizer(4):
        raise error
    assert caught.value is error


def test_an_optimizer_with_room_is_left_in_peace(recovery):
    one, events = recovery()
    with one.of_optimizer(4):
        pass
    assert events == []


# an evaluation


def evaluated(fits, *, micro_batch=SIZE, size=SIZE, ask=ask_torch):
    model = torch.nn.Linear(1, 1)
    tried, told = [], []

    def attempt(micro):
        tried.append(micro)
        if micro > fits:
            ask()
        return micro

    found = halve_until_it_fits(attempt, micro_batch, size, model, CPU, lambda *what: told.append(what))
    return found, tried, told


@pytest.mark.parametrize("ask", [ask_torch, ask_python])
def test_an_evaluation_is_begun_again_with_half_as_much_until_it_fits(ask):
    found, tried, told = evaluated(2, ask=ask)
    assert found == 2
    assert tried == [13, 7, 4, 2]
    assert [size for size, _ in told] == [7, 4, 2]
    assert [text.rpartition("): ")[2] for _, text in told] == [
        "micro-batch 13 -> 7",
        "micro-batch 7 -> 4",
        "micro-batch 4 -> 2",
    ]


def test_an_evaluation_begins_with_no_more_than_a_batch():
    assert evaluated(50, micro_batch=50, size=5)[1] == [5]


def test_an_evaluation_of_one_window_that_does_not_fit_is_out_of_memory():
    with pytest.raises(OutOfMemoryError, match=r"in an evaluation, in the step \(.+\), one window at a time"):
        evaluated(0)


@pytest.mark.parametrize("error", [ZeroDivisionError("not memory"), NanError("out of memory")], ids=repr)
def test_another_error_of_an_evaluation_goes_on_as_it_is(error):
    def ask():
        raise error

    with pytest.raises(type(error), match=str(error)) as caught:
        evaluated(0, ask=ask)
    assert caught.value is error


def test_scores_keep_the_size_that_fitted_and_leave_that_of_the_steps(recovery):
    one, events = recovery()
    tried = []

    def attempt(micro):
        tried.append(micro)
        if micro > 4:
            ask_torch()
        return micro

    assert [one.of_scores(attempt, SIZE, 9) for _ in range(2)] == [4, 4]
    assert tried == [13, 7, 4, 4]
    assert one.micro_batch == 13
    assert [(event["kind"], event["step"], event["changes"]) for event in events] == [("memory", 9, {})] * 2


# the same to the bit


class Run:
    """A model that makes one step, as a training does."""

    def __init__(self, config):
        self.config, self.model = config, build(config)
        self.weighing = Weighing(self.model, config.task, config.training.task_weights)
        self.step = Step(
            self.model,
            self.weighing,
            config.training,
            precision="fp32",
            scaler=grad_scaler("fp32", CPU),
            device=CPU,
        )
        self.snapshot = Snapshot([self.model], CPU)
        self.batch = random_batch(config, SIZE)

    def attempt(self, micro_batch):
        factors = self.weighing.factors()
        return self.step.gradient(self.batch, factors, micro_batch=micro_batch, measure=True)

    def again(self):
        self.model.zero_grad(set_to_none=True)
        self.snapshot.restore()

    def recovered(self, recovery):
        torch.manual_seed(7)
        self.snapshot.take()
        return self.found(recovery.of_step(self.attempt, self.again, SIZE, 0))

    def begun_with(self, micro_batch, checkpointing="none"):
        checkpoint_blocks(self.model, checkpointing)
        torch.manual_seed(7)
        return self.found(self.attempt(micro_batch))

    def found(self, shares):
        """Everything that a step leaves behind."""
        told = {f"{name} loss": share.loss for name, share in shares.items()}
        told |= {f"{name} norm": share.squared_norm for name, share in shares.items()}
        told |= {f"{name} gradient": p.grad for name, p in self.model.named_parameters()}
        return told | {"drawn next": torch.rand(3)}


def same(one, other):
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])] == []


def too_large(module, inputs, *, fits):
    if len(inputs[0]) > fits:
        ask_torch()


PLACES = {  # nothing is done yet; the backbone is; one head is sent backward already
    "embedding": lambda model: model.embedding,
    "first head": lambda model: next(iter(model.tasks.values())),
    "last head": lambda model: list(model.tasks.values())[-1],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("fits", "begun"), [(7, 7), (5, 4), (1, 1)])
@pytest.mark.parametrize("keys", [BLOCKS, DRAWN], ids=["patchtst", "tcn"])
def test_a_step_made_again_is_equal_to_the_bit_to_one_begun_that_way(tiny, recovery, keys, fits, begun, place):
    config = tiny(*keys)
    run = Run(config)
    PLACES[place](run.model).register_forward_pre_hook(partial(too_large, fits=fits))
    one, _ = recovery(model=run.model)
    found = run.recovered(one)
    assert one.micro_batch == begun
    assert same(found, Run(config).begun_with(begun))


def test_a_step_that_fails_after_parts_of_it_are_done_is_equal_to_the_bit_to_one_begun_that_way(config, recovery):
    """Parts of four, of which the third fails; two are in the gradient by then."""
    run, calls = Run(config), []

    def third(module, inputs):
        calls.append(len(inputs[0]))
        if calls.count(4) == 3 and calls[-1] == 4:
            ask_torch()

    run.model.embedding.register_forward_pre_hook(third)
    one, _ = recovery(model=run.model, micro_batch=4)
    found = run.recovered(one)
    assert calls == [4, 4, 4, 2, 2, 2, 2, 2, 2, 1]
    assert same(found, Run(config).begun_with(2))


@pytest.mark.parametrize("enough", ["selective", "full"])
def test_a_step_whose_blocks_keep_less_is_equal_to_the_bit_to_one_begun_that_way(config, recovery, enough):
    run = Run(config)
    one, _ = recovery(model=run.model)

    def too_much(*_):
        if one.checkpointing != enough:
            ask_torch()

    run.model.backbone.blocks[1].register_forward_pre_hook(too_much)
    found = run.recovered(one)
    assert (one.micro_batch, one.checkpointing) == (1, enough)
    assert same(found, Run(config).begun_with(1, enough))
    assert same(found, Run(config).begun_with(1))


def test_other_random_numbers_would_be_another_gradient(config):
    """Else what is equal above would prove nothing."""
    one, other = Run(config), Run(config)
    found = one.begun_with(4)
    torch.manual_seed(8)
    assert not same(found, other.found(other.attempt(4)))
    assert not same(found, Run(config).begun_with(7))


# an allocator that is out of memory within itself


def seen(counts):
    """After which steps it is seen, given the retries that a card counts by the end of each."""
    thrashing = Thrashing(counts[0])
    return [step for step, count in enumerate(counts[1:], 1) if thrashing.seen(count)]


@pytest.mark.parametrize(
    ("counts", "steps"),
    [
        ([0, 0, 0, 0], []),
        ([5, 5, 5, 5], []),  # of before the training
        ([0, 1, 1, 2, 2, 3], []),  # now and then
        ([0, 1, 2], [2]),
        ([0, 0, 3, 9, 9], [3]),
        ([0, 1, 2, 3, 4, 5], [2, 4]),  # what was done about it gets its chance
    ],
)
def test_retries_in_two_steps_running_are_thrashing(counts, steps):
    assert seen(counts) == steps
