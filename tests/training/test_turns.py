"""Which tasks a step trains: all of them, one in turn, or one after another; and what is written of each."""

import csv
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from vibench.config.task import TaskConfig
from vibench.config.training import TaskOrder
from vibench.data.batch import labelled
from vibench.data.build import build
from vibench.errors import ConfigError
from vibench.model import targets
from vibench.step.task_weights import caught_up, in_turn
from vibench.training.checkpoints import read_checkpoint, weights_of
from vibench.training.fit import promised_steps

TASKS = ("classification", "anomaly_detection", "signal_prediction", "rul_prediction")
WINDOWS, PER_EPOCH = 104, 4  # of the tiny training split, in steps of 32 windows
SMALL = ("backbone=dlinear", "backbone.moving_average=3", "embedding.stride=64", "training.warmup_steps=0")
SGD = ("training.optimizer=sgd", "training.schedule=constant", "training.lr=0.01")
EVERY_STEP = "logger.every_n_steps=1"
TWO = ("~task.anomaly_detection", "~task.signal_prediction")  # the rest: a window has a label of one, never of both


def some_tasks(count=3, **epochs):
    """Tasks a, b, c, d; ``a=(2, 3)`` is its first and last epoch."""
    spans = {name: epochs.get(name, (1, None)) for name in "abcd"[:count]}
    return {
        name: TaskConfig(_target_="", weight=1.0, first_epoch=first, last_epoch=last)
        for name, (first, last) in spans.items()
    }


def turn(tasks, order, *, epoch=1, epochs=9, turns=None, labelled=None):
    labelled = set(tasks) if labelled is None else labelled
    turns = turns or dict.fromkeys(tasks, 0)
    return in_turn(tasks, TaskOrder(order), epoch=epoch, epochs=epochs, turns=turns, has_label=labelled.__contains__)


def taken(tasks, labelled):
    """The tasks of successive steps that alternate, given the tasks with a label in the batch of each."""
    turns, order = dict.fromkeys(tasks, 0), []
    for there in labelled:
        (name,) = turn(tasks, "alternating", turns=turns, labelled=set(there))
        turns[name] += 1
        order.append(name)
    return "".join(order)


def in_sequence(tasks, epochs):
    """The task of every epoch."""
    steps = [turn(some_tasks(tasks), "sequential", epoch=epoch, epochs=epochs) for epoch in range(1, epochs + 1)]
    assert all(len(step) == 1 for step in steps)
    return [name for (name,) in steps]


