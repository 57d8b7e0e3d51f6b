"""Training samples per CPU-second of four tasks at once, at the sizes the public project was measured at.

    python benchmarks/throughput.py

Window 1024, batch 32, d_model 32, 32 patches, 2 layers, d_ff 64, one thread; the real loop: reading, four losses,
backward, clipping, AdamW. A step is the CPU time from one forward pass to the next, the median of a run; the table
shows the median of the runs. Bar: three times the public project's, taken on a machine of the same kind.
"""

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from hydra import compose, initialize_config_module

from vibench.config import schemas
from vibench.config.resolve import resolve
from vibench.data.build import build
from vibench.memory.plan import fit as plan_memory
from vibench.model import build_model, targets
from vibench.training.fit import fit

STEPS, RUNS, BATCH = 40, 5, 32
PUBLIC = {"dlinear": 465, "timesnet": 34, "patchtst": 425, "fno": 460}  # samples per second, one thread
CASES = {
    "dlinear": (),
    "timesnet": ("backbone.e_layers=2", "backbone.d_ff=64"),
    "patchtst": ("backbone.e_layers=2", "backbone.d_ff=64"),
    "fno": ("backbone.e_layers=2", "backbone.modes=16", "backbone.width=64"),
}
COMMON = (
    "hardware=cpu",
    "embedding=hse",
    "embedding.num_patches=32",
    "d_model=32",
    "data.window=1024",
    f"training.global_batch_size={BATCH}",
    f"training.max_steps={STEPS}",
    "training.warmup_steps=5",
    "training.monitor=null",
    "data.split.fractions=[0.6,0,0.4]",
)


def cpu_seconds_per_step(backbone: str, overrides: tuple[str, ...]) -> float:
    with initialize_config_module("vibench.conf", version_base="1.3"):
        config = resolve(compose("train", [f"backbone={backbone}", *overrides, *COMMON]))
    data = build(config.data, targets(config))
    sizes = {"n_channels": data.n_channels, "n_classes": len(data.classes)}
    times: list[float] = []
    model = build_model(config, **sizes)
    model.embedding.register_forward_pre_hook(lambda *_: times.append(time.process_time()))
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_memory(config, **sizes)
        fit(model, data, config, plan, device=torch.device("cpu"), run_dir=Path(folder), identity={})
    return statistics.median(b - a for a, b in pairwise(times[2:]))


def main() -> None:
    torch.set_num_threads(1)
    schemas.register()
    print(f"{'backbone':<10}{'ms/step':>9}{'samples/CPU s':>15}{'public':>8}{'ratio':>7}   (bar 3)")
    for backbone, overrides in CASES.items():
        seconds = statistics.median(cpu_seconds_per_step(backbone, overrides) for _ in range(RUNS))
        rate = BATCH / seconds
        ratio = rate / PUBLIC[backbone]
        print(f"{backbone:<10}{seconds * 1000:>9.1f}{rate:>15.0f}{PUBLIC[backbone]:>8}{ratio:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
