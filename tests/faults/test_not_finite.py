"""A step that is not a finite number: who is at fault, and that no weight is changed by it, whatever is done then."""

import dataclasses
import logging
import math
import re

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import TINY
from tests.faults.runs import assert_same_end, events, rows, status_of, weights
from vibench.backbones.patchtst import PatchTST
from vibench.data.build import build
from vibench.data.synthetic import demo_store
from vibench.embeddings.patch import Patch
from vibench.errors import DataError, NanError
from vibench.model import targets
from vibench.run import run_experiment
from vibench.training.checkpoints import read_checkpoint

STEPS = 4  # of an epoch of 32 windows each, the last one smaller
WRITTEN = "logger.every_n_steps=1"


class Spoil(torch.autograd.Function):
    """Changes nothing, and makes the gradient of some sequences another number."""

    @staticmethod
    def forward(ctx, tokens, guilty, value):
        ctx.guilty, ctx.value = guilty, value
        return tokens.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.masked_fill(ctx.guilty[:, None, None], ctx.value), None, None


class Mistake(nn.Module):
    """What is wrong with a user's own layer."""

    def forward(self, tokens: Tensor, guilty: Tensor) -> Tensor:
        if Broken.backward:
            return Spoil.apply(tokens, guilty, Broken.value)
        return tokens.masked_fill(guilty[:, None, None], Broken.value)


class Broken(Patch):
    """A user's own embedding that cannot cope with some windows, known by how they begin."""

    guilty: tuple[Tensor, ...] = ()
    since = 1  # step of this process from which on
    deadly: tuple[Tensor, ...] = ()  # at these it raises
    value = math.nan
    backward = False
    meanwhile = None  # called once, when the training begins
    calls = 0

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.mistake = Mistake()

    def forward(self, signal: Tensor, channels: Tensor, rate_hz: Tensor) -> Tensor:
        tokens = super().forward(signal, channels, rate_hz)
        if type(signal.detach()) is not Tensor or signal.device.type != "cpu":  # a trace
            return tokens
        if Broken.meanwhile is not None:
            Broken.meanwhile()
            Broken.meanwhile = None
        if _known(signal, Broken.deadly).any():
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        self.calls += self.training and torch.is_grad_enabled()
        guilty = _known(signal, Broken.guilty if self.calls >= Broken.since else ())
        return self.mistake(tokens, guilty.repeat_interleave(signal.shape[1]))


def _known(signal: Tensor, begins: tuple[Tensor, ...]) -> Tensor:
    found = torch.zeros(len(signal), dtype=torch.bool)
    for begin in begins:
        found |= (signal[:, 0, :4] == begin).all(1)
    return found


class BrokenInItsSixthStep(PatchTST):
    """A user's own backbone whose last block gives infinities, for every window."""

    calls = 0

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.blocks[-1].register_forward_hook(lambda block, inputs, tokens: tokens * self._factor())

    def _factor(self) -> float:
        return math.inf if self.calls == 6 else 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        real = type(tokens.detach()) is Tensor and tokens.device.type == "cpu"
        self.calls += self.training and torch.is_grad_enabled() and real
        return super().forward(tokens)


@pytest.fixture(autouse=True)
def mended(monkeypatch):
    """After a test nothing is wrong any more."""
    for name in ("guilty", "since", "deadly", "value", "backward", "meanwhile"):
        monkeypatch.setattr(Broken, name, getattr(Broken, name))


@pytest.fixture
def config(tiny):
    def call(*overrides):
        config = tiny(*overrides)
        config.embedding._target_ = f"{__name__}.Broken"
        return config

    return call


@dataclasses.dataclass
class Window:
    """Of the training.

    Attributes:
        name: as a message has it.
        begin: its first samples, as a model sees them.
        step: the one of its epoch that it is in, from 1.
    """

    name: str
    begin: Tensor
    step: int


@pytest.fixture(scope="module")
def windows(tiny):
    """Of every system, in the order of the first epoch."""
    return windows_of(tiny(), epoch=0)


def windows_of(config, epoch):
    """Those of the training, in the order of an epoch, from 0."""
    data = build(config.data, targets(config))
    split = data.splits["train"]
    numbers = {split.name(i): i for i in range(len(split))}
    found = []
    for step in range(STEPS):
        for name in data.names(32, seed=config.seed, epoch=epoch, number=step):
            found.append(Window(name, split[numbers[name]].signal[0, 0, :4], step + 1))
    return found