def rows_of(run):
    with (run.folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def logged(run, key):
    return [float(row[key]) for row in rows_of(run) if row.get(key)]


def after_epochs(snapshots):
    """Keep the weights as they are when a validation begins, which it does after every epoch."""

    def watch(model):
        modes = [False]

        def look(module, inputs):
            if modes[-1] and not module.training:
                snapshots.append({name: value.clone() for name, value in model.state_dict().items()})
            modes.append(module.training)

        model.embedding.register_forward_pre_hook(look)

    return watch


def moved(run, snapshots):
    """For every epoch, the heads that it moved, and whether it moved the embedding."""
    states = [run.before, *snapshots]
    changes = [
        {name for name, value in new.items() if not torch.equal(value, old[name])} for old, new in pairwise(states)
    ]
    return [
        ({name.split(".")[1] for name in names if name.startswith("tasks.")}, "embedding.project.weight" in names)
        for names in changes
    ]


# ---- which tasks a step trains


def test_joint_trains_all_tasks_whatever_their_turns():
    assert turn(some_tasks(), "joint", turns={"a": 5, "b": 0, "c": 1}) == ["a", "b", "c"]


def test_joint_trains_a_task_from_its_first_to_its_last_epoch():
    tasks = some_tasks(2, a=(2, 3))
    assert [turn(tasks, "joint", epoch=epoch) for epoch in range(1, 5)] == [["b"], ["a", "b"], ["a", "b"], ["b"]]


def test_alternating_trains_one_task_a_step_in_turn():
    assert taken(some_tasks(), ["abc"] * 5) == "abcab"


def test_alternating_passes_over_a_task_without_a_label():
    assert taken(some_tasks(), ["ac"] * 4) == "acac"


def test_alternating_uses_every_label_of_a_rare_task():
    assert taken(some_tasks(), ["ab", "ab", "abc", "ab", "ab", "ab", "abc"]) == "abcabac"


def test_alternating_stays_with_whose_turn_it_is_where_nothing_has_a_label():
    assert turn(some_tasks(), "alternating", turns={"a": 1, "b": 0, "c": 0}, labelled=set()) == ["b"]


def test_alternating_takes_turns_among_the_tasks_that_are_on():
    tasks = some_tasks(3, b=(2, None))
    assert taken(tasks, ["abc"] * 3) == "aca"
    assert taken(tasks, ["b"]) == "a"  # b has a label, but is not on


def test_a_task_that_joins_does_not_have_to_catch_up():
    tasks = some_tasks(3, b=(2, None))
    assert caught_up(tasks, {"a": 7, "b": 0, "c": 6}, epoch=2) == {"a": 7, "b": 6, "c": 6}
    assert caught_up(tasks, {"a": 9, "b": 7, "c": 9}, epoch=3) == {"a": 9, "b": 7, "c": 9}  # a rare one keeps its place


@pytest.mark.parametrize("tasks", range(1, 5))
def test_sequential_gives_each_task_an_equal_block_of_the_epochs(tasks):
    for epochs in range(tasks, 10):
        order = in_sequence(tasks, epochs)
        blocks = [order.count(name) for name in "abcd"[:tasks]]
        assert order == [
            name for name, block in zip("abcd", blocks, strict=False) for _ in range(block)
        ]  # no epoch left
        assert min(blocks) >= 1
        assert max(blocks) - min(blocks) <= 1


def test_sequential_goes_by_the_epoch_and_not_by_labels_or_steps():
    assert turn(some_tasks(), "sequential", turns={"a": 7, "b": 0, "c": 0}, labelled={"c"}) == ["a"]


# ---- how many steps that takes


@pytest.fixture(scope="module")
def promised(tiny):
    """Steps that a training of the first few tasks promises; the last of them begins in an epoch of its own."""
    config = tiny(*SMALL)
    data = build(config.data, targets(config))
    assert len(data.splits["train"]) == WINDOWS

    def call(tasks=4, last_begins=1, **training):
        chosen = {name: config.task[name] for name in TASKS[:tasks]}
        chosen[TASKS[tasks - 1]] = replace(chosen[TASKS[tasks - 1]], first_epoch=last_begins)
        return promised_steps(data, replace(config, task=chosen, training=replace(config.training, **training)))

    return call


@pytest.mark.parametrize("tasks", range(2, 5))
def test_max_steps_must_reach_the_epoch_that_sequential_gives_to_each_task(promised, tasks):
    for epochs in range(tasks, 10):
        training = {"task_order": TaskOrder.sequential, "epochs": epochs}
        for number in range(1, tasks):
            first = in_sequence(tasks, epochs).index("abcd"[number]) + 1
            before = (first - 1) * PER_EPOCH
            said = (
                rf"training\.max_steps={before} ends in epoch {first - 1} of 4 steps, but {TASKS[number]} is trained "
            )
            with pytest.raises(
                ConfigError, match=said + rf"from epoch {first}; use training\.max_steps>{before} or null"
            ):
                promised(tasks, **training, max_steps=before)
        assert promised(tasks, **training, max_steps=before + 1) == before + 1
        assert promised(tasks, **training) == epochs * PER_EPOCH


def test_max_steps_must_reach_the_first_epoch_of_a_task(promised):
    later = {"last_begins": 3, "epochs": 5}
    with pytest.raises(ConfigError, match=r"rul_prediction is trained from epoch 3; use training\.max_steps>8 or null"):
        promised(**later, max_steps=8)
    assert promised(**later, max_steps=9) == 9


@pytest.mark.parametrize("tasks", [2, 4])
def test_alternating_must_have_a_step_for_each_task(promised, tasks):
    """Else the run trains to its end, and fails there: a task was trained on no label."""
    alternating = {"task_order": TaskOrder.alternating, "epochs": 1}
    with pytest.raises(ConfigError, match=r"training\.task_order=alternating|training\.max_steps=\d"):
        promised(tasks, **alternating, max_steps=tasks - 1)
    assert promised(tasks, **alternating, max_steps=tasks) == tasks


# ---- in a training


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])  # momentum, and decay, would move a head without a gradient
def test_a_paused_task_leaves_its_head_as_it_is(train, optimizer):
    snapshots = []
    run = train(
        "training.epochs=4", "task.classification.first_epoch=2", "task.classification.last_epoch=3",
        *SMALL, *TWO, *SGD, f"training.optimizer={optimizer}", watch=after_epochs(snapshots),
    )  # fmt: skip
    both = ({"classification", "rul_prediction"}, True)
    assert moved(run, snapshots) == [({"rul_prediction"}, True), both, both, ({"rul_prediction"}, True)]


