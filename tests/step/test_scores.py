"""What stands behind the numbers of one pass: losses over all labels, samples, entities."""

import math
from itertools import pairwise

import pytest
import torch

from tests.model.batches import SIZES, random_batch
from vibench.model import build_model
from vibench.step.scores import Scores, total_loss

SIZE = 13
TASKS = ("classification", "anomaly_detection", "signal_prediction", "rul_prediction")
CUTS = {"whole": (0, 13), "uneven": (0, 1, 4, 5, 13), "one by one": tuple(range(14))}


@pytest.fixture(scope="module")
def config(tiny):
    return tiny("backbone.e_layers=1", "task.classification.weight=0.5", "task.rul_prediction.weight=3")


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    return build_model(config, **SIZES).eval()


@pytest.fixture
def batch(config):
    """Entity 0 has windows 0 and 1, entity 1 has windows 2 and 3, ... entity 6 has window 12."""
    return random_batch(config, SIZE)


@torch.no_grad()
def scored(model, batch, cut=(0, 13), scores=None):
    scores = scores or Scores(model)
    for start, stop in pairwise(cut):
        part = batch.part(start, stop)
        scores.add(model, part, model(part))
    return scores.results()


def test_samples_are_the_windows_with_a_label(model, batch):
    present = dict.fromkeys(TASKS, torch.zeros(SIZE, dtype=torch.bool)) | {
        "classification": torch.arange(SIZE) < 4,
        "anomaly_detection": torch.arange(SIZE) == 12,
        "signal_prediction": (torch.arange(3) < batch.channels[:, None]) & (torch.arange(SIZE) < 5)[:, None],
    }
    batch.present.update(present)
    found = {name: result.samples for name, result in scored(model, batch).items()}
    assert found == {"classification": 4, "anomaly_detection": 1, "signal_prediction": 5, "rul_prediction": 0}


def test_entities_are_counted_once_and_only_with_a_label(model, batch):
    for name in TASKS:
        batch.present[name][:] = False
    batch.present["classification"][:4] = True  # entities 0 and 1, two windows each
    batch.present["rul_prediction"][[1, 5, 12]] = True  # entities 0, 2 and 6
    batch.present["signal_prediction"][2, 0] = True  # one channel of entity 1
    found = {name: result.entities for name, result in scored(model, batch, CUTS["uneven"]).items()}
    assert found == {"classification": 2, "anomaly_detection": 0, "signal_prediction": 1, "rul_prediction": 3}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_the_loss_is_the_mean_over_all_labels_whatever_the_batches(model, batch, cut):
    found = scored(model, batch, cut)
    with torch.no_grad():
        predictions = model(batch)
    for name, task in model.tasks.items():
        target, present = batch.targets[name], batch.present[name]
        alone = [float(task.loss(predictions[name], target, only)) for only in singles(present)]
        labels = len(alone) * (task.horizon if name == "signal_prediction" else 1)
        assert found[name].loss == pytest.approx(sum(alone) / labels, rel=1e-4), name


def singles(present):
    """Masks with one of the present labels each."""
    for index in present.nonzero().tolist():
        only = torch.zeros_like(present)
        only[tuple(index)] = True
        yield only


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_metrics_and_counts_do_not_depend_on_the_batches(model, batch, cut):
    whole, found = scored(model, batch), scored(model, batch, cut)
    for name in TASKS:
        assert found[name].metrics == pytest.approx(whole[name].metrics, rel=1e-4, abs=1e-6)
        assert (found[name].samples, found[name].entities) == (whole[name].samples, whole[name].entities)


def test_a_mean_of_the_batches_means_would_be_another_loss(model, batch):
    """So that the tests above can fail."""
    cut, whole = CUTS["uneven"], scored(model, batch)
    parts = [scored(model, batch, edges) for edges in pairwise(cut)]
    for name in TASKS:
        means = [part[name].loss for part in parts if part[name].samples]
        assert sum(means) / len(means) != pytest.approx(whole[name].loss, rel=1e-2)


def test_where_nothing_was_counted_there_is_no_number(model, batch):
    batch.present["rul_prediction"][:] = False
    result = scored(model, batch)["rul_prediction"]
    assert (result.samples, result.entities) == (0, 0)
    assert math.isnan(result.loss)
    assert set(result.metrics) == {"mse", "mae", "r2", "mae_s", "phm08_sum", "phm08_mean"}
    assert all(math.isnan(value) for value in result.metrics.values())


@pytest.mark.parametrize("task", TASKS)
def test_a_single_labelled_window_is_enough_for_a_result(model, batch, task):
    batch.present[task][:] = False
    batch.present[task].view(SIZE, -1)[0, 0] = True  # of its first channel, where each channel has labels
    result = scored(model, batch)[task]
    assert (result.samples, result.entities) == (1, 1)
    assert math.isfinite(result.loss)


def test_before_any_batch_nothing_has_a_number(model):
    results = Scores(model).results()
    assert set(results) == set(TASKS)
    assert all(math.isnan(value) for result in results.values() for value in (result.loss, *result.metrics.values()))


def test_the_metrics_are_those_the_schemas_promise(model, batch, config):
    results = scored(model, batch)
    assert {n: set(r.metrics) for n, r in results.items()} == {n: set(t.METRICS) for n, t in config.task.items()}


def test_a_reset_forgets_everything(model, batch):
    scores = Scores(model)
    once = scored(model, batch, scores=scores)
    scores.reset()
    assert all(math.isnan(result.loss) and result.samples == 0 for result in scores.results().values())
    assert scored(model, batch, scores=scores) == once


def test_results_can_be_asked_for_in_between(model, batch):
    scores = Scores(model)
    with torch.no_grad():
        for start, stop in ((0, 5), (5, 13)):
            part = batch.part(start, stop)
            scores.add(model, part, model(part))
            between = scores.results()
    assert between == scored(model, batch, (0, 5, 13))


def test_the_same_window_seen_again_is_a_sample_but_no_new_entity(model, batch):
    scores = Scores(model)
    once = scored(model, batch, scores=scores)
    twice = scored(model, batch, scores=scores)
    for name in TASKS:
        assert twice[name].samples == 2 * once[name].samples
        assert twice[name].entities == once[name].entities


def test_the_total_loss_weighs_the_tasks_as_configured(config, model, batch):
    results = scored(model, batch)
    weights = {"classification": 0.5, "anomaly_detection": 1, "signal_prediction": 1, "rul_prediction": 3}
    expected = sum(weights[name] * results[name].loss for name in TASKS)
    assert total_loss(config.task, results) == pytest.approx(expected)
