"""What a step of vibench's TimesNet and FNO costs against their plainest correct code, paired in one process.

    python -m benchmarks.fidelity

Bar: at most 1.5 times the plainest batched code of tests/backbones/plain.py. A step is forward and backward pass in
fp32 at the sizes of throughput.py: 32 sequences of 32 tokens, d_model 32, 2 layers, d_ff or width 64; one thread.

The plain TimesNet takes the periods of the mean spectrum for all sequences, as the public code does, so it convolves
5 planes a block, whatever comes in; vibench, as the paper, finds the periods of every sequence. Noise is its hardest
input, since every sequence has periods of its own. The plain code that goes sequence by sequence does the paper's
work; it has no bar.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.backbones.plain import PublishedFNO, plain_timesnet, published_timesnet
from vibench.backbones.fno import FNO
from vibench.backbones.timesnet import TimesNet

SEQUENCES, TOKENS, WIDTH = 32, 32, 32
PAIRS = 21


def seconds(code: Callable[[Tensor], Tensor], tokens: Tensor, parameters: list[nn.Parameter]) -> float:
    """CPU time of a forward and backward pass."""
    for parameter in parameters:
        parameter.grad = None
    tokens = tokens.clone().requires_grad_()  # an embedding before it learns too
    start = time.process_time()
    code(tokens).square().mean().backward()
    return time.process_time() - start


def paired(
    ours: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], models: list[nn.Module], tokens: Tensor, n: int
) -> tuple[list[float], list[float]]:
    """Seconds of vibench and of the plain code, pair by pair."""
    parameters = [p for model in models for p in model.parameters()]
    took: dict[Callable[[Tensor], Tensor], list[float]] = {ours: [], plain: []}
    for number in range(n + 1):
        for code in (ours, plain) if number % 2 else (plain, ours):
            elapsed = seconds(code, tokens, parameters)
            if number:  # the first pair warms up
                took[code].append(elapsed)
    return took[ours], took[plain]


def inputs() -> dict[str, Tensor]:
    """Noise, where every sequence has periods of its own, and one hum with a little noise, where they are shared."""
    noise = torch.randn(SEQUENCES, TOKENS, WIDTH)
    turns = torch.arange(TOKENS)[None, :, None] / TOKENS
    phase = 2 * torch.pi * torch.rand(SEQUENCES, 1, WIDTH)
    hum = sum(torch.sin(2 * torch.pi * f * turns + phase) for f in (1, 2, 4, 6, 8))  # top_k of them
    return {"noise": noise, "hum": hum + 0.1 * noise}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    timesnet = TimesNet(
        n_tokens=TOKENS, d_model=WIDTH, e_layers=2, d_ff=64, top_k=5, period=None, num_kernels=6, dropout=0.0
    )
    fno = FNO(n_tokens=TOKENS, d_model=WIDTH, e_layers=2, modes=16, width=64)
    published_fno = PublishedFNO(fno)

    def batched(tokens: Tensor) -> Tensor:
        return published_timesnet(timesnet, tokens)

    def one_by_one(tokens: Tensor) -> Tensor:
        return plain_timesnet(timesnet, tokens)

    cases = [
        ("timesnet", "batched", "noise", timesnet, batched, [timesnet], PAIRS),
        ("timesnet", "batched", "hum", timesnet, batched, [timesnet], PAIRS),
        ("timesnet", "by sequence", "noise", timesnet, one_by_one, [timesnet], 3),
        ("fno", "batched", "noise", fno, published_fno, [fno, published_fno], 10 * PAIRS),
    ]
    tokens = inputs()
    print(f"{'backbone':<10}{'plain code':<13}{'tokens':<8}{'ms':>8}{'plain ms':>10}{'ratio':>7}   pairs")
    for name, against, kind, ours, plain, models, n in cases:
        a, b = paired(ours, plain, models, tokens[kind], n)
        ratios = [x / y for x, y in zip(a, b, strict=True)]
        times = f"{statistics.median(a) * 1000:>8.1f}{statistics.median(b) * 1000:>10.1f}"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:<10}{against:<13}{kind:<8}{times}{statistics.median(ratios):>7.2f}   {spread}", flush=True)


if __name__ == "__main__":
    main()
