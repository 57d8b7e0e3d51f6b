"""What vibench's training loop costs over a bare PyTorch loop on the same model and batches, paired in one process.

    python benchmarks/loop.py

Bar: the bare loop is at most 8 % faster. Both do the same work per step: the same loader, forward pass, four losses,
backward, clipping, learning rate and AdamW step, then zero_grad; neither validates. A step is the time from one forward
pass to the next, so that neither pays for its set-up.
"""

import statistics
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path

import torch
from hydra import compose, initialize_config_module

from vibench.config import schemas
from vibench.config.experiment import ExperimentConfig
from vibench.config.resolve import resolve
from vibench.data.build import build
from vibench.data.loader import Data
from vibench.memory.plan import fit as plan_memory
from vibench.model import Model, build_model, targets
from vibench.training.fit import fit
from vibench.training.schedule import lr_factor

STEPS, ROUNDS = 20, 21
CASES = {"default (patchtst)": (), "dlinear": ("backbone=dlinear",)}


def clocked(model: Model) -> list[tuple[float, float]]:
    """Wall and CPU time at every forward pass, as they come."""
    times: list[tuple[float, float]] = []
    model.embedding.register_forward_pre_hook(lambda *_: times.append((time.perf_counter(), time.process_time())))
    return times


def per_step(times: list[tuple[float, float]]) -> tuple[float, float]:
    """Median wall and CPU seconds from one forward pass to the next: the machine's other work is not the loop's."""
    assert len(times) == STEPS
    walls, cpus = zip(*times, strict=True)
    return tuple(statistics.median(b - a for a, b in pairwise(clock)) for clock in (walls, cpus))


def bare(model: Model, data: Data, config: ExperimentConfig) -> None:
    lr, decay = config.training.lr, config.training.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, fused=True)  # as vibench's
    loader = data.loader("train", config.training.global_batch_size, seed=config.seed)
    model.train()
    for step, batch in enumerate(islice(loader, STEPS)):
        for group in optimizer.param_groups:
            rate = lr_factor(step, STEPS, config.training.warmup_steps, config.training.schedule)
            group["lr"] = config.training.lr * rate
        predictions = model(batch)
        loss = 0
        for name, task in model.tasks.items():
            target, present = batch.targets[name], batch.present[name]
            mean = task.loss(predictions[name], target, present) / task.count(present).clamp(min=1)
            loss = loss + config.task[name].weight * mean
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def vibench(model: Model, data: Data, config: ExperimentConfig, sizes: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model,
            data,
            config,
            plan_memory(config, **sizes),
            device=torch.device("cpu"),
            run_dir=Path(folder),
            identity={},
        )


def compare(overrides: tuple[str, ...]) -> tuple[list[float], list[float], float]:
    """Ratios vibench / bare of wall and CPU time, pair by pair, and milliseconds of a bare step."""
    fixed = (
        "hardware=cpu",
        "training.monitor=null",
        "data.split.fractions=[0.6,0,0.4]",
        "training.warmup_steps=5",
        f"training.max_steps={STEPS}",
    )
    with initialize_config_module("vibench.conf", version_base="1.3"):
        config = resolve(compose("train", [*fixed, *overrides]))
    data = build(config.data, targets(config))
    sizes = {"n_channels": data.n_channels, "n_classes": len(data.classes)}
    walls, cpus, milliseconds = [], [], []
    for round_number in range(ROUNDS + 1):
        took = {}
        for name in ("bare", "vibench") if round_number % 2 else ("vibench", "bare"):
            model = build_model(config, **sizes)
            times = clocked(model)
            bare(model, data, config) if name == "bare" else vibench(model, data, config, sizes)
            took[name] = per_step(times)
        if round_number:  # the first pair warms up
            walls.append(took["vibench"][0] / took["bare"][0])
            cpus.append(took["vibench"][1] / took["bare"][1])
            milliseconds.append(took["bare"][0] * 1000)
    return walls, cpus, statistics.median(milliseconds)


def main() -> None:
    torch.set_num_threads(1)  # less noise; a bare step costs more, vibench's share of it about the same
    schemas.register()
    print(f"{'model':<20}{'bare ms/step':>14}{'wall ratio':>12}{'CPU ratio':>11}   pairs (wall)")
    for name, overrides in CASES.items():
        walls, cpus, milliseconds = compare(overrides)
        pairs = f"{min(walls):.3f} to {max(walls):.3f}"
        wall, cpu = statistics.median(walls), statistics.median(cpus)
        print(f"{name:<20}{milliseconds:>14.1f}{wall:>12.3f}{cpu:>11.3f}   {pairs}", flush=True)


if __name__ == "__main__":
    main()
