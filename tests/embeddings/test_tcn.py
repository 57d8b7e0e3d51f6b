"""The convolutions of the full-rate encoder against loops, and what they keep.

Shapes: B windows, C channels, L samples, N tokens, D model width, F features of a convolution.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from vibench.embeddings.tcn import Block, TCNEncoder

SIZES = {"d_model": 6, "n_channels": 3, "window": 40, "channels": [4, 5, 4], "kernel": 3, "dropout": 0.3, "stride": 4}


def made(**changed):
    """Biases and scales of a size that shows."""
    torch.manual_seed(0)
    encoder = TCNEncoder(**SIZES | changed)
    for name, parameter in encoder.named_parameters():
        if "bias" in name or "original0" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return encoder


def signals(b=2, c=3, length=40):
    return torch.randn(b, c, length, generator=torch.Generator().manual_seed(1))


def embed(encoder, signal):
    return encoder(signal, torch.full((len(signal),), signal.shape[1]), torch.full((len(signal),), 256.0))


def convolved(block, features):
    """(B, d_in, L) -> (B, d_out, L), sample by sample: zeros lie around, each filter has the length of its scale."""
    scale, direction = (getattr(block.convolution.parametrizations.weight, f"original{i}") for i in (0, 1))
    weight = scale * direction / direction.flatten(1).norm(dim=1)[:, None, None]
    (dilation,), taps, length = block.convolution.dilation, weight.shape[-1], features.shape[-1]
    out = block.convolution.bias[:, None].expand(len(features), -1, length).clone()
    for sample in range(length):
        for tap in range(taps):
            seen = sample + (tap - taps // 2) * dilation
            if 0 <= seen < length:
                out[:, :, sample] += features[:, :, seen] @ weight[:, :, tap].T
    return out.clamp(min=0)


def test_tokens_are_those_of_the_convolutions_written_sample_by_sample():
    encoder, signal = made().eval(), signals(length=24)
    features = signal
    for number, block in enumerate(encoder.layers):
        assert block.convolution.dilation == (2**number,)
        features = convolved(block, features)
    projected = torch.einsum("df,bfl->bdl", encoder.project.weight[..., 0], features) + encoder.project.bias[:, None]
    tokens = torch.stack(
        [
            torch.einsum("odk,bdk->bo", encoder.gather.weight, projected[..., 4 * n : 4 * n + 4]) + encoder.gather.bias
            for n in range(6)
        ],
        dim=1,
    )
    torch.testing.assert_close(embed(encoder, signal), tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "n_tokens"), [(40, 10), (39, 9), (4, 1)])
def test_a_token_is_made_of_each_whole_stretch_of_samples(length, n_tokens):
    assert embed(made(window=length), signals(length=length)).shape == (2, n_tokens, 6)


def test_a_sample_reaches_as_far_back_as_ahead():
    """Three dilations with three taps: 1 + 2 + 4 samples to each side; with a token for each, that many tokens."""
    encoder, signal = made(stride=1).eval(), signals().double().requires_grad_()
    tokens = embed(encoder.double(), signal)
    tokens[:, 20].sum().backward()
    reached = signal.grad[0].abs().sum(0).nonzero().flatten()
    assert (reached.min(), reached.max()) == (20 - 7, 20 + 7)


def test_channels_that_a_system_does_not_have_count_as_silent():
    encoder, signal = made().eval(), signals()
    filled, silent, channels, rates = signal.clone(), signal.clone(), torch.tensor([3, 2]), torch.full((2,), 256.0)
    filled[1, 2], silent[1, 2] = torch.nan, 0
    assert torch.equal(encoder(filled, channels, rates), encoder(silent, channels, rates))


def test_a_sample_that_is_no_number_shows_in_the_tokens():
    encoder, signal = made(), signals()
    signal[0, 1, 20] = torch.nan
    for training in (True, False):
        tokens = embed(encoder.train(training), signal)
        assert tokens[0].isnan().any()
        assert tokens[1].isfinite().all()


@pytest.mark.parametrize("dropout", [0.0, 0.15])
def test_the_scale_of_a_signal_survives_eight_convolutions(dropout):
    """Fresh, at no layer less than a third or more than three times; dropout alone adds a fifth of power at each."""
    torch.manual_seed(0)
    features = torch.randn(1, 19, 512)
    encoder = TCNEncoder(**SIZES | {"n_channels": 19, "channels": [64] * 8, "dropout": dropout, "kernel": 7})
    for block in encoder.layers:
        features = block(features)
        assert 1 / 3 < features.square().mean().sqrt() < 3


def block(dropout=0.3):
    torch.manual_seed(0)
    return Block(3, 4, 3, 2, dropout)


def test_rectified_and_dropped_out_in_one_is_one_after_the_other():
    made_block, signal = block(), signals().requires_grad_()
    torch.manual_seed(1)
    found = made_block(signal)
    torch.manual_seed(1)
    expected = F.dropout(F.relu(made_block.convolution(signal)), 0.3)
    assert torch.equal(found, expected)
    direction = torch.randn_like(found)
    parameters = [signal, *made_block.parameters()]
    ours, theirs = (torch.autograd.grad((out * direction).sum(), parameters) for out in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_drops_its_share_in_training_alone():
    made_block, signal = block(), signals(b=50)
    positive = (made_block.convolution(signal) > 0).sum()
    assert (made_block(signal) > 0).sum() / positive == pytest.approx(0.7, abs=0.05)
    assert torch.equal(made_block.eval()(signal), F.relu(made_block.convolution(signal)))


@pytest.mark.parametrize("training", [True, False])
def test_a_block_keeps_nothing_of_its_size_but_what_goes_in_and_what_comes_out(training):
    """Checkpointing it would save no more than its weights."""
    made_block, signal, kept = block().train(training), signals(length=400).requires_grad_(), {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = made_block(signal)
    large = sorted(size for size in kept.values() if size >= signal.nbytes)
    assert large == sorted([signal.nbytes, out.nbytes])


def test_every_parameter_has_a_gradient():
    encoder = made()
    embed(encoder, signals()).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_number_of_parameters_follows_from_the_sizes():
    expected, d_in = 0, 3
    for d_out in (4, 5, 4):
        expected, d_in = expected + d_in * d_out * 3 + 2 * d_out, d_out  # a bias and a scale of each filter
    expected += (4 * 6 + 6) + (6 * 6 * 4 + 6)
    assert sum(p.numel() for p in made().parameters()) == expected


def test_autocast_changes_tokens_and_gradients_by_no_more_than_its_rounding():
    encoder, signal = made(dropout=0.0), signals()
    exact = embed(encoder, signal)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = embed(encoder, signal).float()
    assert 0 < (rough - exact).norm() < 0.03 * exact.norm()
    gradients = [torch.autograd.grad(out.square().sum(), list(encoder.parameters())) for out in (rough, exact)]
    assert all(math.isfinite(p.sum()) for p in gradients[0])
    for (name, _), ours, theirs in zip(encoder.named_parameters(), *gradients, strict=True):
        assert (ours - theirs).norm() < 0.1 * theirs.norm(), name