def in_epoch(config, epoch, step):
    """The first window of a step of an epoch."""
    return next(window for window in windows_of(config, epoch) if window.step == step)


@pytest.fixture
def of_step(windows):
    """Windows of a step of the first epoch; of the motor, which has every kind of label but one."""
    return lambda step: [w for w in windows if w.step == step and w.name.startswith("motor")]


def steps_of(run_dir):
    """Those whose losses were written."""
    return [int(row["step"]) for row in rows(run_dir) if row["train/lr"]]


def all_finite(run_dir):
    return all(value.isfinite().all() for value in weights(run_dir).values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_task_step_window_and_layer(config, of_step, tmp_path, monkeypatch, value):
    guilty = of_step(3)[2]
    monkeypatch.setattr(Broken, "guilty", (guilty.begin,))
    monkeypatch.setattr(Broken, "value", value)
    text = (
        rf"the loss of classification is nan at step 3 of 8, in window {re.escape(guilty.name)}; "
        r"first layer: embedding\.mistake; use a smaller training\.lr=0\.001"
    )
    with pytest.raises(NanError, match=f"^{text}"):
        run_experiment(config("training.epochs=2"), tmp_path)
    assert (status_of(tmp_path)["state"], status_of(tmp_path)["kind"]) == ("failed", "NAN")
    assert re.match(text, status_of(tmp_path)["error"])


def test_all_windows_at_fault_are_counted_and_the_first_are_named(config, of_step, tmp_path, monkeypatch):
    guilty = of_step(2)[:5]
    monkeypatch.setattr(Broken, "guilty", tuple(window.begin for window in guilty))
    named = re.escape(", ".join(window.name for window in guilty[:3]))
    with pytest.raises(NanError, match=rf"step 2 of 4, in windows {named} and 2 more; first layer: embedding\.mistake"):
        run_experiment(config(), tmp_path)


def test_a_layer_that_fails_for_every_window_is_named(tiny, tmp_path):
    config = tiny("training.epochs=2")
    config.backbone._target_ = f"{__name__}.BrokenInItsSixthStep"
    last = config.backbone.e_layers - 1
    with pytest.raises(
        NanError, match=rf"at step 6 of 8, in windows .* and 29 more; first layer: backbone.blocks.{last};"
    ):
        run_experiment(config, tmp_path)


@pytest.mark.parametrize("micro_batch", [32, 5])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_names_the_backward_pass_and_the_window(
    config, of_step, tmp_path, monkeypatch, value, micro_batch
):
    guilty = of_step(3)[1]
    monkeypatch.setattr(Broken, "guilty", (guilty.begin,))
    monkeypatch.setattr(Broken, "value", value)
    monkeypatch.setattr(Broken, "backward", True)
    text = (
        rf"the norm of the gradient is (nan|inf) at step 3 of 4, in window {re.escape(guilty.name)}; the backward pass"
    )
    with pytest.raises(NanError, match=text):
        run_experiment(config(f"training.micro_batch={micro_batch}"), tmp_path)
    assert status_of(tmp_path)["kind"] == "NAN"


@pytest.mark.parametrize("clip_norm", ["null", 1.0])
def test_a_gradient_that_is_not_finite_names_the_weight_next_to_which_it_arose(
    config, of_step, tmp_path, monkeypatch, clip_norm
):
    """The mistake is behind the projection of the embedding: no other weight has such a gradient."""
    monkeypatch.setattr(Broken, "guilty", (of_step(3)[1].begin,))
    monkeypatch.setattr(Broken, "backward", True)
    with pytest.raises(NanError, match=r"the backward pass, gradient of embedding\.project\.bias;"):
        run_experiment(config(f"training.clip_norm={clip_norm}"), tmp_path)


@pytest.mark.parametrize("backward", [False, True])
def test_the_weights_that_are_kept_stay_finite(config, of_step, tmp_path, monkeypatch, backward):
    monkeypatch.setattr(Broken, "guilty", (of_step(3)[0].begin,))
    monkeypatch.setattr(Broken, "backward", backward)
    with pytest.raises(NanError, match="at step 3 of 4"):
        run_experiment(config("training.save_every_s=1e-6"), tmp_path)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["vibench"]["steps_done"] == 2
    assert all_finite(tmp_path)


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_is_skipped_changes_nothing_and_the_run_goes_on(config, of_step, tmp_path, monkeypatch, backward):
    """It ends in the step after it by another fault, so that the checkpoints around the skipped one can be compared."""
    monkeypatch.setattr(Broken, "guilty", (of_step(2)[0].begin,))
    monkeypatch.setattr(Broken, "backward", backward)
    monkeypatch.setattr(Broken, "deadly", (of_step(3)[0].begin,))
    options = ("training.on_nan=skip", "training.save_every_s=1e-6", "training.task_weights=learned", WRITTEN)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run_experiment(config(*options), tmp_path)
    after, before = (read_checkpoint(tmp_path / "checkpoints" / name) for name in ("last.ckpt", "previous.ckpt"))
    told, known = after["vibench"], before["vibench"]
    assert (told["steps_done"], known["steps_done"]) == (2, 1)
    assert (told["skipped_steps"], known["skipped_steps"]) == (1, 0)
    assert told["labels_seen"] == known["labels_seen"]
    torch.testing.assert_close(after["state_dict"], before["state_dict"], rtol=0, atol=0)
    kept, had = after["optimizer_states"][0]["state"], before["optimizer_states"][0]["state"]
    torch.testing.assert_close(kept, had, rtol=0, atol=0)
    assert steps_of(tmp_path) == [1]


def test_a_run_with_skipped_steps_completes_and_says_so(config, of_step, tmp_path, monkeypatch):
    guilty = of_step(2)[0]
    monkeypatch.setattr(Broken, "guilty", (guilty.begin,))
    status = run_experiment(config("training.on_nan=skip", "training.epochs=2", WRITTEN), tmp_path)
    assert (status["state"], status["steps"], status["skipped_steps"]) == ("completed", 8, 2)
    said = events(tmp_path)
    assert [event["kind"] for event in status["events"]] == ["nan", "nan"]
    assert status["events"][0]["step"] == 2
    assert said[0].startswith(f"the loss of classification is nan at step 2 of 8, in window {guilty.name}; first layer")
    assert [text.rpartition("; ")[2] for text in said] == ["left out, 1 of at most 3", "left out, 2 of at most 3"]
    assert sorted(set(range(1, 9)) - set(steps_of(tmp_path))) == [event["step"] for event in status["events"]]
    assert all_finite(tmp_path)


def test_more_skipped_steps_than_the_limit_end_the_run(config, of_step, tmp_path, monkeypatch):
    monkeypatch.setattr(Broken, "guilty", (of_step(1)[0].begin, of_step(3)[0].begin))
    with pytest.raises(NanError, match=r"first layer: embedding\.mistake; training\.nan_limit=1 is reached; use a"):
        run_experiment(config("training.on_nan=skip", "training.nan_limit=1"), tmp_path)
    assert (status_of(tmp_path)["state"], status_of(tmp_path)["kind"]) == ("failed", "NAN")
    assert len(events(tmp_path)) == 1


def test_a_run_all_of_whose_steps_were_skipped_is_no_success(config, of_step, tmp_path, monkeypatch):
    monkeypatch.setattr(Broken, "guilty", tuple(of_step(step)[0].begin for step in (1, 2, 3, 4)))
    with pytest.raises(NanError, match="none of the 4 steps changed a weight"):
        run_experiment(config("training.on_nan=skip", "training.nan_limit=9"), tmp_path)


def test_the_limit_of_skipped_steps_holds_over_a_resume(config, of_step, tmp_path, monkeypatch):
    options = ("training.on_nan=skip", "training.nan_limit=1", "training.save_every_s=1e-6")
    monkeypatch.setattr(Broken, "guilty", (of_step(1)[0].begin, of_step(3)[0].begin))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="cannot be multiplied"):
        patch.setattr(Broken, "deadly", (of_step(2)[0].begin,))
        run_experiment(config(*options), tmp_path)
    with pytest.raises(NanError, match=r"at step 3 of 4, .*training\.nan_limit=1 is reached"):
        run_experiment(config(*options), tmp_path)


