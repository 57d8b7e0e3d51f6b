"""The predicted memory of a training step against what the CPU allocator really gave out.

    python benchmarks/memory.py

Four tasks; every backbone x {fp32, bf16} x {none, selective, full} checkpointing x micro-batches of 1, 3 and 16
windows. The real peak is summed from the allocator's own events (``torch.profiler``), two real optimizer steps. Bar:
median error at most 1 %, worst 3 %, never more than 1 % below.
"""

import gc
import statistics
from typing import Any

import torch
from hydra import compose, initialize_config_module
from torch.profiler import ProfilerActivity, profile

from vibench.config import schemas
from vibench.config.experiment import ExperimentConfig
from vibench.config.resolve import resolve
from vibench.config.training import TaskWeights
from vibench.data.batch import blank_batch
from vibench.memory.trace import CPU, Levers, live_peak, trace
from vibench.model import build_model, targets
from vibench.step.checkpointing import checkpoint_blocks
from vibench.step.optimizer import build_optimizer
from vibench.step.scores import Scores
from vibench.step.step import Step
from vibench.step.task_weights import Weighing

SIZES = {"n_channels": 3, "n_classes": 4}
BACKBONES = {
    "dlinear": (),
    "patchtst": (),
    "transformer": (),
    "mamba2": (),
    "fno": (),
    "tcn": (),
    "resnet1d": (),
    "timesnet": ("backbone.period=4",),  # without it a trace takes the most there can be
}
SOUND = lambda shares, norm: True  # noqa: E731  what is not finite is not looked for


def real_peak(config: ExperimentConfig, levers: Levers, micro_batch: int) -> int:
    """Most bytes that the allocator had given out at once."""
    gc.collect()  # what an earlier model left must not be freed in the middle
    host = blank_batch(targets(config), 2 * micro_batch, SIZES["n_channels"], config.data.window)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model = build_model(config, **SIZES)
        checkpoint_blocks(model, levers.checkpointing)
        weighing = Weighing(model, config.task, TaskWeights.fixed)
        optimizer = build_optimizer(model, weighing, config.training, levers.precision, "device")
        off = torch.amp.GradScaler("cpu", enabled=False)
        scores = Scores(model)  # of the validation, which are there from the start
        step = Step(model, weighing, config.training, precision=levers.precision, scaler=off, device=CPU)
        for _ in range(2):
            step(host, optimizer, weighing.factors(), micro_batch=micro_batch, measure=True, check=SOUND)
        del scores
    profiler: Any = profiled.profiler
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def errors(backbone: str, overrides: tuple[str, ...]) -> list[float]:
    """Relative error of every combination."""
    with initialize_config_module("vibench.conf", version_base="1.3"):
        config = resolve(compose("train", ["hardware=cpu", f"backbone={backbone}", *overrides]))
    blocks = hasattr(build_model(config, **SIZES).backbone, "blocks")
    found = []
    for precision in ("fp32", "bf16"):
        for checkpointing in ("none", "selective", "full") if blocks else ("none",):
            levers = Levers(precision=precision, checkpointing=checkpointing)
            traced = trace(config, levers, **SIZES)
            for micro_batch in (1, 3, 16):
                predicted, _ = live_peak(traced.blocks(micro_batch), traced.events(2))
                found.append(predicted / real_peak(config, levers, micro_batch) - 1)
    return found


def main() -> None:
    schemas.register()
    print(f"{'backbone':<12}{'cases':>6}{'median':>9}{'least':>9}{'greatest':>10}   (bar: 1 %, -1 %, 3 %)")
    everything = []
    for backbone, overrides in BACKBONES.items():
        found = errors(backbone, overrides)
        everything += found
        median = statistics.median(abs(error) for error in found)
        print(f"{backbone:<12}{len(found):>6}{median:>9.2%}{min(found):>9.2%}{max(found):>10.2%}", flush=True)
    median = statistics.median(abs(error) for error in everything)
    print(f"{'all':<12}{len(everything):>6}{median:>9.2%}{min(everything):>9.2%}{max(everything):>10.2%}")


if __name__ == "__main__":
    main()
