"""Masked reconstruction: what is hidden is hidden from everything, and nothing else is asked for.

Shapes: B windows, G sequences per window, C channels, N tokens, D model width, L samples of a window, P samples that
are hidden together, K = L / P stretches of a window.
"""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from tests.conftest import CONF
from tests.model.batches import N_CHANNELS, SIZES, random_batch
from vibench.config.task import MaskedReconstructionConfig
from vibench.data.batch import Batch
from vibench.model import Model, build_model
from vibench.step.micro_batch import accumulate
from vibench.step.scores import Scores
from vibench.tasks.masked_reconstruction import MaskedReconstruction
from vibench.tasks.task import Sizes

NAME = "masked_reconstruction"
EMBEDDINGS = sorted(path.stem for path in (CONF / "embedding").glob("*.yaml"))
B, C, L, P, N, D = 40, 3, 64, 4, 5, 8
K = L // P


def sizes(channel_independent=True, **given):
    values = {"d_model": D, "n_tokens": N, "window": L, "n_channels": C, "n_classes": 4} | given
    return Sizes(channel_independent=channel_independent, **values)


def reconstruction(mask_ratio=0.4, mask_len=P, channel_independent=True):
    return MaskedReconstruction(sizes=sizes(channel_independent), mask_ratio=mask_ratio, mask_len=mask_len)


def windows(seed=0, size=B):
    """Windows of systems with 1 to 3 channels, no sample of which is zero by itself."""
    channels = torch.arange(size) % C + 1
    real = torch.arange(C) < channels[:, None]
    signal = 1 + torch.rand(size, C, L, generator=torch.Generator().manual_seed(seed))
    return Batch(
        signal=signal * real[..., None],
        channels=channels,
        rate_hz=torch.ones(size),
        system=torch.zeros(size, dtype=torch.int64),
        entity=torch.arange(size),
        recording=torch.zeros(size, dtype=torch.int64),
        start=torch.zeros(size, dtype=torch.int64),
        scale=torch.ones(size, C),
        targets={NAME: torch.zeros(size, C)},
        present={NAME: real},
    )


def hidden(view):
    """(B, L): samples at zero in the first channel, which every system has."""
    return view.signal[:, 0] == 0


# what is hidden


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("ratio", "mask_len", "stretches"), [(0.4, 4, 6), (0.05, 4, 1), (0.9, 4, 14), (0.5, 1, 32)])
def test_of_every_window_so_many_whole_stretches_are_zero_in_all_channels(training, ratio, mask_len, stretches):
    torch.manual_seed(0)
    batch = windows()
    view = reconstruction(ratio, mask_len).train(training).view(batch, NAME)
    zero = (view.signal == 0).unflatten(2, (-1, mask_len))  # (B, C, K, P)
    for row, channels in enumerate(batch.channels.tolist()):
        for channel in range(channels):
            assert torch.equal(zero[row, channel].any(-1), zero[row, channel].all(-1))
            assert int(zero[row, channel].all(-1).sum()) == stretches
            assert torch.equal(zero[row, channel], zero[row, 0])


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.4, 0.85])
def test_the_schema_and_the_task_hide_as_many_stretches(ratio):
    schema = MaskedReconstructionConfig(weight=1, first_epoch=1, last_epoch=None, mask_ratio=ratio, mask_len=P)
    assert (hidden(reconstruction(ratio).view(windows(), NAME)).sum(1) == P * schema.masked(L)).all()


@pytest.mark.parametrize("training", [True, False])
def test_what_is_not_hidden_is_left_as_it_is(training):
    batch = windows()
    view = reconstruction().train(training).view(batch, NAME)
    seen = view.signal != 0
    assert torch.equal(view.signal[seen], batch.signal[seen])
    assert seen[:, 0].any(1).all()


def test_the_target_is_the_clean_signal_and_the_batch_stays_clean():
    batch = windows()
    view = reconstruction().view(batch, NAME)
    assert torch.equal(view.targets[NAME], windows().signal)
    assert torch.equal(batch.signal, windows().signal)
    assert torch.equal(batch.present[NAME], windows().present[NAME])


