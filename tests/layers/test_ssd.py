"""The state-space scan against its recurrence, and the layer around it against a sequential one.

Shapes: S sequences, N tokens, D model width, H heads of P features, K states.
"""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from vibench.layers.scan import fused_scan, scan
from vibench.layers.ssd import Mamba2

S, N, H, P, K = 2, 37, 3, 4, 5  # no chunk below divides 37 tokens, but one
CHUNKS = [1, 2, 5, 16, 64]  # the last is longer than the sequence
SIZES = {"d_model": 6, "d_state": 5, "d_conv": 3, "expand": 2, "head_dim": 4, "chunk": 4, "fused": False}  # three heads


def recurrence(values, step, rate, write, read):
    """h[t] = exp(step[t] rate) h[t-1] + step[t] write[t] values[t], y[t] = read[t] h[t], token by token."""
    s, n, heads, p = values.shape
    out = []
    state = values.new_zeros(s, heads, p, write.shape[-1])
    for t in range(n):
        added = values[:, t, :, :, None] * write[:, t, None, None, :] * step[:, t, :, None, None]
        state = torch.exp(step[:, t] * rate)[..., None, None] * state + added
        out.append((state * read[:, t, None, None, :]).sum(-1))
    return torch.stack(out, dim=1)


def unbound(values, step, rate, write, read):
    """The recurrence with time unbound first: its backward pass is of one token at a time too, and not quadratic."""
    every = zip(*(tensor.unbind(1) for tensor in (values, step, write, read)), strict=True)
    state, out = 0, []
    for value, length, to, where in every:
        added = (value * length[..., None])[..., None] * to[:, None, None]
        state = torch.exp(length * rate)[..., None, None] * state + added
        out.append((state * where[:, None, None]).sum(-1))
    return torch.stack(out, dim=1)


def inputs(n=N, dtype=torch.float64, p=P, k=K):
    """Steps and rates over the initial ranges of a layer, so that decays of a token go from nearly none to e^-1.6."""
    random = torch.Generator().manual_seed(0)
    values = torch.randn(S, n, H, p, generator=random, dtype=dtype)
    step = torch.exp(torch.empty(S, n, H, dtype=dtype).uniform_(math.log(0.001), math.log(0.1), generator=random))
    rate = -torch.tensor([1.0, 4.0, 16.0], dtype=dtype)
    write, read = torch.randn(2, S, n, k, generator=random, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (values, step, rate, write, read)]


def layer(**changed):
    """Every parameter of a size that shows; fresh, the skip is one and the norm leaves all as it is."""
    torch.manual_seed(0)
    made = Mamba2(**SIZES | changed)
    for parameter in (made.skip, made.norm.weight):
        torch.nn.init.normal_(parameter, mean=1)
    torch.nn.init.uniform_(made.step_bias, -2, 1)
    torch.nn.init.uniform_(made.log_decay, -2, 1)  # a past that is seen for some tokens
    return made


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_scan_is_the_recurrence_whatever_the_chunk(chunk, dtype, tolerance):
    given = inputs(dtype=dtype)
    torch.testing.assert_close(scan(*given, chunk), recurrence(*given), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [1, 4, 5, 8])  # one token, one whole chunk, one more, two whole chunks
