"""Seizure detection: its loss against a slow loop, its weight from what is drawn, thresholds from a validation alone.

Shapes: B windows, L samples of a window, N tokens.
"""

import math
import multiprocessing
import pickle
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.random import default_rng
from torch import nn
from torch.nn import functional as F

from tests.data.conftest import patient
from vibench.config.data import HDF5, Normalisation
from vibench.config.task import SeizureDetectionConfig, TaskConfig
from vibench.data.batch import blank_batch
from vibench.data.build import build
from vibench.data.drawing import kinds_of
from vibench.data.eeg.preparation import preparation_of
from vibench.data.writing import write_store
from vibench.memory.plan import fit as plan_memory
from vibench.model import Model, targets
from vibench.step.scores import TaskResult, total_loss
from vibench.tasks.seizure_detection import RARE, SeizureDetection
from vibench.tasks.szcore import choose
from vibench.tasks.task import Sizes
from vibench.training.checkpoints import load_weights, read_checkpoint, write_checkpoint
from vibench.training.evaluate import evaluate
from vibench.training.state import state_of
from vibench.training.training import Training

pytest.importorskip("timescoring")

CPU = torch.device("cpu")
TASK = "seizure_detection"
RATE_HZ, WINDOW, STRIDE, STRETCH = 8.0, 240, 80, 4  # 30 s every 10 s, half a second in a token
NAMED = {"train": ["train"], "val": ["val"], "test": ["test"]}


@pytest.fixture(scope="module")
def experiment(resolved, tmp_path_factory):
    """Seizure detection on records at 8 Hz, which are taken as they are."""
    some = tmp_path_factory.mktemp("store") / "some.h5"
    some.write_bytes(HDF5)
    config = resolved("data=eeg", f"data.store={some}", f"task={TASK}", "backbone=dlinear", "training.warmup_steps=0")
    data = replace(
        config.data, window=WINDOW, stride=STRIDE, normalisation=Normalisation.none, clip=None
    )  # fmt: skip
    return replace(config, data=data)


@pytest.fixture
def task_of(experiment):
    """The task with other values, for so many features of a token."""

    def call(window=WINDOW, d_model=1, **values):
        sizes = Sizes(
            d_model=d_model,
            n_tokens=window // STRETCH,
            window=window,
            n_channels=2,
            channel_independent=False,
            n_classes=0,
        )
        config = replace(experiment.task[TASK], **values)
        own = {f.name for f in fields(SeizureDetectionConfig)} - {f.name for f in fields(TaskConfig)}
        torch.manual_seed(0)
        return SeizureDetection(sizes=sizes, **{name: getattr(config, name) for name in own})

    return call


# the loss


def slow_loss(logits, target, present, *, alpha, gamma, weight):
    """In double precision, a sample at a time, from the definition of Lin et al. 2017."""
    total = 0.0
    for x, y, there in zip(*(t.flatten().tolist() for t in (logits, target, present)), strict=True):
        if there:
            p = 1 / (1 + math.exp(-x))
            right, share = (p, alpha * weight) if y else (1 - p, 1 - alpha)
            total += -share * (1 - right) ** gamma * math.log(right)
    return total


def some(shape=(3, 16), seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=random)
    return logits, (torch.rand(shape, generator=random) < 0.4).float(), torch.rand(shape, generator=random) < 0.8


CASES = [(0.5, 2.0, 1.0), (0.25, 2.0, 3.7), (0.9, 0.0, 1.0), (0.5, 0.5, 2.0), (0.1, 5.0, 10.0)]


@pytest.mark.parametrize(("alpha", "gamma", "weight"), CASES)
def test_the_loss_is_that_of_a_loop_over_the_samples(task_of, alpha, gamma, weight):
    task = task_of(alpha=alpha, gamma=gamma)
    task.positive_weight.fill_(weight)
    expected = slow_loss(*some(), alpha=alpha, gamma=gamma, weight=weight)
    assert float(task.loss(*some())) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma", "weight"), CASES)