def test_labels_are_the_hidden_samples_of_the_channels_that_exist_and_no_others():
    batch = windows()
    batch.present[NAME][5] = False
    view = reconstruction().view(batch, NAME)
    expected = (view.signal == 0) & (torch.arange(C) < batch.channels[:, None])[..., None]
    expected[5] = False
    assert torch.equal(view.present[NAME], expected)


def test_in_training_every_window_has_its_own_stretches_hidden_and_others_each_time():
    torch.manual_seed(0)
    task, batch = reconstruction().train(), windows()
    first, second = hidden(task.view(batch, NAME)), hidden(task.view(batch, NAME))
    assert len(torch.unique(first, dim=0)) > B // 2
    assert int((first != second).any(1).sum()) > B // 2


def test_in_training_every_stretch_is_hidden_as_often_as_the_next():
    torch.manual_seed(0)
    often = hidden(reconstruction().train().view(windows(size=2000), NAME)).float().mean(0)
    assert often.sub(6 / K).abs().max() < 0.06  # five standard deviations


def test_in_evaluation_all_windows_have_the_same_hidden_every_time_and_in_every_model():
    masks = torch.cat([hidden(reconstruction().eval().view(windows(seed), NAME)) for seed in range(3)])
    assert len(torch.unique(masks, dim=0)) == 1


def test_in_evaluation_the_hidden_stretches_do_not_all_lie_together():
    edges = hidden(reconstruction().eval().view(windows(), NAME))[0].int().diff().abs().sum()
    assert edges > 4  # what is between them can be told from both sides


def test_in_evaluation_no_random_number_is_drawn():
    # or a validation in between would change the training that follows
    task, before = reconstruction().eval(), torch.get_rng_state()
    task.view(windows(), NAME)
    assert torch.equal(torch.get_rng_state(), before)


# nothing leaks


@pytest.fixture(scope="module", params=EMBEDDINGS)
def config(request, tiny):
    """All five tasks; with patches, each sample is in two of them."""
    return tiny(
        f"embedding={request.param}",
        "task=[multitask,masked_reconstruction]",
        f"task.{NAME}.mask_len=16",
        "backbone.dropout=0",
        "backbone.e_layers=1",
    )


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return build_model(config, **SIZES)


@pytest.fixture
def batch(config):
    return random_batch(config, 7, missing=0)


def view_of(model, batch):
    """The only view in which something is hidden."""
    ((view, _),) = model.views(batch, [NAME])
    return view


@torch.no_grad()
def predicted(model, batch):
    view = view_of(model, batch)
    return model.tasks[NAME](*model.encode(view))


def changed(batch, where):
    """The batch with other samples there; channels that do not exist stay zero."""
    signal = torch.where(where & (batch.signal != 0), 50 * batch.signal.flip(-1) + 3, batch.signal)
    return Batch(**{name: getattr(batch, name) for name in Batch.__slots__} | {"signal": signal})


def test_no_hidden_sample_reaches_the_prediction(model, batch):
    model.eval()
    where = view_of(model, batch).present[NAME]
    other = changed(batch, where)
    assert not torch.equal(other.signal, batch.signal)
    assert torch.equal(predicted(model, other), predicted(model, batch))


def test_what_can_be_seen_reaches_the_prediction(model, batch):
    """So that the test above can fail."""
    model.eval()
    where = view_of(model, batch).present[NAME]
    assert (predicted(model, changed(batch, ~where)) != predicted(model, batch)).flatten(1).any(1).all()


def test_the_prediction_is_one_for_every_sample_of_every_channel(model, batch):
    assert model(batch)[NAME].shape == batch.signal.shape


# beside other tasks


def test_the_other_tasks_see_the_whole_signal_and_share_one_view(model, batch):
    others = [name for name in model.tasks if name != NAME]
    (whole, first), (part, second) = model.views(batch, list(model.tasks))
    assert whole is batch
    assert (first, second) == (others, [NAME])
    assert (part.signal == 0).sum() > (batch.signal == 0).sum()
    for name in others:
        assert part.targets[name] is batch.targets[name]


def test_without_other_tasks_there_is_one_view(model, batch):
    assert [names for _, names in model.views(batch, [NAME])] == [[NAME]]


