"""Every key of the training config changes what the training does. (The public project's never reached it.)"""

import csv
import mmap
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.optim import AdamW
from torch.optim.optimizer import register_optimizer_step_post_hook

from vibench.config.training import Schedule, TrainingConfig
from vibench.errors import GrowthError, NanError, Restart
from vibench.memory.growth import measure
from vibench.run import run_experiment
from vibench.step.optimizer import OnHost
from vibench.training.checkpoints import read_checkpoint, weights_of
from vibench.training.schedule import lr_factor

SGD = ("training.optimizer=sgd", "training.schedule=constant", "training.warmup_steps=0", "training.weight_decay=0")
ONE = ("training.max_steps=1", "training.warmup_steps=0")
TASKS = ["classification", "anomaly_detection", "signal_prediction", "rul_prediction"]
QUICK = ("backbone=dlinear", "backbone.moving_average=3", "training.global_batch_size=104", "training.warmup_steps=0")


def logged(run, key):
    """The values of one column of metrics.csv."""
    with (run.folder / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]


def moved(run):
    """2-norm of what the training changed."""
    after = run.model.state_dict()
    return torch.sqrt(sum((after[name] - value).square().sum() for name, value in run.before.items())).item()


def sizes_seen(sizes):
    """Record how many windows every training forward pass holds."""

    def watch(model):
        model.embedding.register_forward_pre_hook(
            lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None
        )

    return watch


def test_epochs_are_passes_over_the_training_windows(train):
    once, thrice = train("training.epochs=1"), train("training.epochs=3")
    assert thrice.fitted.steps == 3 * once.fitted.steps == thrice.fitted.promised_steps


def test_max_steps_ends_the_training_within_an_epoch(train):
    assert train("training.max_steps=2", "training.warmup_steps=0").fitted.steps == 2


def test_global_batch_size_is_the_windows_of_a_step(train):
    sizes = []
    train("training.global_batch_size=10", *ONE, watch=sizes_seen(sizes))
    assert sizes == [10]


def test_micro_batch_cuts_the_step_and_leaves_the_result(train):
    sizes = []
    options = ("training.global_batch_size=10", "backbone.dropout=0", *ONE, *SGD)
    cut = train("training.micro_batch=4", *options, watch=sizes_seen(sizes))
    whole = train(*options)
    assert sizes == [4, 4, 2]
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(cut.model.state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_accumulation_is_the_number_of_micro_batches(train):
    sizes = []
    train("training.global_batch_size=10", "training.accumulation=3", *ONE, watch=sizes_seen(sizes))
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_the_arithmetic_of_the_forward_pass(train, precision, dtype):
    seen = set()

    def watch(model):
        model.embedding.project.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))

    run = train(f"training.precision={precision}", "training.max_steps=3", "training.warmup_steps=0", watch=watch)
    assert seen == {dtype}
    assert all(value.dtype == torch.float32 for value in run.model.parameters())
    assert moved(run) > 0


@pytest.mark.parametrize(("how", "times"), [("none", 1), ("selective", 2), ("full", 2)])
def test_checkpointing_computes_the_blocks_again(train, how, times):
    calls = []

    def watch(model):
        norm = model.backbone.blocks[0].norm_attention
        norm.register_forward_hook(lambda module, *_: calls.append(1) if module.training else None)

    train(f"training.checkpointing={how}", *ONE, watch=watch)
    assert len(calls) == times


@pytest.mark.parametrize(("name", "state"), [("adamw", "exp_avg"), ("adam", "exp_avg"), ("sgd", "momentum_buffer")])
def test_optimizer_leaves_its_state_in_the_checkpoint(train, name, state):
    run = train(f"training.optimizer={name}", *ONE)
    optimizer = read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]
    assert state in optimizer["state"][0]
    assert optimizer["param_groups"][0].get("decoupled_weight_decay", False) == (name == "adamw")


@pytest.mark.parametrize(("state", "kinds"), [("device", {AdamW}), ("host", {AdamW, OnHost})])
def test_optimizer_state_is_where_the_optimizer_keeps_it(train, state, kinds):
    stepped = set()
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: stepped.add(type(optimizer)))
    try:
        run = train(f"training.optimizer_state={state}", *ONE)
    finally:
        hook.remove()
    assert stepped == kinds  # the one on the host makes its step by one of the usual kind
    assert moved(run) > 0


def test_optimizer_state_on_the_host_leaves_the_result(train):
    device, host = (
        train(f"training.optimizer_state={state}", "training.lr=0.01", *QUICK) for state in ("device", "host")
    )
    after = host.model.state_dict()
    assert [name for name, value in device.model.state_dict().items() if not torch.equal(value, after[name])] == []
    assert moved(device) > 0.01
    states = [
        read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["optimizer_states"][0] for run in (device, host)
    ]
    for number, expected in states[0]["state"].items():
        assert all(torch.equal(value, states[1]["state"][number][name]) for name, value in expected.items())


