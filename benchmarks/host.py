"""The predicted memory of the host against what the processes of real runs on this CPU took at most.

    python benchmarks/host.py

Eight steps each, every process of a run counted: what it shares with another in equal parts (``Pss``, sampled every
0.3 s).
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = [sys.executable, "-c", "from vibench.cli.train import main; main()", "training=smoke", "hardware=cpu"]
WINDOWS = ["data.stride=4096", "data.bearings_per_class=3", "data.lives=6"]  # fewer of them to predict
WIDE = ["d_model=512", "backbone.d_ff=2048", "backbone.e_layers=12", "training.global_batch_size=2", *WINDOWS]
CASES = {
    "default": [],
    "two workers": ["data.workers=2"],
    "wide, 38 M weights": WIDE,
    "the same, state on the host": [*WIDE, "training.optimizer_state=host"],
    "two processes": ["hardware.gpus=2"],
}


def taken(pid: int) -> float:
    """GiB of a process and of those that it started."""
    total = 0.0
    for process in [pid, *_descendants(pid)]:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 2**30
    return total


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found + [grandchild for child in found for grandchild in _descendants(child)]


def main() -> None:
    print(f"{'run':<30}{'predicted GiB':>14}{'taken GiB':>11}{'ratio':>8}")
    for name, overrides in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            arguments = [*RUN, *overrides, f"hydra.run.dir={run}"]
            process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            most = 0.0
            while process.poll() is None:
                most = max(most, taken(process.pid))
                time.sleep(0.3)  # asking takes long where pages are many
        plan = [sys.executable, "-c", "from vibench.cli.plan import main; main()", *RUN[3:], *overrides, "--json"]
        told = subprocess.run(plan, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        predicted = sum(next(iter(json.loads(told).values()))["host"].values())
        print(f"{name:<30}{predicted:>14.2f}{most:>11.2f}{most / predicted:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