class MendedWhenStartedAgain(logging.Handler):
    """The fault is gone after the rewind: with the lower learning rate, say."""

    def emit(self, record):
        if record.getMessage().startswith("STARTED AGAIN"):
            Broken.guilty = ()


@pytest.fixture
def gone_after_the_rewind():
    handler, log = MendedWhenStartedAgain(), logging.getLogger("vibench")
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


@pytest.mark.parametrize(
    ("options", "fault", "back_to"),
    [
        ((), 5, 4),  # the checkpoint of the first epoch
        (("training.save_every_s=1e-6",), 7, 6),  # one within the second
    ],
)
def test_a_rewind_goes_on_from_the_last_checkpoint_at_half_the_learning_rate(
    config, tmp_path, monkeypatch, gone_after_the_rewind, options, fault, back_to
):
    options = ("training.on_nan=rewind", "training.epochs=3", WRITTEN, *options)
    run_experiment(config(*options), tmp_path / "undisturbed")
    guilty = in_epoch(config(), 1, fault - STEPS)
    monkeypatch.setattr(Broken, "guilty", (guilty.begin,))
    monkeypatch.setattr(Broken, "since", fault)
    run = tmp_path / "run"
    status = run_experiment(config(*options), run)
    rewind, resume = status["events"]
    assert (rewind["kind"], rewind["step"], rewind["changes"]) == ("nan", fault, {"lr_scale": 0.5, "nans": 1})
    assert rewind["text"].startswith("the loss of ")
    assert f"at step {fault} of 12, in window {guilty.name}; " in rewind["text"]
    assert rewind["text"].endswith("from the last checkpoint with lr_scale=0.5, nans=1")
    assert resume["text"] == f"went on from step {back_to} of 12"
    assert (status["state"], status["steps"], status["skipped_steps"]) == ("completed", 12, 0)
    assert steps_of(run) == list(range(1, 13))  # none twice
    rate, other = ([float(r["train/lr"]) for r in rows(f) if r["train/lr"]] for f in (run, tmp_path / "undisturbed"))
    assert rate == [r * (1.0 if step <= back_to else 0.5) for step, r in enumerate(other, 1)]
    before = [row for row in rows(run) if int(row["step"]) < back_to]
    assert before == [row for row in rows(tmp_path / "undisturbed") if int(row["step"]) < back_to]


