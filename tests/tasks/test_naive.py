"""The naive lines: what is predicted without a model, from the training labels or the window alone.

Shapes: B windows, C channels, L samples of a window, N tokens, D model width, K classes.
"""

from dataclasses import fields, replace

import pytest
import torch
import yaml
from hydra.utils import get_class
from torch import nn

from tests.conftest import CONF
from tests.data.conftest import raw, walk
from tests.model.batches import N_CHANNELS, N_CLASSES, SIZES, random_batch
from vibench.config.task import TaskConfig
from vibench.data.build import build
from vibench.data.writing import write_store
from vibench.memory.plan import fit as plan_memory
from vibench.model import Model, build_model, targets
from vibench.tasks.task import Sizes
from vibench.training.evaluate import evaluate

# multitask.yaml and its like hold no task of their own name
TASKS = [p.stem for p in sorted((CONF / "task").glob("*.yaml")) if p.stem in yaml.safe_load(p.read_text())]
CPU = torch.device("cpu")
L, HORIZON, CAP_S = 32, 8, 20.0


def made(config, name, sizes):
    """A task of a config, with a head of other sizes."""
    own = {f.name for f in fields(config.task[name])} - {f.name for f in fields(TaskConfig)}
    arguments = {key: getattr(config.task[name], key) for key in own}
    return get_class(config.task[name]._target_)(**arguments, sizes=sizes)


def known_of(batch, name):
    """Labels as the training would hold them; none where each channel has a target, the mean of those of samples."""
    target, present = batch.targets[name], batch.present[name]
    if name == "seizure_detection":
        return target.mean(1)
    return target[present] if target.ndim == 1 else torch.empty(0)


# every task


