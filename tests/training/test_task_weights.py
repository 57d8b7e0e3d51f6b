"""How much each task counts: fixed, or learned (Kendall et al. 2018, https://arxiv.org/abs/1705.07115)."""

import csv
import math
from contextlib import nullcontext

import pytest
import torch

from tests.model.batches import SIZES, random_batch
from vibench.config.training import TaskWeights
from vibench.model import build_model
from vibench.step.micro_batch import accumulate
from vibench.step.optimizer import VARIANCE_RATE
from vibench.step.task_weights import Weighing
from vibench.training.checkpoints import read_checkpoint

SMALL = ("backbone=dlinear", "backbone.moving_average=3", "embedding.stride=64")
WEIGHTS = {  # none is 1, none is another's: a weight left out or mixed up would show
    "classification": 0.5,
    "anomaly_detection": 2.0,
    "signal_prediction": 3.0,
    "rul_prediction": 0.7,
}
SHARE = {"classification": 1.0, "anomaly_detection": 1.0, "signal_prediction": 0.5, "rul_prediction": 0.5}
LOSSES = {"classification": 1.4, "anomaly_detection": 0.6, "signal_prediction": 0.9, "rul_prediction": 0.1}
PLACES = {"classification": 0.3, "anomaly_detection": -0.8, "signal_prediction": 1.1, "rul_prediction": -2.0}
LEARNED = ("training.task_weights=learned", "logger.every_n_steps=1", "training.warmup_steps=0", *SMALL)
SGD = ("training.optimizer=sgd", "training.schedule=constant", "training.weight_decay=0")


@pytest.fixture(scope="module")
def config(tiny):
    return tiny(*SMALL, *(f"task.{name}.weight={weight}" for name, weight in WEIGHTS.items()))


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return build_model(config, **SIZES)


@pytest.fixture
def learned(model, config):
    """Variances that are nowhere near where they begin."""
    weighing = Weighing(model, config.task, TaskWeights.learned)
    with torch.no_grad():
        for name, place in PLACES.items():
            weighing.log_variance[name].fill_(place)
    return weighing


def losses():
    return {name: torch.tensor(loss, requires_grad=True) for name, loss in LOSSES.items()}


def written_out(means, log_variance):
    """Kendall's total loss, each task times its configured weight."""
    return sum(
        WEIGHTS[name] * (SHARE[name] * torch.exp(-log_variance[name]) * mean + log_variance[name] / 2)
        for name, mean in means.items()
    )