def test_a_rewind_before_the_first_checkpoint_begins_again_at_half_the_learning_rate(
    config, of_step, tmp_path, monkeypatch, gone_after_the_rewind
):
    monkeypatch.setattr(Broken, "guilty", (of_step(3)[0].begin,))
    status = run_experiment(config("training.on_nan=rewind", WRITTEN), tmp_path)
    assert [(event["kind"], event["step"]) for event in status["events"]] == [("nan", 3)]
    assert status["state"] == "completed"
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    assert float(rows(tmp_path)[0]["train/lr"]) == 0.0005


def test_a_rewound_run_is_that_which_has_half_the_learning_rate_from_the_checkpoint_on(
    config, of_step, tmp_path, monkeypatch, gone_after_the_rewind
):
    """Nothing of the step that failed is left in the weights, the optimizer or the random numbers."""
    options = ("training.epochs=2", "backbone.dropout=0.2", WRITTEN)
    monkeypatch.setattr(Broken, "guilty", (of_step(3)[0].begin,))
    run_experiment(config("training.on_nan=rewind", *options), tmp_path / "rewound")
    run_experiment(config("training.lr=5e-4", *options), tmp_path / "slow")
    assert_same_end(tmp_path / "rewound", tmp_path / "slow")


def test_as_many_rewinds_as_the_limit_end_the_run(config, of_step, tmp_path, monkeypatch):
    monkeypatch.setattr(Broken, "guilty", (of_step(3)[0].begin,))
    text = r"at step 3 of 4, .*; training\.nan_limit=2 is reached; use a smaller training\.lr=0\.00025"
    with pytest.raises(NanError, match=text):
        run_experiment(config("training.on_nan=rewind", "training.nan_limit=2"), tmp_path)
    assert (status_of(tmp_path)["state"], status_of(tmp_path)["kind"]) == ("failed", "NAN")
    assert [event["changes"]["lr_scale"] for event in status_of(tmp_path)["events"]] == [0.5, 0.25]


