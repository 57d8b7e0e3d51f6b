"""What it costs to be able to recover, when nothing happens: steps with and without it, in turn, in one process.

    python benchmarks/guard.py

Bar: 2 %. With: the training's own step, which keeps random numbers and buffers for a second attempt, looks for memory
that ran out and for what is not finite, counts, sets rates, and asks after every step whether to save or stop. Without:
the same forward and backward, clipping and optimizer step alone. The loader, and what is logged, are in neither.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_module

from vibench.config import schemas
from vibench.config.resolve import resolve
from vibench.data.build import build
from vibench.memory.plan import fit as plan_memory
from vibench.model import build_model, targets
from vibench.training.fit import promised_steps
from vibench.training.keeper import Keeper
from vibench.training.training import Training

PAIRS = 300
CPU = torch.device("cpu")
CASES = {"default (patchtst)": (), "dlinear": ("backbone=dlinear",)}


def measure(overrides: tuple[str, ...]) -> tuple[list[float], float]:
    """Ratios with / without, pair by pair, and milliseconds of a step without."""
    fixed = ("hardware=cpu", "training.epochs=1000", "training.save_every_s=1000000")
    with initialize_config_module("vibench.conf", version_base="1.3"):
        config = resolve(compose("train", [*fixed, *overrides]))
    data = build(config.data, targets(config))
    sizes = {"n_channels": data.n_channels, "n_classes": len(data.classes)}
    loader = data.loader("train", config.training.global_batch_size, seed=0)
    training = Training(
        build_model(config, **sizes),
        config.task,
        config.training,
        plan_memory(config, **sizes),
        device=CPU,
        total_steps=promised_steps(data, config),
        per_epoch=len(loader),
        log_every=10**9,
        write=lambda values: None,
        windows=lambda epoch, number: [],
        note=lambda event: None,
        lr_scale=1.0,
        nans=0,
    )
    batch = next(iter(loader))
    ratios, without = [], []
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(training, Path(folder), {}, None, config.training.save_every_s)
        for number in range(PAIRS + 10):
            took = {}
            for name in ("with", "without") if number % 2 else ("without", "with"):
                began = time.perf_counter()
                if name == "with":
                    training.train_on(batch)
                    keeper.after_step()
                else:
                    factors = training.weighing.factors()
                    micro = training.plan.micro_batch
                    shares = training.step.gradient(batch, factors, micro_batch=micro, measure=False)
                    training.step.update(training.optimizer, shares, lambda *_: True)
                took[name] = time.perf_counter() - began
            if number >= 10:  # the first ones warm up
                ratios.append(took["with"] / took["without"])
                without.append(took["without"])
    return ratios, statistics.median(without) * 1000


def main() -> None:
    torch.set_num_threads(1)
    schemas.register()
    print(f"{'model':<20}{'ms/step':>10}{'ratio':>8}   quartiles of {PAIRS} pairs   (bar 1.02)")
    for name, overrides in CASES.items():
        ratios, milliseconds = measure(overrides)
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:<20}{milliseconds:>10.1f}{middle:>8.3f}   {low:.3f} to {high:.3f}", flush=True)


if __name__ == "__main__":
    main()
