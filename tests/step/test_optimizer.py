"""The optimizer of a step: what its groups are, and that where its state lies does not change what it does."""

import copy
import sys
import warnings
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.model.batches import SIZES, random_batch
from vibench.config.training import Optimizer, TaskWeights
from vibench.errors import ConfigError
from vibench.model import build_model, freeze
from vibench.step.optimizer import VARIANCE_RATE, OnHost, build_optimizer, set_rates
from vibench.step.step import Step
from vibench.step.task_weights import Weighing

CPU = torch.device("cpu")
OPTIMIZERS = list(Optimizer)
STEPS = 6
ALTERNATING = ["classification", "signal_prediction", "rul_prediction"]  # anomaly_detection never has a gradient


@pytest.fixture(scope="module")
def config(tiny):
    return tiny("backbone=dlinear", "backbone.moving_average=3", "embedding.stride=64", "training.weight_decay=0.1")


@pytest.fixture(scope="module")
def batches(config):
    """A batch for each step; the first is the loudest, so that some steps are clipped and some are not."""
    found = [random_batch(config, 7, missing=0.1, seed=seed) for seed in range(STEPS)]
    for number, batch in enumerate(found):
        batch.signal.mul_(4 / 2**number)
    return found


class Training:
    """A model in training by real steps, without Lightning.

    Args:
        state: where the optimizer keeps its own.
        parts: of the model, that are frozen.
    """

    def __init__(self, config, state, *, optimizer=Optimizer.adamw, parts=(), clip_norm=1.0):
        torch.manual_seed(0)
        self.training = replace(config.training, optimizer=optimizer, lr=0.01, clip_norm=clip_norm)
        self.model = build_model(config, **SIZES)
        freeze(self.model, list(parts))
        self.weighing = Weighing(self.model, config.task, TaskWeights.learned)
        self.optimizer = build_optimizer(self.model, self.weighing, self.training, "fp32", state)
        self.norms = []
        off = torch.amp.GradScaler("cpu", enabled=False)
        self.step = Step(self.model, self.weighing, self.training, precision="fp32", scaler=off, device=CPU)

    def run(self, batches, first=0):
        """One step for each batch, the rate another in each; two of three tasks in turn."""
        for number, batch in enumerate(batches, first):
            set_rates(self.optimizer, self.training.lr, 1 / (1 + number))
            on = [ALTERNATING[number % 3], ALTERNATING[(number + 1) % 3]]
            weights = self.weighing.factors()
            _, norm = self.step(
                batch,
                self.optimizer,
                {name: weights[name] for name in on},
                micro_batch=3,
                measure=False,
                check=lambda shares, norm: True,
            )
            self.norms.append(norm)
        return self

    def weights(self):
        """Copies of all that could have changed."""
        return {
            name: value.clone() for part in (self.model, self.weighing) for name, value in part.state_dict().items()
        }


def identical(one, other):
    """Names of the weights that differ in a bit."""
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def moved(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# the same on the host


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_weights_are_those_of_the_device_to_the_bit(config, batches, optimizer):
    device, host = (Training(config, state, optimizer=optimizer) for state in ("device", "host"))
    before = device.weights()
    assert identical(before, host.weights()) == []
    device.run(batches)
    assert identical(device.weights(), host.run(batches).weights()) == []
    still = set(before) - moved(before, device.weights())
    assert still == {name for name in before if "anomaly_detection" in name}  # all the others did move


def test_some_of_these_steps_are_clipped_and_some_are_not(config, batches):
    """Else the test above would say nothing of clipping."""
    norms = Training(config, "host").run(batches).norms
    assert min(norms) < 1 < max(norms)


def test_without_clipping_the_weights_are_the_same_too(config, batches):
    device, host = (Training(config, state, clip_norm=None).run(batches) for state in ("device", "host"))
    assert identical(device.weights(), host.weights()) == []


@pytest.mark.parametrize("parts", [["embedding"], ["embedding", "backbone"]], ids=",".join)
def test_what_is_frozen_has_no_copy_and_does_not_move(config, batches, parts):
    device, host = (Training(config, state, parts=parts) for state in ("device", "host"))
    before = host.weights()
    assert identical(device.run(batches).weights(), host.run(batches).weights()) == []
    assert not [name for name in moved(before, host.weights()) if name.split(".")[0] in parts]
    trained = sum(p.numel() for p in host.model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in host.optimizer.inner.param_groups[0]["params"]) == trained


def test_a_weight_without_a_gradient_neither_moves_nor_decays_and_goes_on_where_it_was():
    """Each step trains one of two weights; the other is left, and its momentum waits."""
    weights = {state: [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))] for state in ("device", "host")}
    device = torch.optim.AdamW(weights["device"], lr=0.1, weight_decay=0.5)
    host = OnHost([{"params": weights["host"]}], lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5))
    for number in range(5):
        resting = weights["host"][1 - number % 2].detach().clone()
        for state, optimizer in (("device", device), ("host", host)):
            weights[state][number % 2].grad = torch.tensor([1.0, -2.0, 0.5]) * (number + 1)
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(weights["host"][1 - number % 2], resting)
        assert all(map(torch.equal, weights["device"], weights["host"]))


