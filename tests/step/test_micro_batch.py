"""The gradient of parts of a batch against the gradient of the whole batch, written out."""

from contextlib import nullcontext

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.model.batches import SIZES, random_batch
from vibench.model import build_model
from vibench.step.micro_batch import accumulate

SIZE = 13
CPU = torch.device("cpu")
COMBINATIONS = {
    "patchtst": ("backbone=patchtst", "backbone.e_layers=1", "embedding=patch", "backbone.dropout=0"),
    "dlinear": ("backbone=dlinear", "embedding=patch", "backbone.moving_average=3"),
    "dlinear on every sample": ("backbone=dlinear", "embedding=pointwise", "data.window=65"),
}
FACTORS = {  # none is 1, none is another's: a factor left out or mixed up would show
    "classification": 0.5,
    "anomaly_detection": 2.0,
    "signal_prediction": 3.0,
    "rul_prediction": 0.7,
}


@pytest.fixture(scope="module", params=COMBINATIONS)
def config(request, tiny):
    return tiny(*COMBINATIONS[request.param])


@pytest.fixture
def batch(config):
    """Thirteen windows; micro-batches without any label of a task, and tasks with unequal numbers of labels."""
    batch = random_batch(config, SIZE)
    batch.present["classification"][:3] = False
    batch.present["rul_prediction"][:] = False
    batch.present["rul_prediction"][[4, 11]] = True
    return batch


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return build_model(config, **SIZES).train()


def gradient(model):
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return flat


def in_parts(model, batch, micro_batch):
    shares = accumulated(model, batch, micro_batch)
    return gradient(model), {name: share.loss for name, share in shares.items()}


def accumulated(model, batch, micro_batch, factors=FACTORS, scale=lambda loss: loss):
    return accumulate(
        model,
        batch,
        factors=factors,
        micro_batch=micro_batch,
        device=CPU,
        autocast=nullcontext,
        scale=scale,
        measure=True,
    )


def whole(model, batch):
    """Weighted sum of the tasks' mean losses, at once."""
    predictions = model(batch)
    means = {
        name: task.loss(predictions[name], batch.targets[name], batch.present[name]) / task.count(batch.present[name])
        for name, task in model.tasks.items()
    }
    sum(factor * means[name] for name, factor in FACTORS.items()).backward()
    return gradient(model), means


def mean_of_means(model, batch, micro_batch):
    """What is done elsewhere: each part's own mean, then their mean."""
    starts = range(0, len(batch), micro_batch)
    for start in starts:
        part = batch.part(start, start + micro_batch)
        predictions = model(part)
        total = torch.zeros(())
        for name, task in model.tasks.items():
            count = task.count(part.present[name]).clamp(min=1)
            loss = task.loss(predictions[name], part.targets[name], part.present[name]) / count
            total = total + FACTORS[name] * loss / len(starts)
        total.backward()
    return gradient(model)


def difference(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 7, 13, 50])
def test_the_gradient_is_that_of_the_whole_batch(model, batch, micro_batch):
    expected, _ = whole(model, batch)
    found, _ = in_parts(model, batch, micro_batch)
    assert difference(found, expected) < 1e-6


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_a_mean_of_means_would_be_another_gradient(model, batch, micro_batch):
    expected, _ = whole(model, batch)
    assert difference(mean_of_means(model, batch, micro_batch), expected) > 0.01


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_the_losses_are_the_means_over_all_labels_of_the_batch(model, batch, micro_batch):
    _, expected = whole(model, batch)
    _, found = in_parts(model, batch, micro_batch)
    assert found.keys() == expected.keys()
    for name, loss in found.items():
        torch.testing.assert_close(loss, expected[name].detach(), rtol=1e-5, atol=1e-6)
        assert not loss.requires_grad


def test_the_gradient_is_added_to_what_is_there(model, batch):
    once, _ = in_parts(model, batch, 5)
    for _ in range(2):
        accumulated(model, batch, 5)
    torch.testing.assert_close(gradient(model), 2 * once, rtol=1e-5, atol=1e-6)


def test_a_batch_without_any_label_has_a_gradient_of_zero(model, batch):
    for mask in batch.present.values():
        mask[:] = False
    found, losses = in_parts(model, batch, 5)
    assert not found.any()  # NaN is true
    assert [float(loss) for loss in losses.values()] == [0.0] * 4


def test_a_task_without_a_label_leaves_the_others_as_they_are(model, batch):
    batch.present["classification"][:] = False
    found, losses = in_parts(model, batch, 5)
    names = [name for name in model.tasks if name != "classification"]
    predictions = model(batch)
    for name in names:
        task, present = model.tasks[name], batch.present[name]
        loss = task.loss(predictions[name], batch.targets[name], present) / task.count(present)
        (FACTORS[name] * loss).backward(retain_graph=True)
    for parameter in model.tasks["classification"].parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert difference(found, gradient(model)) < 1e-6
    assert losses["classification"] == 0


