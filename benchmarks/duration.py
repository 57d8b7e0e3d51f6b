"""The estimated seconds of a training step against the measured ones, on this CPU.

    python benchmarks/duration.py

The rates that a data sheet says of a card are measured here: a product of two matrices, a copy. Every backbone, four
tasks, batches of 32; the median of real steps over the estimate. On a card this ratio is what runs remember and correct
the next estimate by (``vibench/memory/measured.py``), so what counts is how far the backbones lie apart.
"""

import dataclasses
import statistics
import time

import torch
from hydra import compose, initialize_config_module

from vibench.config import schemas
from vibench.config.experiment import ExperimentConfig
from vibench.config.resolve import resolve
from vibench.config.training import TaskWeights
from vibench.data.batch import blank_batch
from vibench.memory.trace import CPU, Levers
from vibench.memory.work import count
from vibench.model import build_model, targets
from vibench.step.optimizer import build_optimizer
from vibench.step.step import Step
from vibench.step.task_weights import Weighing

SIZES = {"n_channels": 3, "n_classes": 4}
BACKBONES = ("dlinear", "patchtst", "transformer", "mamba2", "fno", "tcn", "resnet1d", "timesnet")
BATCH, STEPS = 32, 9
FP32 = Levers(precision="fp32", checkpointing="none")


def best(run: object, rounds: int = 7) -> float:
    """Seconds of the quickest of some calls."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return min(took)


def rates() -> tuple[float, float]:
    """10^12 operations a second, and 10^9 bytes a second read and written."""
    a, b = torch.ones(1024, 1024), torch.ones(1024, 1024)
    long, other = torch.ones(2**26), torch.empty(2**26)
    return 2 * 1024**3 / best(lambda: a @ b) / 1e12, 2 * long.nbytes / best(lambda: other.copy_(long)) / 1e9


def measured(config: ExperimentConfig) -> float:
    """Seconds of a real step."""
    host = blank_batch(targets(config), BATCH, SIZES["n_channels"], config.data.window)
    host.signal.normal_()
    model = build_model(config, **SIZES)
    weighing = Weighing(model, config.task, TaskWeights.fixed)
    optimizer = build_optimizer(model, weighing, config.training, "fp32", "device")
    off = torch.amp.GradScaler("cpu", enabled=False)
    step = Step(model, weighing, config.training, precision="fp32", scaler=off, device=CPU)
    took = []
    for _ in range(STEPS):
        began = time.perf_counter()
        step(host, optimizer, weighing.factors(), micro_batch=BATCH, measure=False, check=lambda shares, norm: True)
        took.append(time.perf_counter() - began)
    return statistics.median(took[2:])


def main() -> None:
    schemas.register()
    tflops, bandwidth = rates()
    print(f"{tflops:.3f} TFLOPS, {bandwidth:.1f} GB/s, {torch.get_num_threads()} threads")
    print(f"{'backbone':<12}{'estimate ms':>12}{'measured ms':>12}{'ratio':>8}")
    ratios = []
    for backbone in BACKBONES:
        with initialize_config_module("vibench.conf", version_base="1.3"):
            config = resolve(compose("train", ["hardware=cpu", f"backbone={backbone}"]))
        hardware = dataclasses.replace(config.hardware, fp32_tflops=tflops, bandwidth_gbs=bandwidth)
        seconds = count(config, FP32, **SIZES).seconds(BATCH, hardware)
        estimate, took = seconds.part + seconds.update, measured(config)
        ratios.append(took / estimate)
        print(f"{backbone:<12}{1e3 * estimate:>12.1f}{1e3 * took:>12.1f}{ratios[-1]:>8.2f}", flush=True)
    median = statistics.median(ratios)
    apart = max(max(ratio / median, median / ratio) for ratio in ratios)
    print(f"median {median:.2f}, the farthest from it by a factor of {apart:.2f}")


if __name__ == "__main__":
    main()