def rows_of(run):
    with (run.folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def logged(run, key):
    return [float(row[key]) for row in rows_of(run) if row.get(key)]


def variances(run):
    """Task -> log variance, as the last checkpoint has it."""
    prefix = "weighing.log_variance."
    state = read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["state_dict"]
    return {key.removeprefix(prefix): float(value) for key, value in state.items() if key.startswith(prefix)}


def test_fixed_weights_are_the_configured_ones(model, config):
    weighing = Weighing(model, config.task, TaskWeights.fixed)
    assert weighing.factors() == WEIGHTS
    assert list(weighing.parameters()) == []
    assert weighing.objective(losses()) is None


def test_learned_weights_begin_with_a_variance_of_one(model, config):
    weighing = Weighing(model, config.task, TaskWeights.learned)
    assert weighing.factors() == pytest.approx({name: WEIGHTS[name] * SHARE[name] for name in WEIGHTS})


def test_a_task_counts_by_the_inverse_of_its_variance(learned):
    expected = {name: WEIGHTS[name] * SHARE[name] * math.exp(-PLACES[name]) for name in WEIGHTS}
    assert learned.factors() == pytest.approx(expected)


def test_the_variance_of_a_task_descends_to_twice_its_share_of_the_loss(learned):
    """The minimum in closed form: the loss itself for a squared error, twice the loss for classes."""
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        learned.objective(losses()).backward()
        optimizer.step()
    found = {name: s.exp().item() for name, s in learned.log_variance.items()}
    assert found == pytest.approx({name: 2 * SHARE[name] * loss for name, loss in LOSSES.items()}, rel=1e-3)


def test_the_gradient_of_the_variances_is_that_of_the_formula(learned):
    learned.objective(losses()).backward()
    places = {name: torch.tensor(place, requires_grad=True) for name, place in PLACES.items()}
    written_out({name: torch.tensor(loss) for name, loss in LOSSES.items()}, places).backward()
    found = {name: float(s.grad) for name, s in learned.log_variance.items()}
    assert found == pytest.approx({name: float(s.grad) for name, s in places.items()}, rel=1e-5)


def test_a_task_without_a_label_in_the_step_leaves_its_variance_untouched(learned):
    optimizer = torch.optim.SGD(learned.parameters(), lr=0.3, momentum=0.9)
    learned.objective(losses()).backward()
    optimizer.step()  # now there is a momentum that a gradient of zero would not stop
    optimizer.zero_grad()
    before = {name: s.item() for name, s in learned.log_variance.items()}
    learned.objective({name: loss for name, loss in losses().items() if name != "rul_prediction"}).backward()
    optimizer.step()
    assert {name for name, s in learned.log_variance.items() if s.item() == before[name]} == {"rul_prediction"}


def test_a_training_leaves_the_variance_of_a_task_without_a_label_untouched(train):
    """A step of one window, which has a label of one of the two tasks, and a loss of zero for the other."""
    two = ("~task.anomaly_detection", "~task.signal_prediction")
    run = train("training.global_batch_size=1", "training.max_steps=1", *two, *SGD, *LEARNED)
    seen = {name for name, count in run.fitted.labels_seen.items() if count}
    assert len(seen) == 1
    assert {name for name, s in variances(run).items() if s} == seen


def test_without_any_label_there_is_nothing_to_minimise(learned):
    assert learned.objective({}) is None


@pytest.mark.parametrize("micro_batch", [5, 13])
def test_the_gradient_of_a_step_is_that_of_the_written_out_total(model, config, learned, micro_batch):
    """Of the weights by ``accumulate``, of the variances by ``objective``, against one backward through the sum."""
    batch = random_batch(config, 13)
    shares = accumulate(
        model,
        batch,
        factors=learned.factors(),
        micro_batch=micro_batch,
        device=torch.device("cpu"),
        autocast=nullcontext,
        scale=lambda loss: loss,
        measure=False,
    )
    learned.objective({name: share.loss for name, share in shares.items()}).backward()
    parameters = [*model.parameters(), *(learned.log_variance[name] for name in WEIGHTS)]
    found = torch.cat([p.grad.flatten() for p in parameters])
    places = {name: torch.tensor(place, requires_grad=True) for name, place in PLACES.items()}
    predictions = model(batch)
    means = {
        name: task.loss(predictions[name], batch.targets[name], batch.present[name]) / task.count(batch.present[name])
        for name, task in model.tasks.items()
    }
    total = written_out(means, places)
    parts = torch.autograd.grad(total, [*model.parameters(), *(places[name] for name in WEIGHTS)])
    expected = torch.cat([part.flatten() for part in parts])
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_learned_weights_move_and_are_logged_and_kept(train):
    run = train("training.max_steps=3", "training.lr=0.1", *LEARNED)
    kept = variances(run)
    assert kept.keys() == WEIGHTS.keys()
    assert all(abs(s) > 0.01 for s in kept.values())
    assert run.fitted.task_weights == pytest.approx({name: SHARE[name] * math.exp(-s) for name, s in kept.items()})
    for name in WEIGHTS:
        weights = logged(run, f"train/{name}/weight")
        assert weights[0] == pytest.approx(SHARE[name])  # of the first step: before anything was learned
        assert len(set(weights)) == 3


def test_fixed_weights_are_not_logged(train):
    run = train("training.max_steps=1", "logger.every_n_steps=1", "training.warmup_steps=0", *SMALL)
    assert [key for row in rows_of(run) for key in row if key.endswith("/weight")] == []
    assert logged(run, "train/classification/loss")  # although the losses are


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_the_variances_have_no_weight_decay(train, optimizer):
    run = train(f"training.optimizer={optimizer}", "training.weight_decay=0.3", "training.max_steps=1", *LEARNED)
    groups = read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [
        (len(list(run.model.parameters())), 0.3),
        (len(WEIGHTS), 0.0),
    ]


def test_the_weights_are_clipped_as_if_there_were_no_variances(train):
    run = train("training.lr=0.1", "training.clip_norm=0.01", "training.max_steps=1", *SGD, *LEARNED)
    after = run.model.state_dict()
    moved = sum(float((after[name] - value).square().sum()) for name, value in run.before.items())
    assert moved == pytest.approx((0.1 * 0.01) ** 2, rel=1e-3)


def test_the_variances_come_near_where_they_should_be(train):
    """Which a rate of the weights' would not bring them to: Adam moves a number by one rate a step."""
    run = train("training.lr=1e-4", "training.epochs=50", "training.schedule=constant", *LEARNED)
    found = variances(run)
    for name, share in SHARE.items():
        loss = logged(run, f"train/{name}/epoch_loss")[-1]
        assert found[name] == pytest.approx(math.log(2 * share * loss), abs=0.5), name


def test_the_validation_keeps_the_configured_weights(train):
    """Else its loss would fall because a weight does, and no two epochs would compare."""
    options = [f"task.{name}.weight={weight}" for name, weight in WEIGHTS.items()]
    run = train("training.lr=0.1", *options, *LEARNED)
    assert abs(variances(run)["signal_prediction"]) > 0.01
    (total,) = logged(run, "val/loss")
    assert total == pytest.approx(sum(weight * logged(run, f"val/{n}/loss")[0] for n, weight in WEIGHTS.items()))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_variance_moves_by_the_formula_in_the_one_step_that_trains_its_task(train, precision):
    """Also in fp16, where everything that goes backward is scaled, and past the steps of the other tasks."""
    run = train(
        f"training.precision={precision}", "training.task_order=alternating", "training.max_steps=4",
        "training.lr=0.01", "training.clip_norm=null", "task.classification.weight=3", *SGD, *LEARNED,
    )  # fmt: skip
    expected = {}
    for name, share in SHARE.items():
        (loss,) = logged(run, f"train/{name}/loss")  # it was trained once in four steps
        expected[name] = VARIANCE_RATE * (3 if name == "classification" else 1) * (share * loss - 0.5)
    assert variances(run) == pytest.approx(expected, rel=1e-4)
