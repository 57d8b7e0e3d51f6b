"""TimesNet and FNO a second time, as plain as possible: written from the papers, slow, and free of vibench's code.

They take only parameters and sizes from a vibench module. The ``published_*`` are batched, in the way of the public
implementations, for the benchmark: the speed of code that does nothing clever.

Shapes: S sequences, N tokens, D model width, F frequencies.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def dft(sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of frequencies 0..N/2 of (N, D), by the definition."""
    n = len(sequence)
    turn = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    real = [(sequence * torch.cos(f * turn)[:, None]).sum(0) for f in range(n // 2 + 1)]
    imaginary = [-(sequence * torch.sin(f * turn)[:, None]).sum(0) for f in range(n // 2 + 1)]
    return torch.stack(real), torch.stack(imaginary)


def inverse_dft(real: Tensor, imaginary: Tensor, n: int) -> Tensor:
    """The real sequence (N, D) of given lowest frequencies; others are zero.

    A frequency stands for itself and its conjugate, but the constant and, of an even N, N/2 are their own.
    """
    tokens = []
    for token in range(n):
        total = torch.zeros_like(real[0])
        for f in range(len(real)):
            once = f == 0 or 2 * f == n
            angle = 2 * math.pi * f * token / n
            total = total + (1 if once else 2) * (real[f] * math.cos(angle) - imaginary[f] * math.sin(angle)) / n
        tokens.append(total)
    return torch.stack(tokens)


def strongest(sequence: Tensor, k: int) -> tuple[list[int], Tensor]:
    """The k periods of a sequence (N, D) and their weights (k,): equations 1 and 6 of the TimesNet paper."""
    n = len(sequence)
    real, imaginary = dft(sequence.double())
    amplitude = (real.square() + imaginary.square()).sqrt().mean(1)
    frequencies = sorted(range(1, n // 2 + 1), key=lambda f: -amplitude[f].item())[:k]
    return [math.ceil(n / f) for f in frequencies], torch.softmax(amplitude[frequencies], 0)


def plain_inception(inception: nn.Module, planes: Tensor) -> Tensor:
    """One convolution after the other, each over the whole zero-padded plane, and their mean."""
    results = [F.conv2d(planes, c.weight, c.bias, padding=c.kernel_size[0] // 2) for c in inception.kernels]
    return torch.stack(results).mean(0)


def plain_fold(block: nn.Module, sequence: Tensor, period: int) -> Tensor:
    """Fold (N, D) into rows of a period, convolve, GELU, convolve, unfold."""
    n, d = sequence.shape
    rows = math.ceil(n / period)
    cells = [sequence[token] if token < n else torch.zeros_like(sequence[0]) for token in range(rows * period)]
    plane = torch.stack([torch.stack(cells[row * period : (row + 1) * period], 1) for row in range(rows)], 1)
    assert plane.shape == (d, rows, period)
    plane = plain_inception(block.narrow, F.gelu(plain_inception(block.widen, plane[None])))[0]
    return torch.stack([plane[:, token // period, token % period] for token in range(n)])


def plain_timesnet_block(block: nn.Module, tokens: Tensor, period: int | None = None) -> Tensor:
    """(S, N, D) -> (S, N, D), one sequence after the other; a period folds all of them by it alone."""
    results = []
    for sequence in tokens:
        periods, weights = ([period], torch.ones(1)) if period else strongest(sequence, block.top_k)
        total = sequence
        for p, weight in zip(periods, weights, strict=True):
            total = total + plain_fold(block, sequence, p) * weight.to(sequence.dtype)
        results.append(total)
    return torch.stack(results)


def plain_timesnet(model: nn.Module, tokens: Tensor) -> Tensor:
    """Blocks, each followed by the one normalisation of a token's features; no dropout."""
    for block in model.blocks:
        tokens = plain_timesnet_block(block, tokens)
        mean, variance = tokens.mean(2, keepdim=True), tokens.var(2, correction=0, keepdim=True)
        tokens = (tokens - mean) / (variance + model.norm.eps).sqrt() * model.norm.weight + model.norm.bias
    return tokens


def plain_spectral(weight: Tensor, tokens: Tensor) -> Tensor:
    """(S, N, W) -> (S, N, W) by complex matrices (M, W, W, 2), real and imaginary part last."""
    results = []
    for sequence in tokens:
        real, imaginary = dft(sequence)
        mixed_real, mixed_imaginary = [], []
        for f, matrix in enumerate(weight):
            a, b = matrix[..., 0], matrix[..., 1]
            mixed_real.append(real[f] @ a - imaginary[f] @ b)
            mixed_imaginary.append(real[f] @ b + imaginary[f] @ a)
        results.append(inverse_dft(torch.stack(mixed_real), torch.stack(mixed_imaginary), len(sequence)))
    return torch.stack(results)


def plain_fno(model: nn.Module, tokens: Tensor) -> Tensor:
    """(S, N, D) -> (S, N, D), in double precision."""

    def linear(layer: nn.Linear, x: Tensor) -> Tensor:
        return x @ layer.weight.double().T + layer.bias.double()

    tokens = linear(model.lift, tokens.double())
    for number, layer in enumerate(model.blocks):
        tokens = plain_spectral(layer.spectral.weight.double(), tokens) + linear(layer.local, tokens)
        if number < len(model.blocks) - 1:
            tokens = F.gelu(tokens)
    return linear(model.project, tokens)


def published_timesnet_block(block: nn.Module, tokens: Tensor) -> Tensor:
    """(S, N, D) -> (S, N, D) with the periods of the mean spectrum for all sequences; weights are a sequence's own.

    Of one sequence it is the block of the paper. K convolutions per inception and k planes, one after the other.
    """
    s, n, d = tokens.shape
    amplitude = torch.fft.rfft(tokens, dim=1).abs()
    mean = amplitude.detach().mean((0, 2))
    mean[0] = 0
    frequencies = mean.topk(block.top_k).indices
    weights = torch.softmax(amplitude.mean(2)[:, frequencies], 1)
    varied = []
    for frequency in frequencies.tolist():
        period = math.ceil(n / frequency)
        padding = -n % period
        planes = torch.cat([tokens, tokens.new_zeros(s, padding, d)], 1) if padding else tokens
        planes = planes.reshape(s, -1, period, d).permute(0, 3, 1, 2)
        planes = plain_inception(block.narrow, F.gelu(plain_inception(block.widen, planes)))
        varied.append(planes.permute(0, 2, 3, 1).reshape(s, -1, d)[:, :n])
    return (torch.stack(varied, -1) * weights[:, None, None, :]).sum(-1) + tokens


def published_timesnet(model: nn.Module, tokens: Tensor) -> Tensor:
    """(S, N, D) -> (S, N, D)."""
    for block in model.blocks:
        tokens = model.norm(published_timesnet_block(block, tokens))
    return tokens


class PublishedFNO(nn.Module):
    """The weights of a vibench FNO in the layout of the public implementations: features before time, complex.

    Args:
        model: the FNO whose weights are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.lift, self.project = (nn.Linear(p.in_features, p.out_features) for p in (model.lift, model.project))
        self.lift.load_state_dict(model.lift.state_dict())
        self.project.load_state_dict(model.project.state_dict())
        self.spectral, self.local = nn.ParameterList(), nn.ModuleList()
        for layer in model.blocks:
            weight = torch.view_as_complex(layer.spectral.weight.detach()).permute(1, 2, 0)  # (in, out, mode)
            self.spectral.append(nn.Parameter(weight.clone(memory_format=torch.contiguous_format)))
            local = nn.Conv1d(layer.local.in_features, layer.local.out_features, 1)
            local.weight.data, local.bias.data = layer.local.weight.detach()[..., None].clone(), layer.local.bias.data
            self.local.append(local)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        x = self.lift(tokens).permute(0, 2, 1)
        for number, (weight, local) in enumerate(zip(self.spectral, self.local, strict=True)):
            spectrum = torch.fft.rfft(x)
            modes = weight.shape[2]
            mixed = torch.zeros(len(x), weight.shape[1], spectrum.shape[2], dtype=torch.cfloat, device=x.device)
            mixed[:, :, :modes] = torch.einsum("bix,iox->box", spectrum[:, :, :modes], weight)
            x = torch.fft.irfft(mixed, n=x.shape[2]) + local(x)
            if number < len(self.spectral) - 1:
                x = F.gelu(x)
        return self.project(x.permute(0, 2, 1))