def test_a_run_that_was_rewound_too_often_goes_on_with_another_learning_rate_when_the_fault_is_gone(
    config, of_step, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(NanError, match="nan_limit=1 is reached"):
        patch.setattr(Broken, "guilty", (of_step(3)[0].begin,))
        run_experiment(config("training.on_nan=rewind", "training.nan_limit=1", "training.save_every_s=1e-6"), tmp_path)
    options = ("training.on_nan=rewind", "training.nan_limit=1", "training.save_every_s=1e-6", "training.lr=1e-4")
    status = run_experiment(config(*options, WRITTEN), tmp_path, may_change=True)
    assert status["state"] == "completed"
    assert float(next(row for row in rows(tmp_path) if row["step"] == "3")["train/lr"]) > 0.5e-4  # not halved again


@pytest.fixture
def store(resolved, tmp_path):
    """A store of the user's own."""
    path = tmp_path / "own.h5"
    path.write_bytes(demo_store(resolved(*TINY).data).read_bytes())
    return path


@pytest.fixture
def from_store(resolved, store):
    def call(*overrides):
        small = ("data.window=256", "data.stride=256", "task.signal_prediction.horizon=32", "d_model=16")
        options = ("training.warmup_steps=1", "training.epochs=2", "hardware=cpu")
        config = resolved("data=cwru", f"data.store={store}", *small, *options, *overrides)
        config.embedding._target_ = f"{__name__}.Broken"
        return config

    return call


def overwrite(path, name, first, count):
    """Another process writes over samples of a recording in a store."""
    with h5py.File(path, "r") as file:
        table = file["recordings"]
        row = [text.decode() for text in table["id"][:]].index(name)
        signal = file[f"systems/{table['system'][row].decode()}/signal"]
        channels, start = signal.shape[1], int(table["start"][row]) + first
        offset = signal.id.get_offset() + start * channels * 4
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(np.full((count, channels), np.nan, np.float32).tobytes())


def place(window):
    """A window's recording, and its first sample there."""
    recording, _, start = window.name.rpartition("[")
    return recording, int(start.partition(":")[0])


@pytest.mark.parametrize("policy", ["stop", "skip", "rewind"])
def test_a_signal_that_becomes_other_than_finite_is_an_error_of_the_data_whatever_the_policy(
    from_store, store, tmp_path, monkeypatch, policy
):
    config = from_store(f"training.on_nan={policy}")
    guilty = in_epoch(config, 0, 3)
    recording, first = place(guilty)
    monkeypatch.setattr(Broken, "meanwhile", lambda: overwrite(store, recording, first + 100, 1))
    text = rf"^the signal of {re.escape(guilty.name)} is not finite; repair its recording, or leave it out$"
    with pytest.raises(DataError, match=text) as error:
        run_experiment(config, tmp_path / "run")
    assert error.value.started  # exit status 1
    assert (status_of(tmp_path / "run")["state"], status_of(tmp_path / "run")["kind"]) == ("failed", "DATA")


def test_a_target_that_becomes_other_than_finite_is_an_error_of_the_data(from_store, store, tmp_path, monkeypatch):
    """What follows the last window of a recording is nothing but its forecast."""
    config = from_store("training.on_nan=skip")
    last = {}
    for window in windows_of(config, 0):
        recording, first = place(window)
        last[recording] = max(last.get(recording, (0, window)), (first, window), key=lambda pair: pair[0])
    first, guilty = next(pair for pair in last.values() if pair[1].step > 1)
    monkeypatch.setattr(Broken, "meanwhile", lambda: overwrite(store, place(guilty)[0], first + 256 + 10, 1))
    text = rf"^the target of signal_prediction in {re.escape(guilty.name)} is not finite; repair its recording"
    with pytest.raises(DataError, match=text):
        run_experiment(config, tmp_path / "run")
    assert status_of(tmp_path / "run")["kind"] == "DATA"


def test_a_gradient_that_overflows_in_fp16_is_no_event(config, tmp_path):
    options = ("training.precision=fp16", "training.epochs=4", "task.classification.weight=10")
    status = run_experiment(config(*options), tmp_path)
    assert status["state"] == "completed"
    assert 0 < status["skipped_steps"] < status["steps"] == 16
    assert status["events"] == []
    assert all_finite(tmp_path)


def test_a_loss_that_is_not_finite_is_named_in_fp16_too(config, of_step, tmp_path, monkeypatch):
    guilty = of_step(3)[2]
    monkeypatch.setattr(Broken, "guilty", (guilty.begin,))
    with pytest.raises(NanError, match=rf"nan at step 3 of 4, in window {re.escape(guilty.name)}; first layer: embedd"):
        run_experiment(config("training.precision=fp16"), tmp_path)
