"""HSE: where its patches are cut, and what time it gives them.

The projection is taken out, so that a token is the patch itself: first Q channels of P samples, then P times in
seconds. Each sample of the signal tells where it lies: 1000 x channel + sample.
"""

import pytest
import torch
from torch import nn

from vibench.embeddings.hse import HSE

WINDOW, P = 301, 16


def places(*, patches=40, q=1, channels=(3,), rates=(12_000.0,), training=False, window=WINDOW):
    """First channel of each patch (B, N, Q), first sample (B, N), and times in seconds (B, N, P)."""
    embedding = HSE(d_model=4, n_channels=3, window=window, num_patches=patches, patch_size_l=P, patch_size_c=q)
    embedding.project = nn.Identity()
    embedding.train(training)
    signal = 1000.0 * torch.arange(3)[:, None] + torch.arange(window)
    signal = signal.expand(len(channels), 3, window)
    tokens = embedding(signal, torch.tensor(channels), torch.tensor(rates))
    samples = tokens[..., : q * P].unflatten(-1, (q, P)).long()
    sensor, sample = samples // 1000, samples % 1000
    assert (sample == sample[:, :, :1, :1] + torch.arange(P)).all()  # a patch is one stretch, the same in each channel
    assert (sensor == sensor[..., :1]).all()
    return sensor[..., 0], sample[:, :, 0, 0], tokens[..., q * P :]


@pytest.mark.parametrize("patches", [2, 7, 40, 400])
def test_in_evaluation_the_patches_are_spread_evenly_from_first_to_last_sample(patches):
    _, start, _ = places(patches=patches)
    steps = start[0].diff()
    assert start[0, 0] == 0
    assert start[0, -1] == WINDOW - P
    assert steps.min() >= 0
    assert steps.max() - steps.min() <= 1


def test_a_single_patch_starts_at_the_first_sample_in_evaluation():
    assert places(patches=1)[1].tolist() == [[0]]


def test_in_evaluation_two_passes_cut_the_same_patches():
    first, second = places(channels=(1, 2, 3), rates=(1.0,) * 3), places(channels=(1, 2, 3), rates=(1.0,) * 3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_the_channels_take_turns(training):
    sensor, _, _ = places(patches=6, training=training, channels=(1, 2, 3), rates=(1.0,) * 3)
    assert sensor[..., 0].tolist() == [[0] * 6, [0, 1] * 3, [0, 1, 2] * 2]


def test_in_training_two_passes_cut_other_patches():
    torch.manual_seed(0)
    assert not torch.equal(places(training=True)[1], places(training=True)[1])


def test_in_training_each_window_of_a_batch_is_cut_on_its_own():
    _, start, _ = places(training=True, channels=(3, 3), rates=(1.0, 1.0))
    assert not torch.equal(start[0], start[1])


@pytest.mark.parametrize("patches", [1, 7, 40])
def test_in_training_a_patch_keeps_to_its_own_stretch_of_the_window(patches):
    torch.manual_seed(0)
    _, start, _ = places(training=True, patches=patches, channels=(3,) * 50, rates=(1.0,) * 50)
    room = (WINDOW - P + 1) / patches
    assert (start >= (torch.arange(patches) * room).floor()).all()
    assert (start < ((torch.arange(patches) + 1) * room).ceil()).all()


def test_in_training_the_seed_decides_the_patches():
    torch.manual_seed(5)
    first = places(training=True)
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(first, places(training=True), strict=True))


def test_in_training_the_patches_are_in_order_of_time():
    _, start, _ = places(training=True, channels=(3,) * 5, rates=(1.0,) * 5)
    assert (start.diff(dim=1) >= 0).all()


def test_in_training_the_patches_start_anywhere_that_a_patch_fits():
    torch.manual_seed(0)
    _, start, _ = places(training=True, window=P + 4, patches=500)
    assert start.unique().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("q", [1, 2, 4])
def test_the_patches_come_from_every_real_channel_and_no_other(training, q):
    torch.manual_seed(0)
    sensor, _, _ = places(training=training, q=q, channels=(1, 2, 3), rates=(1.0,) * 3, patches=100)
    assert [window.unique().tolist() for window in sensor] == [[0], [0, 1], [0, 1, 2]]


@pytest.mark.parametrize("training", [False, True])
def test_a_patch_of_several_channels_takes_neighbours_and_repeats_where_there_are_fewer(training):
    sensor, _, _ = places(training=training, q=4, channels=(1, 2, 3), rates=(1.0,) * 3)
    for window, real in zip(sensor, (1, 2, 3), strict=True):
        assert torch.equal(window, (window[:, :1] + torch.arange(4)) % real)


@pytest.mark.parametrize("training", [False, True])
def test_the_time_of_a_patch_is_in_seconds(training):
    rates = (12_000.0, 25_600.0)
    _, start, seconds = places(training=training, channels=(3, 3), rates=rates)
    expected = (start[..., None] + torch.arange(P)) / torch.tensor(rates)[:, None, None]
    torch.testing.assert_close(seconds, expected)


def test_doubling_the_rate_halves_the_time():
    _, start, seconds = places(channels=(3, 3), rates=(12_000.0, 24_000.0))
    assert torch.equal(start[0], start[1])
    torch.testing.assert_close(seconds[1], seconds[0] / 2)


@pytest.mark.parametrize("training", [False, True])
def test_a_patch_as_long_as_the_window_is_the_window(training):
    _, start, _ = places(training=training, window=P)
    assert not start.any()


def test_the_parameters_are_two_layers_on_samples_and_times():
    embedding = HSE(d_model=4, n_channels=3, window=WINDOW, num_patches=7, patch_size_l=P, patch_size_c=2)
    width = P * 2 + P
    assert sum(p.numel() for p in embedding.parameters()) == (width * 4 + 4) + (4 * 4 + 4)


def test_what_follows_from_the_sizes_is_not_in_a_checkpoint():
    embedding = HSE(d_model=4, n_channels=3, window=WINDOW, num_patches=7, patch_size_l=P, patch_size_c=2)
    assert {name.split(".")[0] for name in embedding.state_dict()} == {"project"}
