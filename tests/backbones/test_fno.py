"""The Fourier neural operator against sines and cosines written out."""

import pytest
import torch
from torch import nn

from tests.backbones.plain import PublishedFNO, plain_fno
from vibench.backbones.fno import FNO


def model_of(n, *, layers=2, modes=3):
    """Weights of the spectrum of any sign and large enough to be seen; fresh ones are all positive and small."""
    torch.manual_seed(0)
    model = FNO(n_tokens=n, d_model=4, e_layers=layers, modes=modes, width=6)
    for block in model.blocks:
        nn.init.normal_(block.spectral.weight, std=0.3)
    return model


@pytest.mark.parametrize(("n", "modes"), [(1, 1), (7, 1), (7, 4), (8, 3), (8, 5), (32, 16)])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_model_is_the_one_of_the_paper(n, modes, layers):
    model, tokens = model_of(n, layers=layers, modes=modes), torch.randn(2, n, 4)
    torch.testing.assert_close(model(tokens), plain_fno(model, tokens).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "modes"), [(7, 4), (8, 3), (8, 5)])
def test_its_gradients_are_those_of_the_paper(n, modes):
    model, tokens = model_of(n, modes=modes), torch.randn(2, n, 4, requires_grad=True)
    into = [tokens, *model.parameters()]
    fast, slow = model(tokens), plain_fno(model, tokens).float()
    towards = torch.randn_like(fast)
    got, expected = (torch.autograd.grad(out, into, towards) for out in (fast, slow))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [7, 8])
def test_it_is_the_published_model_in_another_layout(n):
    model, tokens = model_of(n), torch.randn(2, n, 4)
    torch.testing.assert_close(model(tokens), PublishedFNO(model)(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [1, 4])
def test_tokens_turned_in_a_circle_turn_the_result(shift):
    model, tokens = model_of(9), torch.randn(2, 9, 4)
    torch.testing.assert_close(model(tokens.roll(shift, 1)), model(tokens).roll(shift, 1), rtol=1e-4, atol=1e-5)


def test_every_token_sees_every_token_of_its_sequence():
    model, tokens = model_of(7), torch.randn(1, 7, 4, requires_grad=True)
    for token in range(7):
        (gradient,) = torch.autograd.grad(model(tokens)[0, token].square().sum(), tokens)
        assert (gradient[0].abs().sum(1) > 0).all()


def test_the_last_layer_has_no_activation():
    model = model_of(7, layers=1)  # so one layer alone is linear, up to its biases
    one, other, zero = torch.randn(2, 7, 4), torch.randn(2, 7, 4), torch.zeros(2, 7, 4)
    expected = model(one) + model(other) - model(zero)
    torch.testing.assert_close(model(one + other), expected, rtol=1e-4, atol=1e-5)


def test_the_weights_fit_any_number_of_tokens():
    model = model_of(8)
    model.load_state_dict(model_of(33).state_dict())
    assert model(torch.randn(2, 8, 4)).shape == (2, 8, 4)


@pytest.mark.parametrize("n", [7, 12, 33])  # no power of 2, of which alone there is a transform in half precision
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype, n):
    model, tokens = model_of(n), torch.randn(3, n, 4)
    with torch.autocast("cpu", dtype):
        out = model(tokens)
    torch.testing.assert_close(out.float(), model(tokens), rtol=0, atol=0.03)
    out.sum().backward()
    assert [name for name, p in model.named_parameters() if not p.grad.isfinite().all()] == []


def test_tokens_on_device_meta_run_forward_and_backward():
    with torch.device("meta"):
        model, tokens = FNO(n_tokens=7, d_model=4, e_layers=2, modes=3, width=6), torch.randn(3, 7, 4)
    tokens.requires_grad_()
    out = model(tokens)
    out.sum().backward()
    assert out.shape == tokens.grad.shape == (3, 7, 4)


def test_clipping_counts_the_gradient_of_the_spectrum_as_real_numbers():
    model = model_of(7)
    model(torch.randn(2, 7, 4)).square().sum().backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()]).square().sum().sqrt()
    torch.testing.assert_close(nn.utils.clip_grad_norm_(model.parameters(), 1.0), expected)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters()]).square().sum().sqrt()
    torch.testing.assert_close(clipped, torch.tensor(1.0))


def test_adamw_steps_real_and_imaginary_parts_each_by_the_learning_rate():
    model = model_of(7)
    model(torch.randn(2, 7, 4)).square().sum().backward()
    weight = model.blocks[0].spectral.weight
    before, sign = weight.detach().clone(), weight.grad.sign()
    assert not sign[0, ..., 1].any()  # a constant has no phase
    torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0).step()
    torch.testing.assert_close(weight.detach(), before - 0.01 * sign, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("d", "width", "layers", "modes"), [(4, 6, 2, 3), (5, 3, 4, 1)])
def test_the_number_of_parameters_follows_from_the_sizes(d, width, layers, modes):
    model = FNO(n_tokens=13, d_model=d, e_layers=layers, modes=modes, width=width)
    layer = 2 * modes * width**2 + width**2 + width  # real and imaginary parts, and a linear map
    assert sum(p.numel() for p in model.parameters()) == (d + 1) * width + layers * layer + (width + 1) * d