def test_a_change_of_any_number_of_a_group_is_heeded(config, batches):
    """As a schedule does; not of the rate alone."""
    device, host = (Training(config, state) for state in ("device", "host"))
    for training in (device, host):
        training.run(batches[:2])
        training.optimizer.param_groups[0]["weight_decay"] = 5.0
        training.optimizer.param_groups[1]["betas"] = (0.5, 0.6)
        training.run(batches[2:4], first=2)
    assert identical(device.weights(), host.weights()) == []
    unchanged = Training(config, "host").run(batches[:4])
    assert {"log_variance.classification", "embedding.project.weight"} <= moved(unchanged.weights(), host.weights())


def test_gradients_are_gone_from_device_and_host_after_a_step(config, batches):
    training = Training(config, "host")
    model, optimizer = training.model, training.optimizer
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []
    assert [1 for group in optimizer.inner.param_groups for copy in group["params"] if copy.grad is not None] == []


def test_the_device_holds_no_state_and_the_host_all_of_it(config, batches):
    host, device = (Training(config, state).run(batches) for state in ("host", "device"))
    assert not host.optimizer.state
    own = {parameter.untyped_storage().data_ptr() for parameter in host.model.parameters()}
    copies = [copy for group in host.optimizer.inner.param_groups for copy in group["params"]]
    assert not own & {copy.untyped_storage().data_ptr() for copy in copies}
    held = [value.nbytes for state in host.optimizer.inner.state.values() for value in state.values()]
    assert sum(held) == sum(v.nbytes for state in device.optimizer.state.values() for v in state.values()) > 0


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    weight = nn.Parameter(torch.tensor([2.0]))
    host = OnHost([{"params": [weight]}], lambda groups: torch.optim.SGD(groups, lr=0.25))

    def closure():
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert host.step(closure) == 4
    assert weight.item() == 2 - 0.25 * 2 * 2


# states that are kept


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("saved", "loaded"), [("host", "host"), ("device", "host"), ("host", "device")])
def test_a_training_that_is_taken_up_again_goes_on_as_if_it_had_not_stopped(config, batches, saved, loaded, optimizer):
    """Also where the state moves: a checkpoint does not say where it was."""
    whole = Training(config, saved, optimizer=optimizer).run(batches[:3])
    weights, state = whole.weights(), copy.deepcopy(whole.optimizer.state_dict())
    whole.run(batches[3:], first=3)
    again = Training(config, loaded, optimizer=optimizer).run(batches[:1])  # somewhere else
    again.model.load_state_dict({name: weights[name] for name in again.model.state_dict()})
    again.weighing.load_state_dict({name: weights[name] for name in again.weighing.state_dict()})
    again.optimizer.load_state_dict(state)
    assert identical(again.weights(), weights) == []
    again.run(batches[3:], first=3)
    assert identical(again.weights(), whole.weights()) == []


def test_a_state_that_is_loaded_brings_its_rates_and_peaks(config, batches):
    trained = Training(config, "host").run(batches[:3])
    fresh = Training(config, "host")
    fresh.optimizer.load_state_dict(trained.optimizer.state_dict())
    for mine, theirs in zip(fresh.optimizer.param_groups, trained.optimizer.param_groups, strict=True):
        rest = {key: value for key, value in mine.items() if key != "params"}
        assert rest == {key: value for key, value in theirs.items() if key != "params"}
    assert [group["lr"] for group in fresh.optimizer.param_groups] == pytest.approx([0.01 / 3, VARIANCE_RATE / 3])


def test_weights_that_are_loaded_between_steps_are_those_that_are_trained_on(config, batches):
    """With the optimizer left as it is, as one does to average weights, or to go back."""
    device, host = (Training(config, state) for state in ("device", "host"))
    for training in (device, host):
        first = copy.deepcopy(training.model.state_dict())
        training.run(batches[:3])
        training.model.load_state_dict(first)
        training.run(batches[3:], first=3)
    assert identical(device.weights(), host.weights()) == []


# groups and rates


