"""The whole model: every shipped backbone on every shipped embedding, with four heads.

Shapes: B windows, C channels, H samples to forecast.
"""

import pytest
import torch

from tests.conftest import CONF
from tests.model.batches import LITTLE, N_CLASSES, SIZES, random_batch
from vibench.data.build import build
from vibench.model import build_model, targets

BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
EMBEDDINGS = sorted(path.stem for path in (CONF / "embedding").glob("*.yaml"))
TASKS = ("classification", "anomaly_detection", "signal_prediction", "rul_prediction")
SMALL = {
    "patch": ("embedding.patch_len=16", "embedding.stride=8"),
    "envelope": ("embedding.bands=31",),
    "tcn": ("embedding.stride=1", "embedding.channels=[8]"),
}  # enough tokens for all in a short window
SIZE = 6


PAIRS = [  # those made for EEG with each other, and with one of the others; any with any: tests/backbones
    (b, e) for b in BACKBONES for e in EMBEDDINGS if (b == "bimamba_gnn") == (e == "tcn") or "patch" in (b[:5], e)
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def config(request, tiny):
    backbone, embedding = request.param
    small = (*SMALL.get(embedding, ()), *LITTLE.get(backbone, ()))
    return tiny(f"backbone={backbone}", f"embedding={embedding}", "data.window=257", *small)  # odd


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return build_model(config, **SIZES)


@pytest.fixture
def batch(config):
    return random_batch(config, SIZE, missing=0)


def losses(model, batch):
    predictions = model(batch)
    return {n: t.loss(predictions[n], batch.targets[n], batch.present[n]) for n, t in model.tasks.items()}


def test_each_task_has_a_prediction_of_its_shape(model, batch, config):
    horizon = config.task["signal_prediction"].horizon
    assert {name: tuple(p.shape) for name, p in model(batch).items()} == {
        "classification": (SIZE, N_CLASSES),
        "anomaly_detection": (SIZE,),
        "signal_prediction": (SIZE, 3, horizon),
        "rul_prediction": (SIZE,),
    }


def test_each_task_has_a_loss_for_its_prediction(model, batch):
    assert all(loss.isfinite() and loss > 0 for loss in losses(model, batch).values())


def test_no_parameter_is_without_a_gradient(model, batch):
    sum(losses(model, batch).values()).backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    broken = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert (unused, broken) == ([], [])


@pytest.mark.parametrize("task", TASKS)
def test_the_gradient_of_each_task_alone_reaches_the_embedding_and_no_other_head(model, batch, task):
    losses(model, batch)[task].backward()
    assert all(p.grad.any() for p in model.embedding.parameters())
    reached = {
        name.split(".")[1] for name, p in model.named_parameters() if name.startswith("tasks") and p.grad is not None
    }
    assert reached == {task}


def test_one_channel_of_one_window_is_enough(config):
    model = build_model(config, n_channels=1, n_classes=2).eval()
    batch = random_batch(config, 1)
    batch.signal = batch.signal[:, :1]
    shapes = {name: tuple(p.shape) for name, p in model(batch).items()}
    assert shapes["classification"] == (1, 2)
    assert shapes["signal_prediction"][:2] == (1, 1)


def test_the_same_seed_makes_the_same_model(config):
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model(config, **SIZES).state_dict())
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_predictions_of_a_window_do_not_depend_on_its_batch(model, batch):
    model.eval()
    whole = model(batch)
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        for name, prediction in model(batch.part(start, stop)).items():
            torch.testing.assert_close(prediction, whole[name][start:stop], rtol=1e-4, atol=1e-5, msg=name)


def test_a_model_can_be_built_without_its_weights(config):
    with torch.device("meta"):
        model = build_model(config, **SIZES)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_a_task_that_is_left_out_has_no_head_and_no_target(tiny):
    config = tiny("~task.rul_prediction", "~task.classification")
    model = build_model(config, **SIZES)
    left = {"anomaly_detection", "signal_prediction"}
    assert set(model.tasks) == set(targets(config)) == set(model(random_batch(config))) == left


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_a_batch_of_the_data_goes_through_the_model(tiny, embedding):
    config = tiny(f"embedding={embedding}")
    data = build(config.data, targets(config))
    model = build_model(config, n_channels=data.n_channels, n_classes=len(data.classes))
    found = losses(model, next(iter(data.loader("train", 8))))
    assert set(found) == set(TASKS)
    assert all(loss.isfinite() for loss in found.values())