@pytest.mark.parametrize(
    ("kept", "passes"),
    [
        pytest.param(lambda name: True, 2, id="all tasks"),
        pytest.param(lambda name: name != NAME, 1, id="only the others"),
        pytest.param(lambda name: name == NAME, 1, id="alone"),
    ],
)
def test_each_view_is_encoded_once(model, batch, kept, passes):
    model = Model(model.embedding, model.backbone, {name: task for name, task in model.tasks.items() if kept(name)})
    encoded = []
    model.embedding.register_forward_hook(lambda *_: encoded.append("embedding"))
    model.backbone.register_forward_hook(lambda *_: encoded.append("backbone"))
    model(batch)
    assert encoded == ["embedding", "backbone"] * passes


def test_the_predictions_of_the_other_tasks_are_as_without_it(model, batch):
    model.eval()
    alone = Model(model.embedding, model.backbone, {n: t for n, t in model.tasks.items() if n != NAME}).eval()
    both, expected = model(batch), alone(batch)
    assert all(torch.equal(both[name], prediction) for name, prediction in expected.items())


# the loss


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_count_from_the_channels_is_that_from_the_hidden_samples(config, model, missing):
    batch, task = random_batch(config, 7, missing=missing), model.tasks[NAME]
    view = view_of(model, batch)
    assert batch.present[NAME].shape == (7, N_CHANNELS)
    assert view.present[NAME].shape == batch.signal.shape
    assert int(task.count(batch.present[NAME])) == int(task.count(view.present[NAME])) == int(view.present[NAME].sum())


def test_the_loss_is_the_squared_error_of_the_hidden_samples_alone(model, batch):
    task, view = model.tasks[NAME], view_of(model, batch)
    prediction, where = torch.randn(batch.signal.shape), view.present[NAME]
    expected = ((prediction - batch.signal)[where].double() ** 2).sum()
    assert float(task.loss(prediction, view.targets[NAME], where)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, 7])
def test_the_gradient_of_parts_is_that_of_the_whole_batch_where_the_same_is_hidden(tiny, micro_batch):
    config = tiny("task=[multitask,masked_reconstruction]", "backbone.dropout=0", "backbone.e_layers=1")
    factors = {"classification": 0.5, NAME: 3.0}
    torch.manual_seed(0)
    model, batch = build_model(config, **SIZES).train(), random_batch(config, 7)
    model.tasks[NAME].eval()
    for view, names in model.views(batch, list(factors)):
        tokens = model.encode(view)
        for name in names:
            task, present = model.tasks[name], view.present[name]
            loss = task.loss(task(*tokens), view.targets[name], present) / task.count(present)
            (factors[name] * loss).backward(retain_graph=True)
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    shares = accumulate(
        model,
        batch,
        factors=factors,
        micro_batch=micro_batch,
        device=torch.device("cpu"),
        autocast=nullcontext,
        scale=lambda loss: loss,
        measure=False,
    )
    assert shares[NAME].samples == int(batch.present[NAME].any(1).sum())
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    assert any(name.startswith(f"tasks.{NAME}") for name in expected)


# metrics and the naive line


def test_a_perfect_reconstruction_has_perfect_metrics_whatever_it_says_of_what_could_be_seen():
    task, batch = reconstruction(), windows()
    view = task.view(batch, NAME)
    guess = torch.where(view.present[NAME], batch.signal, 99.0)
    metrics = task.metrics()
    task.update(metrics, guess, view.targets[NAME], view.present[NAME], view)
    assert {name: float(value) for name, value in metrics.compute().items()} == {"mse": 0, "mae": 0, "r2": 1}


def test_the_metrics_are_of_the_hidden_samples():
    task, batch = reconstruction(), windows()
    view = task.view(batch, NAME)
    guess = batch.signal + 0.5 * torch.randn(batch.signal.shape, generator=torch.Generator().manual_seed(1))
    metrics = task.metrics()
    for part in (slice(0, 7), slice(7, B)):
        cut = view.part(part.start, part.stop)
        task.update(metrics, guess[part], cut.targets[NAME], cut.present[NAME], cut)
    error, truth = ((x[view.present[NAME]]).double().numpy() for x in (guess - batch.signal, batch.signal))
    expected = {"mse": (error**2).mean(), "mae": np.abs(error).mean(), "r2": 1 - (error**2).mean() / truth.var()}
    assert {n: float(v) for n, v in metrics.compute().items()} == pytest.approx(expected, rel=1e-6)