@pytest.mark.parametrize("state", ["device", "host", "int8"])
def test_variances_have_a_peak_of_their_own_and_no_decay(config, state):
    if state == "int8":
        pytest.importorskip("torchao", reason="the extra vibench[int8] is not installed")
    weights, variances = Training(config, state).optimizer.param_groups
    assert (len(variances["params"]), variances["weight_decay"], variances["peak"]) == (4, 0, VARIANCE_RATE)
    assert weights["weight_decay"] == 0.1
    assert "peak" not in weights


@pytest.mark.parametrize("state", ["device", "host"])
def test_fixed_weights_of_tasks_make_no_second_group(config, state):
    training = Training(config, state)
    fixed = Weighing(training.model, config.task, TaskWeights.fixed)
    assert len(build_optimizer(training.model, fixed, training.training, "fp32", state).param_groups) == 1


@pytest.mark.parametrize(("precision", "fused"), [("fp32", True), ("bf16", True), ("fp16", False)])
@pytest.mark.parametrize(
    ("optimizer", "kind"), [(Optimizer.adamw, torch.optim.AdamW), (Optimizer.adam, torch.optim.Adam)]
)
def test_adam_is_fused_but_in_fp16(config, precision, fused, optimizer, kind):
    training = Training(config, "device")
    made = build_optimizer(
        training.model, training.weighing, replace(config.training, optimizer=optimizer), precision, "device"
    )
    assert type(made) is kind
    assert [group["fused"] for group in made.param_groups] == [fused] * 2


def test_a_rate_is_the_factor_times_the_peak_of_its_group():
    groups = [{"lr": 1.0}, {"lr": 1.0, "peak": 0.02}]
    set_rates(SimpleNamespace(param_groups=groups), 0.3, 0.25)
    assert [group["lr"] for group in groups] == [0.075, 0.005]


def test_a_rate_that_is_a_tensor_stays_that_tensor():
    """What is compiled for it holds on to it."""
    rates = [torch.tensor(1.0), torch.tensor(1.0)]
    groups = [{"lr": rates[0]}, {"lr": rates[1], "peak": 0.02}]
    set_rates(SimpleNamespace(param_groups=groups), 0.3, 0.25)
    assert [group["lr"] for group in groups] == rates
    assert all(group["lr"] is rate for group, rate in zip(groups, rates, strict=True))
    assert [rate.item() for rate in rates] == pytest.approx([0.075, 0.005])


# eight bits


def test_without_torchao_the_extra_is_named(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(
        ConfigError, match=r"training\.optimizer_state=int8 needs torchao \(.*\); pip install 'vibench\[int8\]', or"
    ):
        Training(config, "int8")


@pytest.fixture(scope="module")
def regression(config):
    """A linear map that is learned in 8 bits: losses, rates, and kernels compiled by each step. Compiles one kernel."""
    pytest.importorskip("torchao", reason="the extra vibench[int8] is not installed")
    from torch._dynamo.utils import counters

    torch.manual_seed(0)
    model, truth = nn.Linear(128, 256, bias=False), torch.randn(256, 128) / 11
    nothing = SimpleNamespace(parameters=lambda: iter(()))  # no variances
    optimizer = build_optimizer(model, nothing, replace(config.training, weight_decay=0.0), "fp32", "int8")
    signal = torch.randn(512, 128)
    found = SimpleNamespace(losses=[], graphs=[], rates=[], optimizer=optimizer, model=model)
    before = counters["stats"]["unique_graphs"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own affairs
        for step in range(60):
            set_rates(optimizer, 0.01, 1 - step / 60)
            loss = (model(signal) - signal @ truth.T).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.losses.append(loss.item())
            found.rates.append(float(optimizer.param_groups[0]["lr"]))
            found.graphs.append(counters["stats"]["unique_graphs"] - before)
    return found


def nbytes(value):
    """Of a tensor, or of those that it is made of."""
    if not hasattr(value, "__tensor_flatten__"):
        return value.nbytes
    return sum(getattr(value, name).nbytes for name in value.__tensor_flatten__()[0])


def test_eight_bits_take_about_a_quarter_of_the_state_in_fp32(regression):
    (state,) = regression.optimizer.state.values()
    assert 0.25 < sum(map(nbytes, state.values())) / (2 * 4 * 128 * 256) < 0.3


def test_a_training_in_eight_bits_learns(regression):
    assert regression.losses[-1] < 0.01 * regression.losses[0]
    assert all(later < earlier for earlier, later in pairwise(regression.losses[::10]))


def test_a_schedule_compiles_nothing_again(regression):
    assert regression.graphs == [1] * 60
    assert regression.rates == pytest.approx([0.01 * (1 - step / 60) for step in range(60)])
