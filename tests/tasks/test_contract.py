"""What every task promises. A new YAML of one task in conf/task is covered without a new test.

Shapes: B windows, G sequences per window, C channels, N tokens, D model width.
"""

import inspect
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
import yaml
from hydra.utils import get_class
from torchmetrics import Metric

from tests.conftest import CONF
from tests.model.batches import N_CHANNELS, N_CLASSES, SIZES, random_batch
from vibench.config.task import TaskConfig
from vibench.errors import ShapeError
from vibench.model import build_model
from vibench.tasks.task import Sizes

# multitask.yaml and its like hold no task of their own name
TASKS = [p.stem for p in sorted((CONF / "task").glob("*.yaml")) if p.stem in yaml.safe_load(p.read_text())]
FOUNDATION = sorted(p.stem for p in (CONF / "experiment" / "foundation").glob("*.yaml"))
N_TOKENS, D_MODEL, SIZE = 9, 16, 13
PARTS = (0, 1, 4, 5, 13)  # uneven


@pytest.fixture(scope="module", params=TASKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def experiment(resolved, name):
    return resolved("hardware=cpu", f"task={name}", "training.monitor=loss")


@pytest.fixture(params=[True, False], ids=["channel_independent", "joint"])
def sizes(request, experiment):
    return Sizes(
        d_model=D_MODEL,
        n_tokens=N_TOKENS,
        window=experiment.data.window,
        n_channels=N_CHANNELS,
        channel_independent=request.param,
        n_classes=N_CLASSES,
    )


@pytest.fixture
def task(experiment, name, sizes):
    torch.manual_seed(0)
    own = {f.name: getattr(experiment.task[name], f.name) for f in fields(experiment.task[name])}
    arguments = {key: value for key, value in own.items() if key not in {f.name for f in fields(TaskConfig)}}
    return get_class(experiment.task[name]._target_)(**arguments, sizes=sizes)


@pytest.fixture
def batch(experiment, task, name):
    """As the task sees it, with its target there."""
    return task.view(random_batch(experiment, SIZE), name)


@pytest.fixture
def labels(batch, name):
    return batch.targets[name], batch.present[name]


@pytest.fixture
def seen(batch, sizes):
    """Tokens (B, G, N, D) and which of their sequences are real."""
    groups = N_CHANNELS if sizes.channel_independent else 1
    tokens = torch.randn(SIZE, groups, N_TOKENS, D_MODEL, generator=torch.Generator().manual_seed(2))
    return tokens, torch.arange(groups) < (batch.channels if groups > 1 else torch.ones(SIZE))[:, None]


@pytest.fixture
def prediction(task, seen):
    return task(*seen).detach().requires_grad_()


def spread(metrics):
    """Every metric of a collection, also those inside others."""
    return {name: m for name, m in metrics.named_modules() if isinstance(m, Metric)}


def state_size(metrics):
    states = [getattr(m, state) for m in spread(metrics).values() for state in m._defaults]
    return sum(s.numel() if isinstance(s, torch.Tensor) else sum(t.numel() for t in s) for s in states)


def test_schema_and_constructor_name_the_same_arguments(experiment, name):
    schema = {f.name for f in fields(experiment.task[name])} - {f.name for f in fields(TaskConfig)}
    constructor = inspect.signature(get_class(experiment.task[name]._target_))
    assert schema | {"sizes"} == set(constructor.parameters)


def test_no_argument_of_the_constructor_has_a_default(experiment, name):
    arguments = inspect.signature(get_class(experiment.task[name]._target_)).parameters.values()
    assert [a.name for a in arguments if a.default is not inspect.Parameter.empty] == []


def test_the_metrics_are_those_the_schema_promises(task, experiment, name):
    assert set(task.metrics().keys()) == set(experiment.task[name].METRICS)
    assert set(experiment.task[name].METRICS.values()) <= {"min", "max"}


def test_the_schema_is_right_about_which_way_is_better(task, experiment, name, batch, labels, prediction):
    """A prediction that is the target scores no worse than a random one."""
    target, present = labels
    perfect = target.float() if target.dtype is torch.float32 else 10 * torch.nn.functional.one_hot(target).float()
    if prediction.shape == target.shape and "auroc" in experiment.task[name].METRICS:
        perfect = 10 * (2 * perfect - 1)  # logits of a probability
    results = []
    for guess in (perfect, prediction.detach()):
        metrics = task.metrics()
        task.update(metrics, guess, target, present, batch)
        results.append(metrics.compute())
    best, random = results
    for metric, mode in experiment.task[name].METRICS.items():
        sign = 1 if mode == "max" else -1
        assert sign * best[metric] > sign * random[metric] or (metric == "fa_per_24h" and best[metric] == 0), metric


def test_a_missing_label_adds_exactly_nothing_to_loss_and_gradient(task, prediction, labels):
    target, present = labels
    task.loss(prediction, target, present).backward()
    other = target.clone()
    other[~present] = 1 if target.dtype is torch.int64 else 1e3
    again = prediction.detach().requires_grad_()
    loss = task.loss(again, other, present)
    loss.backward()
    assert torch.equal(loss, task.loss(prediction, target, present))
    assert torch.equal(again.grad, prediction.grad)
    assert not prediction.grad[~present].any()
    assert prediction.grad[present].reshape(int(present.sum()), -1).any(1).all()  # of every label that is there


def test_the_loss_of_a_batch_is_the_sum_over_its_parts(task, prediction, labels):
    target, present = labels
    parts = [slice(*edges) for edges in pairwise(PARTS)]
    whole = task.loss(prediction, target, present)
    torch.testing.assert_close(sum(task.loss(prediction[p], target[p], present[p]) for p in parts), whole)
    assert sum(int(task.count(present[p])) for p in parts) == int(task.count(present))


def test_the_loss_counts_twice_what_is_there_twice(task, prediction, labels):
    target, present = labels
    twice = [torch.cat([t, t]) for t in (prediction, target, present)]
    torch.testing.assert_close(task.loss(*twice), 2 * task.loss(prediction, target, present))
    assert task.count(twice[2]) == 2 * task.count(present)


def test_without_a_label_loss_and_gradient_are_zero_and_finite(task, seen, labels):
    target, present = torch.zeros_like(labels[0]), torch.zeros_like(labels[1])
    loss = task.loss(task(*seen), target, present)
    loss.backward()
    assert loss == 0
    assert task.count(present) == 0
    for parameter in task.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()  # NaN is true


def test_without_a_label_the_metrics_are_left_as_they_were(task, prediction, batch, labels):
    metrics = task.metrics()
    task.update(metrics, prediction.detach(), labels[0], torch.zeros_like(labels[1]), batch)
    assert not any(m._update_count for m in spread(metrics).values())


def test_loss_is_of_single_precision_whatever_the_prediction(task, prediction, labels):
    for dtype in (torch.bfloat16, torch.float16):
        assert task.loss(prediction.to(dtype), *labels).dtype is torch.float32


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p, t: (p[:1], t), id="fewer predictions"),
        pytest.param(lambda p, t: (p, t[:1]), id="fewer targets"),
        pytest.param(lambda p, t: (p, t[..., None]), id="a target more"),
        pytest.param(lambda p, t: (p[..., None], t), id="a prediction more"),
        pytest.param(lambda p, t: (p, t.flatten()[0]), id="one target for all"),
        pytest.param(lambda p, t: (p, t[:0]), id="no targets"),
    ],
)
def test_shapes_that_do_not_match_are_refused(task, name, prediction, labels, change):
    wrong, target = change(prediction, labels[0])
    with pytest.raises(ShapeError, match=rf"^{name}: prediction \(.*\) against target \(.*\)"):
        task.loss(wrong, target, labels[1])