def test_sequential_moves_one_head_after_the_other(train):
    snapshots = []
    sequential = ("training.task_order=sequential", "training.epochs=5")
    run = train(*sequential, *SMALL, *SGD, watch=after_epochs(snapshots))
    expected = [TASKS["abcd".index(name)] for name in in_sequence(4, 5)]
    assert moved(run, snapshots) == [({name}, True) for name in expected]


def test_alternating_predicts_with_one_head_a_step(train):
    order = []

    def watch(model):
        for name, task in model.tasks.items():
            task.register_forward_hook(lambda m, *_, name=name: order.append(name) if m.training else None)

    train("training.task_order=alternating", "training.epochs=2", *SMALL, watch=watch)
    assert order == 2 * list(TASKS)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_alternating_moves_one_head_a_step(train, optimizer):
    """In the second round every head has a momentum, and none may be moved by it but the one whose turn it is."""
    snapshots = []

    def watch(model):
        def look(module, inputs):
            if module.training:
                snapshots.append({name: value.clone() for name, value in model.state_dict().items()})

        model.embedding.register_forward_pre_hook(look)

    alternating = ("training.task_order=alternating", "training.global_batch_size=16", "training.max_steps=6")
    run = train(*alternating, *SMALL, *TWO, *SGD, f"training.optimizer={optimizer}", watch=watch)
    snapshots = [*snapshots[1:], run.model.state_dict()]  # of the start of a step -> of its end
    assert moved(run, snapshots) == [({name}, True) for name in ("classification", "rul_prediction") * 3]


def test_alternating_wastes_no_step_on_a_task_without_a_label(train):
    """Of one window each, which has a label of one of the two tasks."""
    run = train(
        "training.task_order=alternating", "training.global_batch_size=1", "training.max_steps=12",
        EVERY_STEP, *SMALL, *TWO,
    )  # fmt: skip
    faults, lives = (logged(run, f"train/{name}/samples") for name in ("classification", "rul_prediction"))
    assert len(faults) > 1
    assert len(lives) > 1
    assert [*faults, *lives] == [1.0] * 12


def test_every_task_that_takes_turns_is_written_of(train):
    """Although the steps that are written, every second one, may all be those of one task."""
    run = train("training.task_order=alternating", "logger.every_n_steps=2", *SMALL, *TWO)
    assert logged(run, "train/classification/loss")
    assert logged(run, "train/rul_prediction/loss")


@pytest.mark.parametrize(
    "later", [("training.task_order=sequential",), ("task.rul_prediction.first_epoch=5",)], ids=["sequential", "first"]
)
def test_patience_does_not_end_a_training_before_every_task_has_begun(train, later):
    run = train("training.epochs=8", "training.patience=1", "training.lr=1e-30", *later, *SMALL, *TWO)
    assert all(run.fitted.labels_seen.values()), run.fitted


@pytest.mark.parametrize(
    "later", [("training.task_order=sequential",), ("task.rul_prediction.first_epoch=2",)], ids=["sequential", "first"]
)
def test_the_checkpoint_that_is_tested_has_trained_every_task(train, later):
    """A validation only gets worse at this rate, so the best one is before the last task has begun."""
    run = train("training.epochs=2", "training.lr=1", *later, *SMALL, *TWO)
    losses = logged(run, "val/loss")
    assert losses[0] < losses[1]
    tested = weights_of(read_checkpoint(run.fitted.checkpoint))
    heads = [name for name in tested if name.startswith("tasks.rul_prediction.")]
    assert [name for name in heads if torch.equal(tested[name], run.before[name])] == []


# ---- what is written of each task


@pytest.fixture
def data(tiny):
    config = tiny(*SMALL)
    return build(config.data, targets(config))


def mean_losses(model, batch):
    """Task -> mean loss over its labels in a batch."""
    model.eval()
    with torch.no_grad():
        predictions = model(batch)
    return {
        name: float(task.loss(predictions[name], batch.targets[name], batch.present[name]))
        / int(task.count(batch.present[name]))
        for name, task in model.tasks.items()
    }


def test_the_losses_of_a_step_are_the_mean_losses_of_its_batch(train, data):
    run = train(EVERY_STEP, "task.rul_prediction.weight=7", *SMALL)
    run.model.load_state_dict(run.before)
    expected = mean_losses(run.model, next(iter(data.loader("train", 32, seed=0))))
    assert {name: logged(run, f"train/{name}/loss")[0] for name in TASKS} == pytest.approx(expected, rel=1e-5)