def test_the_naive_line_is_the_mean_of_the_samples_that_can_be_seen():
    batch, task = windows(), reconstruction()
    view = task.view(batch, NAME)
    naive = task.naive(view, torch.empty(0))
    assert naive.shape == batch.signal.shape
    for row in range(B):
        seen = ~hidden(view)[row]
        expected = batch.signal[row][:, seen].mean(-1, keepdim=True).expand(-1, L)
        torch.testing.assert_close(naive[row], expected)


def test_a_window_counts_once_however_many_of_its_samples_are_hidden(model, batch):
    scores, view = Scores(model.eval()), view_of(model, batch)
    scores.add(model, view, {NAME: predicted(model, batch)})
    assert scores.results()[NAME].samples == len(batch)


# the head


@pytest.mark.parametrize(("channel_independent", "outputs"), [(True, 1), (False, C)])
def test_the_parameters_are_linear_in_tokens_and_width(channel_independent, outputs):
    task = reconstruction(channel_independent=channel_independent)
    expected = (N * K + K) + (D * P * outputs + P * outputs)
    assert sum(parameter.numel() for parameter in task.parameters()) == expected


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_no_weight_of_the_shipped_head_exceeds_four_squares_of_the_width(resolved, embedding):
    config = resolved("hardware=cpu", "task=masked_reconstruction", f"embedding={embedding}")
    with torch.device("meta"):
        model = build_model(config, **SIZES)
    limit = 4 * config.d_model**2
    assert [(n, p.numel()) for n, p in model.tasks.named_parameters() if p.numel() > limit] == []


@pytest.mark.parametrize("channel_independent", [True, False])
def test_token_k_becomes_samples_k_times_p_and_on_of_each_channel(channel_independent):
    """Written out sample by sample, from the weights."""
    torch.manual_seed(0)
    task = reconstruction(channel_independent=channel_independent)
    tokens = torch.randn(2, C if channel_independent else 1, N, D)
    out = task(tokens, torch.ones(2, tokens.shape[1], dtype=torch.bool))
    assert out.shape == (2, C, L)
    for channel in range(C):
        seen = tokens[:, channel if channel_independent else 0]  # (B, N, D)
        for sample in range(L):
            k, p = divmod(sample, P)
            token = torch.einsum("n,bnd->bd", task.head.mix.weight[k], seen) + task.head.mix.bias[k]
            row = p if channel_independent else p * C + channel
            expected = token @ task.head.read.weight[row] + task.head.read.bias[row]
            torch.testing.assert_close(out[:, channel, sample], expected, rtol=1e-4, atol=1e-5)


# and it learns


def sines(size, generator):
    """Sinusoids of one frequency and any phase: what is hidden follows from what is seen."""
    phase = 2 * math.pi * torch.rand(size, C, 1, generator=generator)
    batch = windows(size=size)
    batch.signal = torch.sin(2 * math.pi * 5 * torch.arange(L) / L + phase) * batch.present[NAME][..., None]
    return batch


def test_sinusoids_are_told_from_what_is_seen_of_them(tiny):
    config = tiny(
        "data.window=64",
        "embedding.patch_len=8",
        "embedding.stride=4",
        "backbone.dropout=0",
        "backbone.e_layers=1",
        "task=[multitask,masked_reconstruction]",
        f"task.{NAME}.mask_len=4",
    )
    torch.manual_seed(0)
    built, generator = build_model(config, **SIZES), torch.Generator().manual_seed(0)
    model = Model(built.embedding, built.backbone, {NAME: built.tasks[NAME]}).train()
    task, optimizer = model.tasks[NAME], torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        view = view_of(model, sines(32, generator))
        prediction = task(*model.encode(view))
        loss = task.loss(prediction, view.targets[NAME], view.present[NAME]) / task.count(view.present[NAME])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    learned, naive, view = Scores(model), Scores(model), view_of(model, sines(64, generator))
    learned.add(model, view, {NAME: task(*model.encode(view)).detach()})
    naive.add(model, view, {NAME: task.naive(view, torch.empty(0))})
    assert learned.results()[NAME].metrics["mse"] < 0.2 * naive.results()[NAME].metrics["mse"]