@pytest.fixture(scope="module", params=TASKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def alone(resolved, name):
    """The experiment of one task, and its model."""
    config = resolved("hardware=cpu", f"task={name}", "data.window=256", "training.monitor=loss")
    return config, build_model(config, **SIZES).eval()


@pytest.mark.parametrize("size", [1, 7])
def test_the_naive_line_has_the_shape_of_the_prediction_and_can_be_scored(alone, name, size):
    config, model = alone
    ((view, _),) = model.views(random_batch(config, size, missing=0), [name])
    task, metrics = model.tasks[name], model.tasks[name].metrics()
    naive = task.naive(view, known_of(random_batch(config, 20), name))
    assert naive.shape == task(*model.encode(view)).shape
    assert naive.isfinite().all()
    assert naive.dtype is torch.float32
    task.update(metrics, naive, view.targets[name], view.present[name], view)
    assert all(metric.update_called for metric in metrics.values())


def test_the_naive_line_does_not_look_at_the_labels_of_the_window(alone, name):
    config, model = alone
    task, known = model.tasks[name], known_of(random_batch(config, 20), name)
    view = task.view(random_batch(config, 7, missing=0), name)
    other = replace(view, targets={name: 5 - view.targets[name]}, present={name: ~view.present[name]})
    assert torch.equal(task.naive(view, known), task.naive(other, known))


# one by one


def scored(task, batch, known, name):
    """Metrics of the naive line on a batch."""
    metrics = task.metrics()
    task.update(metrics, task.naive(batch, known), batch.targets[name], batch.present[name], batch)
    return {metric: float(value) for metric, value in metrics.compute().items()}


@pytest.fixture(scope="module")
def config(resolved):
    return resolved(
        "hardware=cpu",
        "task=[multitask,masked_reconstruction]",
        f"data.window={L}",
        "embedding=pointwise",
        "task.signal_prediction.horizon=8",
        "task.signal_prediction.patch_len=4",
        "task.masked_reconstruction.mask_len=4",
        f"task.rul_prediction.max_rul_s={CAP_S}",
    )


@pytest.fixture
def task(config):
    """A task by its name."""
    channels = {"n_channels": N_CHANNELS, "channel_independent": True, "n_classes": N_CLASSES}
    sizes = Sizes(d_model=8, n_tokens=5, window=L, **channels)
    return lambda name: made(config, name, sizes)


@pytest.fixture
def batch(config):
    """Labels of all tasks, none missing."""
    return random_batch(config, 40, missing=0)


@pytest.mark.parametrize(("known", "majority"), [((0, 0, 1, 3), 0), ((2, 1, 2, 0), 2), ((3,), 3)])
def test_the_majority_class_of_the_training_is_called_and_accuracy_is_its_share(task, batch, known, majority):
    found = scored(task("classification"), batch, torch.tensor(known), "classification")
    assert found["accuracy"] == pytest.approx(float((batch.targets["classification"] == majority).float().mean()))
    assert found["recall"] == pytest.approx(1 / N_CLASSES)  # all of one class, none of the others


@pytest.mark.parametrize("name", ["classification", "anomaly_detection"])
def test_without_a_model_no_window_ranks_before_another(task, batch, name):
    assert scored(task(name), batch, batch.targets[name][:9], name)["auroc"] == 0.5


def test_aupr_of_anomalies_is_the_share_of_faulty_windows(task, batch):
    truth = batch.targets["anomaly_detection"]
    found = scored(task("anomaly_detection"), batch, torch.tensor([1.0, 0.0, 0.0]), "anomaly_detection")
    assert found["aupr"] == pytest.approx(float(truth.mean()))


def test_aupr_of_classes_is_the_mean_of_their_shares(task, batch):
    found = scored(task("classification"), batch, torch.tensor([1, 1, 2]), "classification")
    assert found["aupr"] == pytest.approx(1 / N_CLASSES)


@pytest.mark.parametrize(("faulty", "called"), [(3, True), (1, False), (4, True), (0, False)])
def test_all_windows_are_called_what_most_of_the_training_was(task, batch, faulty, called):
    known = (torch.arange(4) < faulty).float()
    found = scored(task("anomaly_detection"), batch, known, "anomaly_detection")
    share = float(batch.targets["anomaly_detection"].mean())
    assert found["accuracy"] == pytest.approx(share if called else 1 - share)
    assert found["recall"] == float(called)


@pytest.mark.parametrize(("faulty", "threshold"), [(False, 0.001), (True, 0.99)])
def test_a_training_of_one_kind_alone_calls_all_windows_that_whatever_the_threshold(task, batch, faulty, threshold):
    detection = task("anomaly_detection")
    detection.threshold = threshold
    known = torch.full((4,), float(faulty))
    assert detection.naive(batch, known).isfinite().all()  # a run with another number in its results is refused
    assert scored(detection, batch, known, "anomaly_detection")["recall"] == float(faulty)


def test_the_naive_life_is_the_mean_of_the_training(task, batch):
    truth = batch.targets["rul_prediction"]
    naive = task("rul_prediction").naive(batch, torch.tensor([0.1, 0.2, 0.6]))
    assert naive.tolist() == pytest.approx([0.3] * len(batch))
    own = scored(task("rul_prediction"), batch, truth, "rul_prediction")
    assert own["r2"] == pytest.approx(0, abs=1e-6)
    assert own["mse"] == pytest.approx(float(truth.var(correction=0)))


def test_the_naive_forecast_is_the_last_sample_again_and_again(task, batch):
    naive = task("signal_prediction").naive(batch, torch.empty(0))
    assert (naive == batch.signal[..., L - 1 : L]).all()


def test_the_naive_forecast_of_a_signal_that_does_not_move_is_right(task, batch):
    levels = torch.arange(1.0, 1 + 40 * N_CHANNELS).view(40, N_CHANNELS, 1)
    real = batch.present["signal_prediction"][..., None]
    signal, future = (levels.expand(-1, -1, n) * real for n in (L, HORIZON))
    still = replace(batch, signal=signal, targets={"signal_prediction": future})
    found = scored(task("signal_prediction"), still, torch.empty(0), "signal_prediction")
    assert (found["mse"], found["mae"], found["raw_mse"], found["r2"]) == (0, 0, 0, 1)


# in a test


def recordings():
    """The training is mostly inner and long-lived, the test mostly healthy and short-lived."""
    for name, fault, n in (("a", "inner", 6), ("b", "healthy", 2), ("c", "inner", 1), ("d", "healthy", 4)):
        signal = walk(name, n * L + HORIZON, 2)
        yield raw(name, signal=signal, anomaly=fault == "inner", columns={"fault": fault}, rate_hz=32.0)
    for name, rul_s in (("e", 15.0), ("f", 9.0)):
        yield raw(name, signal=walk(name, 3 * L + HORIZON, 3), system="other", rul_s=rul_s, rate_hz=32.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("naive") / "made.h5"
    write_store(path, recordings())
    return path


@pytest.fixture(scope="module")
def whole(resolved, store):
    """All five tasks on that store."""
    return resolved(
        "hardware=cpu",
        "data=cwru",
        f"data.store={store}",
        f"data.window={L}",
        f"data.stride={L}",
        "data.split.train=[a,b,e]",
        "data.split.test=[c,d,f]",
        "task=[multitask,masked_reconstruction]",
        "embedding=pointwise",
        "backbone=dlinear",
        "d_model=8",
        "task.signal_prediction.horizon=8",
        "task.signal_prediction.patch_len=4",
        "task.masked_reconstruction.mask_len=4",
        f"task.rul_prediction.max_rul_s={CAP_S}",
        "training.monitor=null",
        "training.micro_batch=3",
    )


@pytest.fixture(scope="module")
def data(whole):
    return build(whole.data, targets(whole))


def evaluated(config, model, data):
    plan = plan_memory(config, n_channels=data.n_channels, n_classes=len(data.classes))
    return evaluate(model, data, "test", plan, batch_size=5, device=CPU)


@pytest.fixture(scope="module")
def results(whole, data):
    torch.manual_seed(0)
    model = build_model(whole, n_channels=data.n_channels, n_classes=len(data.classes))
    return evaluated(whole, model, data)


def test_a_test_has_a_naive_line_for_every_metric_of_every_schema(whole, results):
    assert {n: set(r.naive) for n, r in results.items()} == {n: set(t.METRICS) for n, t in whole.task.items()}


def test_the_majority_is_that_of_the_training_and_not_of_the_test(results):
    # one window in five of the test is inner, six in eight of the training
    assert results["classification"].naive["accuracy"] == pytest.approx(1 / 5)
    assert results["anomaly_detection"].naive["accuracy"] == pytest.approx(1 / 5)
    assert results["anomaly_detection"].naive["recall"] == 1
    assert results["anomaly_detection"].naive["aupr"] == pytest.approx(1 / 5)


def test_the_mean_life_is_that_of_the_training_and_not_of_the_test(results):
    train, test = [14.0, 13.0, 12.0], [8.0, 7.0, 6.0]  # seconds at the end of windows of one second
    mean = sum(train) / 3
    assert results["rul_prediction"].naive["mae_s"] == pytest.approx(sum(abs(mean - t) for t in test) / 3, rel=1e-5)


def test_the_naive_forecast_and_reconstruction_are_of_the_windows_of_the_test(whole, data, results):
    torch.manual_seed(0)
    model = build_model(whole, n_channels=data.n_channels, n_classes=len(data.classes)).eval()
    for name in ("signal_prediction", "masked_reconstruction"):
        errors = []
        for index in range(len(data.splits["test"])):
            ((view, _),) = model.views(data.splits["test"][index], [name])
            naive = model.tasks[name].naive(view, torch.empty(0))
            errors.append((view.targets[name] - naive)[view.present[name]].flatten().double())
        assert results[name].naive["mse"] == pytest.approx(float(torch.cat(errors).square().mean()), rel=1e-6)


class Samples(nn.Module):
    """Every sample of every channel a token of width 1: (B, C, L) -> (B * C, L, 1)."""

    def forward(self, signal, channels, rate_hz):
        return signal.flatten(0, 1)[..., None]


@torch.no_grad()
def naive_model(config, data):
    """A model whose heads predict the naive lines, by weights set by hand."""
    channels = {"n_channels": data.n_channels, "channel_independent": True, "n_classes": len(data.classes)}
    sizes = Sizes(d_model=1, n_tokens=L, window=L, **channels)
    tasks = {name: made(config, name, sizes) for name in config.task}
    for name, task in tasks.items():
        known = data.splits["train"].labels(name)
        for parameter in task.parameters():
            parameter.zero_()
        if name == "classification":
            task.head.bias.copy_(torch.bincount(known) / len(known))
        elif name == "anomaly_detection":
            task.head.bias.fill_(known.mean().logit())
        elif name == "rul_prediction":
            task.head[-1].bias.fill_(known.mean())
        elif name == "signal_prediction":
            task.head.mix.weight[:, -1] = 1
            task.head.read.weight.fill_(1)
        else:  # the mean of what is seen: hidden samples are zero
            task.head.mix.weight.fill_(1 / (L - task.hidden * task.mask_len))
            task.head.read.weight.fill_(1)
    return Model(Samples(), nn.Identity(), tasks)


def test_a_model_that_predicts_the_naive_lines_has_a_margin_of_zero(whole, data):
    for name, result in evaluated(whole, naive_model(whole, data), data).items():
        assert result.metrics == pytest.approx(result.naive, abs=1e-5), name


def test_a_model_that_has_learned_nothing_is_not_the_naive_line(results):
    """So that the test above can fail."""
    for name, result in results.items():
        assert result.metrics != pytest.approx(result.naive, rel=1e-2), name