def test_the_samples_of_a_step_are_the_labelled_windows_of_its_batch(train, data):
    run = train(EVERY_STEP, *SMALL)
    batches = list(data.loader("train", 32, seed=0))
    for name in TASKS:
        counts = [int(labelled(batch.present[name]).sum()) for batch in batches]
        assert logged(run, f"train/{name}/samples") == counts
        assert run.fitted.labels_seen[name] == sum(counts)
    assert len({tuple(logged(run, f"train/{name}/samples")) for name in TASKS}) > 1  # not the windows of the batch


def test_the_loss_of_an_epoch_is_the_mean_over_its_labelled_windows(train):
    run = train(EVERY_STEP, "training.global_batch_size=40", "training.lr=0.01", *SMALL)
    for name in TASKS:
        losses, samples = logged(run, f"train/{name}/loss"), logged(run, f"train/{name}/samples")
        expected = sum(loss * n for loss, n in zip(losses, samples, strict=True)) / sum(samples)
        assert logged(run, f"train/{name}/epoch_loss") == pytest.approx([expected], rel=1e-5)


def test_the_loss_of_a_validation_is_the_mean_loss_over_its_labels(train, data):
    run = train("training.lr=0.01", "training.monitor=null", *SMALL)
    (whole,) = data.loader("val", len(data.splits["val"]))
    expected = mean_losses(run.model, whole)
    assert {name: logged(run, f"val/{name}/loss")[0] for name in TASKS} == pytest.approx(expected, rel=1e-4)


def test_a_step_without_a_label_of_a_task_has_no_loss_of_it(train):
    """Zero would be the best of all losses."""
    run = train("training.global_batch_size=1", "training.max_steps=12", EVERY_STEP, *SMALL, *TWO)
    rows = [row for row in rows_of(run) if row.get("train/lr")]
    assert len(rows) == 12
    for name in ("classification", "rul_prediction"):
        without = [row for row in rows if float(row[f"train/{name}/samples"] or 0) == 0]
        assert 0 < len(without) < 12
        assert {row[f"train/{name}/loss"] for row in without} == {""}


def test_a_task_that_is_paused_has_no_loss(train):
    run = train(EVERY_STEP, "training.epochs=2", "task.rul_prediction.first_epoch=2", *SMALL, *TWO)
    for key in ("loss", "samples", "grad_norm"):
        assert len(logged(run, f"train/rul_prediction/{key}")) == PER_EPOCH
        assert len(logged(run, f"train/classification/{key}")) == 2 * PER_EPOCH
    assert len(logged(run, "train/rul_prediction/epoch_loss")) == 1
    assert len(logged(run, "val/rul_prediction/loss")) == 2  # it is validated all the same


def test_the_norm_of_a_task_does_not_know_the_scale_of_fp16(train):
    norms = {}
    for precision in ("fp32", "fp16"):
        run = train(f"training.precision={precision}", EVERY_STEP, *SMALL)
        norms[precision] = {name: logged(run, f"train/{name}/grad_norm")[0] for name in TASKS}
        assert all(norm > 0 for norm in norms[precision].values())
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.05)


def test_the_norm_of_a_task_grows_with_its_weight(train):
    light, heavy = (train(f"task.rul_prediction.weight={w}", EVERY_STEP, *SMALL) for w in (1, 3))
    first = [logged(run, "train/rul_prediction/grad_norm")[0] for run in (light, heavy)]
    assert first[1] == pytest.approx(3 * first[0], rel=1e-4)


def test_alternating_learned_weights_in_fp16_train_every_task(train):
    """Three ways of leaving something out of a step, at once."""
    run = train(
        "training.task_order=alternating", "training.task_weights=learned", "training.precision=fp16",
        "training.epochs=2", "training.micro_batch=5", "training.lr=0.01", EVERY_STEP, *SMALL,
    )  # fmt: skip
    assert run.fitted.skipped_steps == 0
    assert all(run.fitted.labels_seen.values())
    for name in TASKS:
        assert len(logged(run, f"train/{name}/loss")) == 2
        assert math.isfinite(logged(run, f"train/{name}/grad_norm")[1])
        assert logged(run, f"train/{name}/weight")[0] != logged(run, f"train/{name}/weight")[1]
    assert not re.search("nan|inf", (run.folder / "metrics.csv").read_text())
