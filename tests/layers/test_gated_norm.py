"""The norm behind a gate against its plain form.

Shapes: S sequences, N tokens, F features.
"""

import pytest
import torch
from torch.nn import functional as F

from vibench.layers.gated_norm import GatedNorm

S, N, WIDTH, EPS = 2, 7, 12, 1e-3


def norm(dtype=torch.float64):
    made = GatedNorm(WIDTH, EPS).to(dtype)
    torch.nn.init.normal_(made.weight, mean=1)
    return made


def inputs(dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    return [torch.randn(S, N, WIDTH, generator=random, dtype=dtype).requires_grad_() for _ in range(2)]


def plain(made, tokens, gate):
    passed = tokens * gate * torch.sigmoid(gate)
    return passed / torch.sqrt(passed.square().mean(-1, keepdim=True) + made.eps) * made.weight


def test_what_the_gate_lets_through_is_normalised():
    made, given = norm(), inputs()
    torch.testing.assert_close(made(*given), plain(made, *given))


def test_its_gradients_are_those_of_the_plain_form():
    made, given = norm(), inputs()
    direction = torch.randn(S, N, WIDTH, dtype=torch.float64)
    outs = made(*given), plain(made, *given)
    found, expected = (torch.autograd.grad((out * direction).sum(), [*given, made.weight]) for out in outs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("silent", [0, 1])
def test_silence_has_finite_gradients(silent):
    made, given = norm(torch.float32), inputs(torch.float32)
    given[silent].data.zero_()
    made(*given).sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (*given, made.weight))


def test_a_gate_in_half_precision_has_its_gradient_in_it():
    made, (tokens, gate) = norm(torch.float32), inputs(torch.float32)
    half = gate.detach().bfloat16().requires_grad_()
    out = made(tokens, half)
    assert out.dtype is torch.float32
    out.square().sum().backward()
    assert half.grad.dtype is torch.bfloat16
    expected = plain(made, tokens, half.float())
    assert (out - expected).norm() < 0.01 * expected.norm()


def test_it_keeps_what_goes_in_and_a_number_a_token():
    made, given, kept = norm(torch.float32), inputs(torch.float32), {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = made(*given)
    assert sum(kept.values()) == 2 * out.nbytes + S * N * 4 + WIDTH * 4


def test_it_has_the_result_of_the_norm_of_torch():
    made, (tokens, gate) = norm(), inputs()
    passed = tokens * F.silu(gate)
    torch.testing.assert_close(made(tokens, gate), F.rms_norm(passed, (WIDTH,), made.weight, EPS))