def test_a_sequence_of_any_length_is_scanned(n):
    given = inputs(n)
    torch.testing.assert_close(scan(*given, 4), recurrence(*given), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_gradients_of_the_scan_are_those_of_the_recurrence(chunk):
    given = inputs()
    direction = torch.randn(S, N, H, P, dtype=torch.float64)
    found = torch.autograd.grad((scan(*given, chunk) * direction).sum(), given)
    expected = torch.autograd.grad((recurrence(*given) * direction).sum(), given)
    for name, ours, theirs in zip(("values", "step", "rate", "write", "read"), found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("chunk", [4, 16, 64])
def test_a_minute_of_tokens_and_its_gradients_are_those_of_the_recurrence_in_single_precision(chunk):
    given = inputs(960, torch.float32)
    direction = torch.randn(S, 960, H, P)
    ours, theirs = scan(*given, chunk), unbound(*given)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    found, expected = (torch.autograd.grad((out * direction).sum(), given) for out in (ours, theirs))
    for name, one, other in zip(("values", "step", "rate", "write", "read"), found, expected, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm(), name


@pytest.mark.parametrize("n", [8, 37])
def test_the_skip_adds_its_share_of_the_values(n):
    given, skip = inputs(n), torch.randn(H, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(S, n, H, P, dtype=torch.float64)
    outs = scan(*given, 4, skip), recurrence(*given) + skip[:, None] * given[0]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-12, atol=1e-12)
    found, expected = (torch.autograd.grad((out * direction).sum(), [*given, skip]) for out in outs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradients_that_nobody_asks_for_are_left_out():
    values, *rest = inputs()
    out = scan(values, *(tensor.detach() for tensor in rest), 5)
    (found,) = torch.autograd.grad(out.sum(), values)
    (expected,) = torch.autograd.grad(recurrence(values, *rest).sum(), values)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_gradient_of_the_gradient_is_refused():
    given = inputs()
    (found,) = torch.autograd.grad(scan(*given, 5).square().sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="trying to differentiate twice a function that was marked with"):
        found.sum().backward()


@pytest.mark.parametrize("chunk", [8, 64])
def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_chunk(chunk):
    """Pairs of tokens would be chunk / P times the values."""
    given, kept = inputs(128, torch.float32), {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = scan(*given, chunk)
    states = math.ceil(128 / chunk) * S * H * P * K * 4
    given_once = sum(tensor.nbytes for tensor in given)
    assert sum(kept.values()) <= given_once + out.nbytes + states + 2 * given[1].nbytes


def test_the_backward_pass_is_in_single_precision_under_autocast_too():
    given = inputs(64, torch.float32)
    direction = torch.randn(S, 64, H, P)
    expected = torch.autograd.grad((scan(*given, 16) * direction).sum(), given)
    out = (scan(*given, 16) * direction).sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(out, given)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("chunk", [2, 4, 16])
def test_a_write_is_read_two_chunks_later_with_the_decay_between(chunk):
    """In closed form: read . write * step * values * exp(rate * sum of the steps after the write)."""
    values, step, rate, write, read = (tensor.detach() for tensor in inputs(12))
    values[:, [t for t in range(12) if t != 1]] = 0
    decay = torch.exp(rate * step[:, 2:11].sum(1))  # (S, H)
    overlap = (read[:, 10] * write[:, 1]).sum(-1)  # (S,)
    expected = (overlap[:, None] * step[:, 1] * decay)[..., None] * values[:, 1]
    torch.testing.assert_close(scan(values, step, rate, write, read, chunk)[:, 10], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [16, 64])
def test_a_decay_of_fifty_per_token_leaves_each_token_to_itself_with_finite_gradients(chunk):
    """Exponentials of what is masked would be infinite from the second token of a chunk on, and not a number below."""
    values, _, _, write, read = inputs(64, torch.float32)
    step = torch.full((S, 64, H), 5.0, requires_grad=True)
    rate = torch.full((H,), -10.0, requires_grad=True)
    out = scan(values, step, rate, write, read, chunk)
    alone = 5 * values * (read * write).sum(-1)[..., None, None]
    torch.testing.assert_close(out, alone, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(out.sum(), (values, step, rate, write, read))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("chunk", [16, 256])
def test_a_long_sequence_settles_at_the_sum_of_the_geometric_series(chunk):
    n, decay = 4096, 0.01  # per token, forgotten many times over
    ones = torch.ones(1, n, 1, requires_grad=True)
    step = torch.full((1, n, 1), decay, requires_grad=True)
    out = scan(torch.ones(1, n, 1, 1), step, torch.tensor([-1.0]), ones, ones, chunk)
    expected = torch.full((1, 1, 1), decay / (1 - math.exp(-decay)))
    torch.testing.assert_close(out[:, -1], expected, rtol=1e-4, atol=0)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(out.sum(), (ones, step)))


def test_a_step_of_zero_keeps_the_state_and_writes_nothing():
    values, step, rate, write, read = (tensor.detach() for tensor in inputs(6))
    step[:, 3:] = 0
    read[:] = read[:, :1]
    out = scan(values, step, rate, write, read, 4)
    torch.testing.assert_close(out[:, 3:], out[:, 2:3].expand(-1, 3, -1, -1))


def test_the_steps_start_between_a_thousandth_and_a_tenth():
    """As published: log-uniform. Many heads, so that the ends of the range show."""
    torch.manual_seed(0)
    made = Mamba2(d_model=1, d_state=1, d_conv=1, expand=20_000, head_dim=1, chunk=1, fused=False)
    step = F.softplus(made.step_bias.double())
    assert 0.001 * (1 - 1e-4) <= step.min() < 0.00105
    assert 0.095 < step.max() <= 0.1 * (1 + 1e-4)
    assert 0.009 < step.median() < 0.011  # the middle of the logarithms


def test_the_rates_of_decay_start_between_one_and_sixteen():
    torch.manual_seed(0)
    made = Mamba2(d_model=1, d_state=1, d_conv=1, expand=20_000, head_dim=1, chunk=1, fused=False)
    rate = made.log_decay.double().exp()
    assert 1 - 1e-5 <= rate.min() < 1.1
    assert 15.9 < rate.max() <= 16 + 1e-4
    assert 8.2 < rate.median() < 8.8  # uniform


def split(features, *widths):
    return features.split(list(widths), dim=-1)


def convolved(made, mixed):
    """Each feature on its own, the last tap on the token itself; then SiLU."""
    weight, bias = made.convolution.weight[:, 0], made.convolution.bias
    taps = weight.shape[-1]
    out = bias.expand_as(mixed).clone()
    for t in range(mixed.shape[1]):
        for tap in range(max(0, taps - 1 - t), taps):
            out[:, t] += mixed[:, t - taps + 1 + tap] * weight[:, tap]
    return out * torch.sigmoid(out)


def gated_scan(made, gate, mixed, step):
    """What the norm of a layer is given, from its features after the convolution, token by token."""
    values, write, read = split(mixed.float(), 12, 5, 5)
    values = values.unflatten(-1, (3, 4))
    step = torch.log1p(torch.exp(step.float() + made.step_bias))
    out = recurrence(values, step, -torch.exp(made.log_decay), write, read) + made.skip[:, None] * values
    return out.flatten(2) * gate


@pytest.mark.parametrize("d_conv", [1, 3, 4])
def test_the_layer_is_the_one_written_token_by_token(d_conv):
    made, tokens = layer(d_conv=d_conv), torch.randn(2, 11, 6)
    gate, mixed, step = split(tokens @ made.enter.weight.T, 12, 12 + 5 + 5, 3)
    gated = gated_scan(made, gate * torch.sigmoid(gate), convolved(made, mixed), step)
    normalised = gated / torch.sqrt(gated.square().mean(-1, keepdim=True) + 1e-5) * made.norm.weight
    torch.testing.assert_close(made(tokens), normalised @ made.leave.weight.T, rtol=1e-5, atol=1e-5)


def test_sums_over_tokens_stay_in_single_precision_under_autocast():
    """From the same features, rounded to bfloat16 by linear map and convolution, the scan loses nothing more."""
    made, tokens, seen = layer(chunk=16), torch.randn(2, 64, 6), []
    made.norm.register_forward_pre_hook(lambda norm, arguments: seen.append(arguments[0] * F.silu(arguments[1])))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made(tokens)
        gate, mixed, step = split(made.enter(tokens), 12, 12 + 5 + 5, 3)
        mixed = F.silu(made.convolution(mixed.transpose(1, 2))[..., :64].transpose(1, 2))
        gate = F.silu(gate)
    assert mixed.dtype is torch.bfloat16  # else nothing is shown
    torch.testing.assert_close(seen[0], gated_scan(made, gate, mixed, step), rtol=1e-5, atol=1e-5)


def test_autocast_changes_outputs_and_gradients_by_no_more_than_its_rounding():
    made, tokens = layer(chunk=16), torch.randn(2, 64, 6)
    exact = made(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(tokens).float()
    assert 0 < (rough - exact).norm() < 0.03 * exact.norm()
    gradients = [torch.autograd.grad(out.square().sum(), list(made.parameters())) for out in (rough, exact)]
    for (name, _), ours, theirs in zip(made.named_parameters(), *gradients, strict=True):
        assert (ours - theirs).norm() < 0.1 * theirs.norm(), name


@pytest.fixture(scope="module")
def mixers():
    """The mixer of transformers of our sizes, and its configuration."""
    transformers = pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")

    def make(**changed):
        sizes = SIZES | changed
        config = transformers.Mamba2Config(
            hidden_size=sizes["d_model"],
            num_heads=sizes["expand"] * sizes["d_model"] // sizes["head_dim"],
            head_dim=sizes["head_dim"],
            state_size=sizes["d_state"],
            conv_kernel=sizes["d_conv"],
            expand=sizes["expand"],
            chunk_size=sizes["chunk"],
            n_groups=1,
            num_hidden_layers=1,
            layer_norm_epsilon=1e-5,
            time_step_limit=(0.0, math.inf),
        )
        return module.Mamba2Mixer(config, 0)

    return make


THEIRS = {
    "enter.weight": "in_proj.weight",
    "convolution.weight": "conv1d.weight",
    "convolution.bias": "conv1d.bias",
    "step_bias": "dt_bias",
    "log_decay": "A_log",
    "skip": "D",
    "norm.weight": "norm.weight",
    "leave.weight": "out_proj.weight",
}


@pytest.mark.parametrize("changed", [{}, {"d_model": 8, "d_state": 16, "d_conv": 4, "chunk": 16}])
def test_the_layer_and_its_gradients_are_those_of_transformers(mixers, changed):
    ours, theirs = layer(**changed), mixers(**changed)
    theirs.load_state_dict({THEIRS[name]: tensor for name, tensor in ours.state_dict().items()})
    tokens = torch.randn(2, 37, ours.leave.out_features)
    direction = torch.randn_like(tokens)
    outs = [made(tokens) for made in (ours, theirs)]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-5, atol=1e-5)
    (sum(outs) * direction).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        other = expected[THEIRS[name]].grad
        assert (parameter.grad - other).norm() < 1e-5 * other.norm(), name


def test_off_a_gpu_a_fused_layer_is_the_plain_one():
    tokens = torch.randn(2, 11, 6)
    assert torch.equal(layer(fused=True)(tokens), layer()(tokens))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels of mamba_ssm run on a GPU alone")
@pytest.mark.parametrize("chunk", [16, 64, 100])
def test_the_fused_scan_is_the_plain_one_on_a_gpu(chunk):
    pytest.importorskip("mamba_ssm", reason="mamba_ssm is not installed")
    given = [tensor.detach().cuda().requires_grad_() for tensor in inputs(200, torch.float32, p=8, k=16)]
    ours, theirs = scan(*given, chunk), fused_scan(*given, chunk)
    assert (theirs - ours).norm() < 1e-2 * ours.norm()  # its products are in TF32
    found, expected = (torch.autograd.grad(out.square().sum(), given) for out in (theirs, ours))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 2e-2 * other.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels of mamba_ssm run on a GPU alone")
def test_a_fused_layer_is_the_plain_one_on_a_gpu():
    pytest.importorskip("mamba_ssm", reason="mamba_ssm is not installed")
    plain, tokens = layer(d_model=8, head_dim=8, d_state=16).cuda(), torch.randn(2, 200, 8, device="cuda")
    fused = copy.deepcopy(plain)
    fused.fused = True
    assert (fused(tokens) - plain(tokens)).norm() < 1e-2 * plain(tokens).norm()
