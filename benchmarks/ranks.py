"""The predicted memory of one of two processes that train together against what the CPU's allocator gave it.

    python benchmarks/ranks.py

Replicated and sharded, on gloo; the second of two steps, as weights and state are there by then. What the sharding
library has in flight differs from run to run.
"""

import gc
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hydra import compose, initialize_config_module
from torch.profiler import ProfilerActivity, profile

from vibench.config import schemas
from vibench.config.experiment import ExperimentConfig
from vibench.config.resolve import resolve
from vibench.config.training import TaskWeights
from vibench.data.batch import blank_batch
from vibench.memory.placement import replicated, sharded
from vibench.memory.trace import CPU, Levers, live_peak, trace
from vibench.model import build_model, targets
from vibench.step.optimizer import build_optimizer
from vibench.step.ranks import shard
from vibench.step.scores import Scores
from vibench.step.step import Step
from vibench.step.task_weights import Weighing

SIZES = {"n_channels": 3, "n_classes": 4}
RANKS, MIB = 2, 2**20
CASES = {  # name -> windows of a micro-batch, overrides
    "activations": (32, ("d_model=128", "backbone.d_ff=256", "backbone.e_layers=4")),
    "six blocks": (4, ("d_model=256", "backbone.d_ff=1024", "backbone.e_layers=6")),
    "four wide blocks": (2, ("d_model=256", "backbone.d_ff=2048", "backbone.e_layers=4")),
}
SOUND = lambda shares, norm: True  # noqa: E731  what is not finite is not looked for


def composed(overrides: tuple[str, ...]) -> ExperimentConfig:
    schemas.register()
    with initialize_config_module("vibench.conf", version_base="1.3"):
        return resolve(compose("train", ["hardware=cpu", "backbone=transformer", *overrides]))


def predicted(overrides: tuple[str, ...], micro_batch: int, sharding: bool) -> float:
    """MiB alive at most on a rank."""
    config = composed(overrides)
    traced = trace(config, Levers(precision="fp32", checkpointing="none"), **SIZES)
    blocks, events = traced.blocks(micro_batch), traced.events(2)
    if sharding:
        with torch.device("meta"):
            found = sharded(blocks, events, build_model(config, **SIZES), RANKS)
    else:
        found = replicated(blocks, events)
    return live_peak(*found)[0] / MIB


def measure(rank: int, folder: str, overrides: tuple[str, ...], micro_batch: int, sharding: bool) -> None:
    """One rank: two steps, the second under the profiler."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=RANKS)
    config = composed(overrides)
    host = blank_batch(targets(config), RANKS * 2 * micro_batch, SIZES["n_channels"], config.data.window)
    model = build_model(config, **SIZES)
    scores = Scores(model)
    if sharding:
        shard(model, CPU)
    weighing = Weighing(model, config.task, TaskWeights.fixed)
    optimizer = build_optimizer(model, weighing, config.training, "fp32", "device")
    off = torch.amp.GradScaler("cpu", enabled=False)
    step = Step(model, weighing, config.training, precision="fp32", scaler=off, device=CPU, sharded=sharding)

    def once() -> None:
        step(host, optimizer, weighing.factors(), micro_batch=micro_batch, measure=True, check=SOUND)

    once()
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        once()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    there = [*model.parameters(), *(tensor for state in optimizer.state.values() for tensor in state.values())]
    lasting = sum(getattr(tensor, "_local_tensor", tensor).nbytes for tensor in there)
    metrics = 2 * sum(t.nbytes for m in scores.modules() for t in getattr(m, "_defaults", {}).values())
    if rank == 0:
        with open(f"{folder}/peak", "w") as file:
            file.write(str((peak + lasting + metrics) / MIB))
    dist.destroy_process_group()


def main() -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    print(f"{'case':<20}{'weights':<12}{'predicted MiB':>14}{'measured MiB':>14}{'error':>8}")
    for name, (micro_batch, overrides) in CASES.items():
        for sharding in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(measure, (folder, overrides, micro_batch, sharding), nprocs=RANKS)
                with open(f"{folder}/peak") as file:
                    real = float(file.read())
            told = predicted(overrides, micro_batch, sharding)
            how = "sharded" if sharding else "replicated"
            print(f"{name:<20}{how:<12}{told:>14.1f}{real:>14.1f}{told / real - 1:>8.1%}", flush=True)


if __name__ == "__main__":
    main()