def test_a_mask_of_another_shape_is_refused(task, name, prediction, labels):
    target, present = labels
    for wrong in (present[:, None], present[:1], present.flatten()[0]):
        with pytest.raises(ShapeError, match=rf"^{name}: .*present"):
            task.loss(prediction, target, wrong)


def test_no_metric_keeps_a_list(task):
    lists = [(n, s) for n, m in spread(task.metrics()).items() for s, v in m._defaults.items() if isinstance(v, list)]
    assert lists == []


def test_fifty_updates_leave_the_state_as_small_as_one(task, prediction, batch, labels):
    metrics, guess = task.metrics(), prediction.detach()
    task.update(metrics, guess, *labels, batch)
    small = state_size(metrics)
    for number in range(50):
        task.update(metrics, guess, *labels, replace(batch, recording=batch.recording + 100 * (number + 1)))
    assert state_size(metrics) == small


def test_metrics_do_not_depend_on_how_a_split_is_cut_into_batches(task, prediction, batch, labels):
    (target, present), guess = labels, prediction.detach()
    whole, cut = task.metrics(), task.metrics()
    task.update(whole, guess, target, present, batch)
    for edges in pairwise(PARTS):
        part = slice(*edges)
        task.update(cut, guess[part], target[part], present[part], batch.part(*edges))
    torch.testing.assert_close(cut.compute(), whole.compute(), rtol=1e-5, atol=1e-6)


def test_a_missing_label_is_in_no_metric(task, prediction, batch, labels):
    target, present = labels
    results = []
    for filled in (0, 1):
        metrics, other = task.metrics(), target.clone()
        other[~present] = filled
        task.update(metrics, prediction.detach(), other, present, batch)
        results.append(metrics.compute())
    assert {name: float(v) for name, v in results[0].items()} == {name: float(v) for name, v in results[1].items()}


def test_every_parameter_of_the_head_has_a_gradient(task, seen, labels):
    task.loss(task(*seen), *labels).backward()
    assert [n for n, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("foundation", FOUNDATION)
def test_no_weight_of_a_head_exceeds_four_squares_of_the_width(resolved, foundation):
    config = resolved(f"experiment=foundation/{foundation}", "hardware=cpu")
    with torch.device("meta"):
        model = build_model(config, **SIZES)
    limit = 4 * config.d_model**2
    assert [(n, p.numel()) for n, p in model.tasks.named_parameters() if p.numel() > limit] == []