def test_the_gradient_is_that_of_the_loop(task_of, alpha, gamma, weight):
    task = task_of(alpha=alpha, gamma=gamma)
    task.positive_weight.fill_(weight)
    logits, target, present = some()
    logits.requires_grad_()
    task.loss(logits, target, present).backward()
    step = 1e-4
    for place in [(0, 0), (0, 5), (1, 3), (2, 15)]:
        sides = []
        for sign in (1, -1):
            moved = logits.detach().double().clone()
            moved[place] += sign * step
            sides.append(slow_loss(moved, target, present, alpha=alpha, gamma=gamma, weight=weight))
        assert float(logits.grad[place]) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_without_focus_it_is_half_of_cross_entropy(task_of, weight):
    task = task_of(alpha=0.5, gamma=0)
    task.positive_weight.fill_(weight)
    logits, target, present = some()
    entropy = F.binary_cross_entropy_with_logits(
        logits, target, weight=present.float(), pos_weight=torch.tensor(weight), reduction="sum"
    )
    torch.testing.assert_close(task.loss(logits, target, present), entropy / 2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("logit", [150.0, 1e4])
def test_what_is_told_with_certainty_has_a_finite_loss_and_gradient(task_of, gamma, logit):
    """150 is beyond the probabilities of single precision, on either side."""
    logits = torch.tensor([[logit, -logit, logit, -logit]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    loss = task_of(gamma=gamma).loss(logits, target, torch.ones(1, 4, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(logit, rel=1e-5)  # half of each of the two that are wrong
    assert logits.grad[0].tolist() == pytest.approx([0, 0, 0.5, -0.5])


def test_a_sample_without_a_label_counts_for_nothing_whatever_is_said_of_it(task_of):
    logits, target, present = some()
    task, moved = task_of(), logits + 100 * ~present
    assert torch.equal(task.loss(logits, target, present), task.loss(moved, target, present))
    assert int(task.count(present)) == int(present.sum())


def test_every_sample_reads_the_tokens_around_it(task_of):
    """Between the middles of two tokens it is a line."""
    task = task_of(hidden=1)
    ramp = torch.arange(WINDOW // STRETCH, dtype=torch.float32).view(1, 1, -1, 1)
    for parameter in task.parameters():
        nn.init.ones_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    logits = task(ramp + 20, torch.ones(1, 1, dtype=torch.bool))[0]  # where GELU is a line
    middle = (torch.arange(WINDOW) + 0.5) / STRETCH - 0.5 + 20
    torch.testing.assert_close(logits[STRETCH:-STRETCH], middle[STRETCH:-STRETCH], rtol=1e-5, atol=1e-4)


def test_sequences_of_channels_that_do_not_exist_say_nothing(task_of):
    task = task_of(d_model=3)
    tokens, real = torch.randn(2, 4, WINDOW // STRETCH, 3), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    before = task(tokens, real)
    tokens[0, 2:] = 1e3
    assert torch.equal(task(tokens, real), before)
    torch.testing.assert_close(before[0], task(tokens[:1, :2], real[:1, :2])[0])


# what the loss takes from the training


class Loud(nn.Module):
    """Says how loud each half second is: an embedding of one feature."""

    channel_independent = False

    def forward(self, signal, channels, rate_hz):
        return signal.abs().mean(1).unflatten(-1, (-1, STRETCH)).mean(-1)[..., None]


def spiked(name, samples, seizures, bursts=(), quiet=0.1):
    """A record that is as loud as told at (first sample, last, loudness), of which some are seizures."""
    signal = np.full((samples, 2), quiet)
    for start, stop, loudness in (*seizures, *bursts):
        signal[start:stop] = loudness
    signal *= default_rng(zlib.crc32(name.encode())).uniform(0.98, 1.02, signal.shape)  # no two records are copies
    signal[1::2] *= -1
    return patient(name, samples, *((start, stop) for start, stop, _ in seizures), signal=signal)


VAL = spiked("val", 9600, [(1600, 2400, 3.0), (6000, 6600, 3.0)], [(4000, 4160, 2.0), (8800, 8960, 2.0)])
TRAIN = spiked("train", 2400, [(600, 1200, 3.0)])
TEST = spiked("test", 9600, [(1600, 2400, 3.0), (6000, 6600, 1.0)], [(4000, 4160, 4.0)])


@pytest.fixture
def data_of(experiment, tmp_path):
    """Audited splits of some records."""

    def call(*recordings, **values):
        split = replace(experiment.data.split, **values.pop("split", NAMED))
        config = replace(experiment.data, store=str(tmp_path / "eeg.h5"), split=split, **values)
        write_store(tmp_path / "eeg.h5", recordings, preparation_of(config.preprocessing))
        return build(config, targets(replace(experiment, data=config)))

    return call


@pytest.mark.parametrize(("background", "ictal"), [(2.5, 0.3), (0.0, 0.0), (None, None), (1.0, 3.0)])
def test_the_weight_of_a_seizure_follows_from_the_windows_of_an_epoch(data_of, task_of, background, ictal):
    train = spiked("train", 9600, [(600, 1200, 3.0), (5000, 5400, 3.0)])
    data = data_of(train, VAL, TEST, background_per_partial=background, ictal_per_partial=ictal)
    split = data.splits["train"]
    has = kinds_of(split.recordings, split.places, WINDOW) > 0
    shares = {has[data.draw.order(0, epoch)].mean() for epoch in range(3)}
    assert len(shares) == 1  # in every epoch the same
    (share,) = shares
    share = min(share, 1 - RARE)
    task = task_of()
    task.meet(data)
    assert float(task.positive_weight) == pytest.approx(math.sqrt((1 - share) / share), rel=1e-5)


def test_a_training_without_a_seizure_does_not_ask_for_the_infinite(data_of, task_of):
    data = data_of(spiked("train", 2400, []), VAL, TEST, background_per_partial=None, ictal_per_partial=None)
    task = task_of()
    task.meet(data)
    assert float(task.positive_weight) == pytest.approx(math.sqrt((1 - RARE) / RARE), rel=1e-4)


# thresholds


@pytest.fixture
def model_of(task_of):
    """A model that is the surer of a seizure the louder it is: probability 0.27 at 1, 0.5 at 2, 0.73 at 3."""

    def call(**values):
        task = task_of(hidden=1, **values)
        with torch.no_grad():
            task.reduce.weight.fill_(1)
            task.reduce.bias.fill_(5)  # where GELU is a line
            task.read.weight.fill_(1)
            task.read.bias.fill_(-7)
        return Model(Loud(), nn.Identity(), {TASK: task})

    return call


@pytest.fixture(scope="module")
def plan(experiment):
    return plan_memory(experiment, n_channels=2, n_classes=0)


@pytest.fixture
def training_of(experiment, plan):
    """A training of a model that is only to be validated."""

    def call(model, micro_batch=32):
        return Training(
            model, experiment.task, experiment.training, replace(plan, micro_batch=micro_batch), device=CPU,
            total_steps=1, per_epoch=1, log_every=1, write=lambda values: None, windows=lambda epoch, number: [],
            note=lambda event: None, lr_scale=1.0, nans=0,
        )  # fmt: skip

    return call


def validated(training, data, batch=32):
    return training.validate(data.loader("val", batch))[TASK]


def scored(model, data, plan):
    return evaluate(model, data, "test", plan, batch_size=32, device=CPU)[TASK]


def test_before_a_validation_the_threshold_is_the_one_that_was_asked_for(model_of):
    for threshold in (0.86, 0.123, 0.99):
        assert model_of(threshold=threshold).tasks[TASK].threshold == threshold


def test_a_validation_chooses_the_threshold_that_finds_most_with_few_false_alarms(model_of, training_of, data_of):
    """Seizures have 0.73, bursts that are none 0.5: between them."""
    model, data = model_of(), data_of(TRAIN, VAL, TEST)
    result = validated(training_of(model), data)
    assert 0.5 < model.tasks[TASK].threshold < 0.73
    assert {name: result.metrics[name] for name in ("event_sensitivity", "fa_per_24h", "event_f1")} == {
        "event_sensitivity": 1,
        "fa_per_24h": 0,
        "event_f1": 1,
    }
    assert result.metrics["sample_f1"] > 0.95
    assert result.metrics["taes_f1"] > 0.95


def test_the_chosen_threshold_is_the_choice_of_the_counts_of_the_validation(model_of, training_of, data_of):
    model, data = model_of(), data_of(TRAIN, VAL, TEST)
    training = training_of(model)
    validated(training, data)
    task = model.tasks[TASK]
    records = training.scores.metrics[TASK]["auroc"].records
    for number, budget in enumerate(task.budgets):
        expected = task.grid[choose(records.counts, max_fa_per_24h=budget)]
        assert float(task.chosen[number]) == expected


def test_a_test_never_changes_a_threshold_and_is_scored_at_that_of_the_validation(model_of, training_of, data_of, plan):
    model, data = model_of(), data_of(TRAIN, VAL, TEST)
    validated(training_of(model), data)
    before = model.tasks[TASK].chosen.clone()
    result = scored(model, data, plan)
    assert torch.equal(model.tasks[TASK].chosen, before)
    assert result.metrics["event_sensitivity"] == 0.5  # the quiet one is below it
    assert result.metrics["fa_per_24h"] == pytest.approx(24 * 3600 / (9600 / RATE_HZ))  # the loud burst above
    assert result.metrics["sensitivity_1fa"] == 0.5  # at the validation's threshold; its own would find none


def test_a_test_of_other_records_has_the_same_threshold(model_of, training_of, data_of, plan):
    found = []
    for test in (TEST, spiked("test", 4800, [(1600, 2400, 2.2)])):
        model, data = model_of(), data_of(TRAIN, VAL, test)
        validated(training_of(model), data)
        scored(model, data, plan)
        found.append(model.tasks[TASK].chosen)
    assert torch.equal(*found)


def test_another_validation_chooses_another_threshold(model_of, training_of, data_of):
    model = model_of()
    loud = spiked("val", 9600, [(1600, 2400, 6.0)], [(4000, 4160, 4.0)])
    training = training_of(model)
    validated(training, data_of(TRAIN, VAL, TEST))
    first = model.tasks[TASK].threshold
    validated(training, data_of(TRAIN, loud, TEST))
    assert first < 0.8 < model.tasks[TASK].threshold


def test_a_larger_budget_of_false_alarms_finds_no_less(model_of, training_of, data_of):
    """Where the quiet seizure is no louder than a burst, its finding costs 72 false alarms a day."""
    val = spiked("val", 9600, [(1600, 2400, 3.0), (6000, 6600, 1.5)], [(4000, 4160, 2.0)])
    found = {}
    for budget in (5.0, 200.0):
        model = model_of(max_fa_per_24h=budget)
        found[budget] = validated(training_of(model), data_of(TRAIN, val, TEST)).metrics
    assert (found[5.0]["event_sensitivity"], found[5.0]["fa_per_24h"]) == (0.5, 0)
    assert (found[200.0]["event_sensitivity"], found[200.0]["fa_per_24h"]) == (1, pytest.approx(72))
    assert found[200.0]["sensitivity_10fa"] == 0.5  # has a budget of its own


def test_thresholds_travel_in_a_checkpoint_to_a_fresh_model(model_of, training_of, data_of, plan, tmp_path):
    model, data = model_of(), data_of(TRAIN, VAL, TEST)
    training = training_of(model)
    model.tasks[TASK].meet(data)
    validated(training, data)
    write_checkpoint(state_of(training), tmp_path / "x.ckpt")
    fresh = model_of()
    assert fresh.tasks[TASK].threshold != model.tasks[TASK].threshold
    load_weights(fresh, read_checkpoint(tmp_path / "x.ckpt"), tmp_path / "x.ckpt")
    assert torch.equal(fresh.tasks[TASK].chosen, model.tasks[TASK].chosen)
    assert torch.equal(fresh.tasks[TASK].positive_weight, model.tasks[TASK].positive_weight)
    assert scored(fresh, data, plan) == scored(model, data, plan)


@pytest.mark.parametrize("asked", [0.1, 0.5, 0.99])
def test_a_threshold_that_was_chosen_stays_what_it_is_under_another_config(model_of, training_of, data_of, asked):
    """``threshold`` is one of those that may be chosen, so it moves the places of the others."""
    model, data = model_of(threshold=0.86), data_of(TRAIN, VAL, TEST)
    validated(training_of(model), data)
    other = model_of(threshold=asked)
    other.load_state_dict(model.state_dict())
    assert other.tasks[TASK].threshold == model.tasks[TASK].threshold


# scores


TWO = {"split": NAMED | {"val": ["val", "val2"]}}
SECOND = spiked("val2", 4900, [(600, 1400, 2.4)], [(3000, 3100, 2.5)])


@pytest.mark.parametrize(("micro_batch", "batch"), [(1, 32), (3, 32), (5, 7), (32, 200)])
def test_scores_do_not_depend_on_how_windows_are_put_together(model_of, training_of, data_of, micro_batch, batch):
    data = data_of(TRAIN, VAL, TEST, SECOND, **TWO)
    expected = validated(training_of(model_of()), data)
    found = validated(training_of(model_of(), micro_batch), data, batch)
    assert found.metrics == expected.metrics
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.samples, found.entities) == (expected.samples, expected.entities) == (len(data.splits["val"]), 2)


def test_scores_do_not_depend_on_the_order_of_the_windows_of_a_record(model_of, training_of, data_of):
    data = data_of(TRAIN, VAL, TEST, SECOND, **TWO)
    split = data.splits["val"]
    expected = validated(training_of(model_of()), data)
    records = split.places[:, 0]
    rows = [np.random.default_rng(0).permutation(np.flatnonzero(records == number)) for number in np.unique(records)]
    mixed = np.concatenate(rows[::-1])
    batches = [split.__getitems__(mixed[start : start + 9].tolist()) for start in range(0, len(mixed), 9)]
    found = training_of(model_of()).validate(batches)[TASK]
    assert found.metrics == expected.metrics


def one_of_two(rank, folder, validate):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    result, chosen = validate()
    (folder / f"{rank}").write_bytes(pickle.dumps((result, chosen.tolist())))
    dist.destroy_process_group()


def test_two_processes_find_the_scores_and_the_thresholds_of_one(model_of, training_of, data_of, tmp_path):
    """Of every record both see windows, and one more batch than there are windows is filled up."""
    data = data_of(TRAIN, VAL, TEST, SECOND, **TWO)

    def validate():
        model = model_of()
        return validated(training_of(model), data, 7), model.tasks[TASK].chosen

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=one_of_two, args=(rank, tmp_path, validate)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    expected, chosen = validate()
    for rank in range(2):
        found, theirs = pickle.loads((tmp_path / f"{rank}").read_bytes())
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-6)
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (found.samples, found.entities) == (expected.samples, expected.entities)
        assert theirs == chosen.tolist()


def test_what_fills_up_a_short_record_is_in_no_score(model_of, training_of, data_of):
    """100 samples of which half are of a seizure, in a window of 240."""
    short = spiked("val2", 100, [(50, 100, 3.0)])
    data = data_of(TRAIN, VAL, TEST, short, **TWO)
    model = model_of()
    training = training_of(model)
    result = validated(training, data)
    records = training.scores.metrics[TASK]["auroc"].records
    assert records.counts.seconds == (9600 + 100) / RATE_HZ
    assert result.metrics["event_f1"] == 1
    alone = validated(training_of(model_of()), data_of(TRAIN, VAL, TEST))
    labels = 9600 // STRIDE - 2  # windows of the first record
    both = (alone.loss * labels * WINDOW + float(_loss_of(model_of(), data, len(data.splits["val"]) - 1))) / (
        labels * WINDOW + 100
    )
    assert result.loss == pytest.approx(both, rel=1e-5)


def _loss_of(model, data, row):
    """Sum over the samples of one window of the validation, a sample at a time."""
    batch = data.splits["val"].__getitems__([row])
    with torch.no_grad():
        logits = model(batch)[TASK]
    task = model.tasks[TASK]
    return slow_loss(logits, batch.targets[TASK], batch.present[TASK], alpha=task.alpha, gamma=task.gamma, weight=1.0)


def test_a_record_of_which_nothing_is_known_is_in_no_score(model_of, training_of, data_of):
    unknown = replace(SECOND, events=None)
    expected = validated(training_of(model_of()), data_of(TRAIN, VAL, TEST))
    found = validated(training_of(model_of()), data_of(TRAIN, VAL, TEST, unknown, **TWO))
    assert (found.metrics, found.samples, found.entities) == (expected.metrics, expected.samples, 1)


def test_a_naive_line_says_the_share_of_seizures_in_the_training_everywhere(model_of, data_of):
    data = data_of(TRAIN, VAL, TEST)
    batch = data.splits["test"].__getitems__([0, 20])
    known = data.splits["train"].labels(TASK)
    line = model_of().tasks[TASK].naive(batch, known)
    truth = [data.splits["train"].__getitems__([row]).targets[TASK].mean() for row in range(len(data.splits["train"]))]
    assert line.shape == (2, WINDOW)
    assert torch.allclose(line.sigmoid(), torch.stack(truth).mean().expand(2, WINDOW))


# every key


BASE = {
    "weight": 1.0,
    "first_epoch": 1,
    "last_epoch": None,
    "hidden": 4,
    "alpha": 0.5,
    "gamma": 2.0,
    "threshold": 0.5,
    "max_fa_per_24h": 5.0,
    "off_ratio": 0.8,
    "opening": 4,
    "closing": 4,
    "min_duration_s": 3.0,
    "merge_gap_s": 2.0,
}
OTHER = {
    "weight": 2.0,
    "first_epoch": 2,
    "last_epoch": 4,
    "hidden": 5,
    "alpha": 0.4,
    "gamma": 1.0,
    "threshold": 0.7,
    "max_fa_per_24h": 1000.0,
    "off_ratio": 0.95,
    "opening": 40,
    "closing": 1,
    "min_duration_s": 10.0,
    "merge_gap_s": 0.5,
}
SAID = [  # samples, and the probability of a seizure there; a seizure is from 800 to 1600
    *((800, 1000, 0.6), (1000, 1100, 0.45)),  # goes on below the threshold that begins it
    *((1200, 1230, 0.6), (1240, 1270, 0.6)),  # 1.25 s apart
    (2400, 2430, 0.6),  # 3.75 s
    *((3200, 3216, 0.6), (3219, 3235, 0.6)),  # 2 s each, 3 samples apart
    (4000, 4060, 0.9),  # surer than of the seizure
]


def outcome(experiment, values):
    """All that a task's config has to say in: sizes, loss, thresholds, scores, and when and how much it is trained."""
    config = replace(experiment.task[TASK], **values)
    window = 4800  # a whole record
    sizes = Sizes(
        d_model=1, n_tokens=window // STRETCH, window=window, n_channels=2, channel_independent=False, n_classes=0
    )
    own = {f.name for f in fields(SeizureDetectionConfig)} - {f.name for f in fields(TaskConfig)}
    task = SeizureDetection(sizes=sizes, **{name: getattr(config, name) for name in own})
    probability = torch.full((1, window), 0.05)
    for start, stop, said in SAID:
        probability[0, start:stop] = said
    target, present = torch.zeros(1, window), torch.ones(1, window, dtype=torch.bool)
    target[0, 800:1600] = 1
    batch = replace(some_batch(), signal=torch.zeros(1, 2, window))
    metrics = task.metrics()
    task.update(metrics, probability.logit(), target, present, batch)
    scores = {name: float(value) for name, value in metrics.compute().items()}
    before = task.threshold
    task.settle(metrics)
    loss = float(task.loss(probability.logit(), target, present) / window)
    result = {TASK: TaskResult(loss=loss, metrics=scores, samples=1, entities=1)}
    return {
        "parameters": sum(p.numel() for p in task.parameters()),
        "loss": loss,
        "total": total_loss({TASK: config}, result),
        "threshold": before,
        "chosen": task.threshold,
        "scores": tuple(scores.values()),
        "epochs": [config.trains_in(epoch) for epoch in range(1, 6)],
    }


def some_batch():
    """One window of a record at 8 Hz."""
    return replace(blank_batch({}, 1, 2, 1), rate_hz=torch.tensor([RATE_HZ]))


REACHES = {  # what each key is to change
    "weight": "total",
    "first_epoch": "epochs",
    "last_epoch": "epochs",
    "hidden": "parameters",
    "alpha": "loss",
    "gamma": "loss",
    "threshold": "threshold",
    "max_fa_per_24h": "chosen",
}


@pytest.mark.parametrize("key", [f.name for f in fields(SeizureDetectionConfig) if f.name != "_target_"])
def test_every_key_of_the_config_acts(experiment, key):
    """A new key needs a value in BASE and another in OTHER, which the outcome shows."""
    before, after = outcome(experiment, BASE), outcome(experiment, BASE | {key: OTHER[key]})
    assert outcome(experiment, BASE) == before
    assert {name for name in before if before[name] != after[name]} >= {REACHES.get(key, "scores")}