def test_a_task_that_is_not_named_is_left_out(model, batch):
    shares = accumulated(model, batch, 5, factors={"rul_prediction": 0.7})
    assert set(shares) == {"rul_prediction"}
    assert {n.split(".")[1] for n, p in model.tasks.named_parameters(prefix="tasks") if p.grad is not None} == {
        "rul_prediction"
    }
    assert all(p.grad.any() for p in model.embedding.parameters())


def test_samples_are_the_windows_with_a_label(model, batch):
    shares = accumulated(model, batch, 5)
    assert shares["rul_prediction"].samples == 2
    assert shares["classification"].samples == int(batch.present["classification"].sum())
    assert shares["signal_prediction"].samples == int(batch.present["signal_prediction"].any(1).sum())


@pytest.mark.parametrize("micro_batch", [4, 13])
def test_the_norm_of_a_task_is_that_of_the_gradient_it_sends_into_the_tokens(model, batch, micro_batch):
    tokens, real = model.encode(batch)
    for name, share in accumulated(model, batch, micro_batch).items():
        task, present = model.tasks[name], batch.present[name]
        loss = FACTORS[name] * task.loss(task(tokens, real), batch.targets[name], present) / task.count(present)
        (expected,) = torch.autograd.grad(loss, tokens, retain_graph=True)
        assert float(share.squared_norm) == pytest.approx(float(expected.square().sum()), rel=1e-4)


def test_the_loss_goes_backward_scaled(model, batch):
    plain, _ = in_parts(model, batch, 5)
    shares = accumulated(model, batch, 5, scale=lambda loss: 1024 * loss)
    assert difference(gradient(model), 1024 * plain) < 1e-6
    assert float(shares["rul_prediction"].loss) < 100  # not scaled


def test_one_head_is_sent_backward_before_the_next_is_predicted(model, batch):
    order = []
    for name, task in model.tasks.items():
        task.register_forward_hook(lambda *_, name=name: order.append(f"forward {name}"))
        next(task.parameters()).register_post_accumulate_grad_hook(lambda _, name=name: order.append(f"back {name}"))
    accumulated(model, batch, 50)
    assert order == [f"{way} {name}" for name in model.tasks for way in ("forward", "back")]


def test_the_backbone_is_run_once_forward_and_once_backward_for_each_part(model, batch):
    order = []
    model.backbone.register_forward_hook(lambda *_: order.append("forward"))
    model.backbone.register_full_backward_hook(lambda *_: order.append("back"))
    accumulated(model, batch, 5)
    assert order == ["forward", "back"] * 3


class Storages(TorchDispatchMode):
    """Every storage that an operator makes or touches, held weakly; nothing is kept alive by it."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, out)):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.seen.setdefault(storage._cdata, StorageWeakRef(storage))
        return out

    def alive(self):
        self.seen = {key: ref for key, ref in self.seen.items() if not ref.expired()}
        return set(self.seen)


def storages_of(tensors):
    return {tensor.untyped_storage()._cdata for tensor in tensors if tensor is not None}


@pytest.mark.parametrize("micro_batch", [1, 5])
def test_nothing_of_a_part_is_alive_when_the_next_is_encoded_but_its_gradients(model, batch, micro_batch):
    whole = storages_of(tree_leaves(batch.values()))
    kept = storages_of([*model.parameters(), *model.buffers()]) | whole
    left, sizes = [], []
    storages = Storages()

    def begin(module, inputs):
        gradients = storages_of(parameter.grad for parameter in model.parameters())
        sizes.append(len(inputs[0]))
        left.append(storages.alive() - kept - gradients - storages_of(inputs))

    model.embedding.register_forward_pre_hook(begin)
    with storages:
        accumulated(model, batch, micro_batch)
    first, *rest = left
    assert sizes == [micro_batch] * (SIZE // micro_batch) + [SIZE % micro_batch] * bool(SIZE % micro_batch)
    assert rest == [first] * (len(sizes) - 1)  # the counts and sums that there were from the beginning


def test_what_is_alive_is_seen_while_a_part_is_at_work(model, batch):
    """Else the test above would prove nothing."""
    storages, alive = Storages(), []
    model.embedding.register_forward_pre_hook(lambda *_: alive.append(len(storages.alive())))
    model.backbone.register_forward_hook(lambda *_: alive.append(len(storages.alive())))
    with storages:
        accumulated(model, batch, 50)
    before, after = alive
    assert after > before