@pytest.fixture
def rank(tmp_path):
    """The only process of a group, as one card of several would be."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*sync_dist=True.*")  # Lightning's advice; the scores are summed by us
def test_sharding_is_whether_a_card_holds_parts_of_the_weights(train, rank):
    """And not what comes of it."""
    runs = {how: train(f"training.sharding={how}", "hardware.gpus=2", *ONE) for how in ("none", "full")}
    kinds = {how: {type(weight.data) for weight in run.model.parameters()} for how, run in runs.items()}
    assert kinds == {"none": {torch.Tensor}, "full": {DTensor}}
    whole, parts = (run.model.state_dict() for run in runs.values())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name].full_tensor(), value, rtol=1e-4, atol=1e-6)


def test_lr_and_clip_norm_set_the_length_of_a_step(train):
    run = train("training.lr=0.1", "training.clip_norm=0.01", *ONE, *SGD)
    assert moved(run) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_without_clip_norm_the_gradient_is_left_alone(train):
    run = train("training.lr=0.1", "training.clip_norm=null", *ONE, *SGD)
    assert moved(run) > 0.1 * 0.02


def test_weight_decay_shrinks_the_weights(train):
    options = ("training.lr=0.1", "training.optimizer=adamw", *ONE)
    decayed, free = train("training.weight_decay=1", *options), train("training.weight_decay=0", *options)
    for name, value in free.model.state_dict().items():  # AdamW: lr x decay of the old weight goes first
        expected = value - 0.1 * free.before[name]
        torch.testing.assert_close(decayed.model.state_dict()[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_schedule_and_warmup_steps_are_the_rates_of_the_steps(train, schedule):
    run = train(
        f"training.schedule={schedule.name}",
        "training.warmup_steps=3",
        "training.max_steps=7",
        "training.epochs=5",
        "training.lr=0.01",
        "logger.every_n_steps=1",
    )
    assert logged(run, "train/lr") == pytest.approx([0.01 * lr_factor(i, 7, 3, schedule) for i in range(7)])


@pytest.mark.parametrize(("monitor", "best"), [("loss", min), ("classification/accuracy", max)])
def test_monitor_picks_the_best_checkpoint(train, monitor, best):
    run = train(f"training.monitor={monitor}", "training.epochs=4", "training.lr=0.01", "training.warmup_steps=0")
    values = logged(run, f"val/{monitor}")
    assert len(values) == 4
    steps = run.fitted.steps // 4
    kept = read_checkpoint(run.fitted.checkpoint)["vibench"]["steps_done"]
    assert run.fitted.checkpoint.name == "best.ckpt"
    assert kept == steps * (values.index(best(values)) + 1)


def test_without_a_monitor_the_last_checkpoint_is_the_result(train):
    run = train("training.monitor=null", "training.epochs=2")
    assert run.fitted.checkpoint.name == "last.ckpt"
    assert read_checkpoint(run.fitted.checkpoint)["vibench"]["steps_done"] == run.fitted.steps


def test_patience_stops_a_training_that_does_not_improve(train):
    run = train("training.patience=2", "training.lr=1e-30", "training.epochs=9")
    assert run.fitted.steps == 3 * run.fitted.promised_steps // 9
    assert run.fitted.early_stop == "val/loss no better for 2 validations"


def test_the_same_seed_trains_the_same_weights_to_the_bit(train):
    first, again, other = train("seed=1"), train("seed=1"), train("seed=2")
    weights = [run.model.state_dict() for run in (first, again, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())


def test_task_weights_scale_the_gradient_of_their_task(train):
    def head_moved(weight):
        run = train(f"task.rul_prediction.weight={weight}", "training.clip_norm=null", *ONE, *SGD)
        name = "tasks.rul_prediction.head.2.bias"
        return (run.model.state_dict()[name] - run.before[name]).item()

    assert head_moved(3.0) == pytest.approx(3 * head_moved(1.0), rel=1e-4)


@pytest.mark.parametrize(
    ("order", "trained"),
    [
        ("joint", [TASKS] * 8),
        ("alternating", [[name] for name in TASKS * 2]),
        ("sequential", [[name] for name in TASKS for _ in range(2)]),
    ],
)
def test_task_order_is_which_tasks_a_step_trains(train, order, trained):
    run = train(f"training.task_order={order}", "training.epochs=8", "logger.every_n_steps=1", *QUICK)
    with (run.folder / "metrics.csv").open() as file:
        steps = [row for row in csv.DictReader(file) if row["train/lr"]]  # one an epoch
    assert [[name for name in TASKS if row[f"train/{name}/loss"]] for row in steps] == trained


def test_task_weights_stay_or_are_learned(train):
    weights = ("task.classification.weight=3", "training.lr=0.1", *QUICK)
    fixed = train("training.task_weights=fixed", *weights).fitted.task_weights
    learned = train("training.task_weights=learned", *weights).fitted.task_weights
    assert fixed == dict.fromkeys(TASKS, 1.0) | {"classification": 3.0}
    assert learned.keys() == fixed.keys()
    assert all(weight not in (0.5, 1.0, 3.0) for weight in learned.values())  # what they begin with


@pytest.fixture(scope="module")
def source(tiny, tmp_path_factory):
    """A run to start from."""
    folder = tmp_path_factory.mktemp("source")
    run_experiment(tiny("seed=7", *QUICK), folder)
    return folder


@pytest.mark.parametrize("parts", [["embedding"], ["backbone"], ["embedding", "backbone", "tasks"]], ids=",".join)
def test_init_from_gives_the_weights_of_init_parts(tiny, source, tmp_path, parts):
    taken = (f"training.init_from={source}", f"training.init_parts=[{','.join(parts)}]")
    run_experiment(tiny(*taken, "training.lr=1e-30", *QUICK, *SGD), tmp_path)  # nothing moves
    found, there = (weights_of(read_checkpoint(f / "checkpoints" / "best.ckpt")) for f in (tmp_path, source))
    assert {name.split(".")[0] for name, value in found.items() if torch.equal(value, there[name])} == set(parts)


@pytest.mark.parametrize("part", ["embedding", "backbone"])
def test_freeze_leaves_a_part_as_it_is(train, source, part):
    run = train(f"training.init_from={source}", f"training.freeze=[{part}]", "training.max_steps=1", *QUICK)
    after = run.model.state_dict()
    still = {name.split(".")[0] for name, value in run.before.items() if torch.equal(after[name], value)}
    assert still == {part}


def test_every_n_steps_of_the_logger_is_how_often_losses_are_written(train):
    often = train("logger.every_n_steps=1", "training.max_steps=4", "training.warmup_steps=0")
    rarely = train("logger.every_n_steps=3", "training.max_steps=4", "training.warmup_steps=0")
    assert len(logged(often, "train/lr")) == 4
    assert len(logged(rarely, "train/lr")) == 2  # step 3, and the last


@pytest.mark.parametrize(
    ("option", "kept"), [("training.save_every_s=1e-9", True), ("training.save_every_s=1e9", False)]
)
def test_save_every_s_is_how_long_a_step_goes_unsaved(train, tmp_path, option, kept):
    there = []

    def watch(model):
        look = lambda module, inputs: there.append(any(tmp_path.rglob("last.ckpt"))) if module.training else None  # noqa: E731
        model.embedding.register_forward_pre_hook(look)

    train(option, "training.epochs=1", watch=watch)
    assert there == [False, kept, kept, kept]


def broken_in(steps):
    """Embed into NaN in those steps, counted from 1, however often they are tried and looked at."""

    def watch(model):
        done = [0]

        def spoil(module, inputs, output):
            if module.training and torch.is_grad_enabled():
                done[0] += 1
            return output * torch.nan if module.training and done[0] in steps else None

        model.embedding.register_forward_hook(spoil)

    return watch


def test_on_nan_is_whether_a_step_that_is_not_finite_ends_the_run_or_is_left_out(train):
    with pytest.raises(NanError, match=r"the loss of classification is nan at step 2 of 4.*first layer: embedding"):
        train("training.on_nan=stop", "training.epochs=1", watch=broken_in({2}))
    fitted = train("training.on_nan=skip", "training.epochs=1", watch=broken_in({2})).fitted
    assert (fitted.steps, fitted.skipped_steps) == (4, 1)
    with pytest.raises(Restart, match="the loss of classification is nan at step 2 of 4") as order:
        train("training.on_nan=rewind", "training.epochs=1", watch=broken_in({2}))
    assert order.value.changes == {"lr_scale": 0.5, "nans": 1}


def test_nan_limit_is_how_many_steps_may_be_left_out(train):
    options = ("training.on_nan=skip", "training.epochs=1")
    assert train("training.nan_limit=2", *options, watch=broken_in({1, 3})).fitted.skipped_steps == 2
    with pytest.raises(NanError, match=r"at step 3 of 4.*training\.nan_limit=1 is reached"):
        train("training.nan_limit=1", *options, watch=broken_in({1, 3}))


def hoarding(pages):
    """Take 4 MB of the kernel in every epoch of four steps."""

    def watch(model):
        def take(module, inputs):
            if module.training:
                pages.append(mmap.mmap(-1, 10**6))
                pages[-1].write(b"x" * 10**6)

        model.embedding.register_forward_pre_hook(take)

    return watch


@pytest.mark.parametrize("policy", ["stop", "go_on"])
def test_on_growth_is_whether_memory_that_will_not_last_ends_the_run(train, policy):
    room = measure(torch.device("cpu")).host / 2**30 + 0.05  # what a few epochs take
    options = (f"training.on_growth={policy}", "training.epochs=60", f"hardware.ram_gib={room}", *QUICK[:2])
    if policy == "go_on":
        assert train(*options, watch=hoarding([])).fitted.steps == 240
        return
    with pytest.raises(
        GrowthError, match=r"the memory of the host grows by \d\.\d MiB an epoch.*no tensor that Python"
    ):
        train(*options, watch=hoarding([]))


def test_no_key_of_the_training_is_without_a_test_here():
    source = Path(__file__).read_text()
    assert [f.name for f in fields(TrainingConfig) if f"training.{f.name}=" not in source] == []
