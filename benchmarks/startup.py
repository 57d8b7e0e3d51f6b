"""What a user waits for before anything trains: CPU seconds of whole processes, and their ratio in one run.

    python benchmarks/startup.py

Bars: a refused configuration at most 3x ``import hydra``, ``--help`` at most 5x, and the first optimizer step of the
default run within 6 CPU-seconds of the start, imports included.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 7
TRAIN = [sys.executable, "-c", "from vibench.cli.train import main; main()"]
COMMANDS = {
    "import hydra": [sys.executable, "-c", "import hydra"],
    "wrong type": [*TRAIN, "backbone.e_layers=many"],
    "missing field": [*TRAIN, "backbone.e_layers=???"],
    "unknown key": [*TRAIN, "backbone.e_layer=3"],
    "--help": [*TRAIN, "--help"],
}
BARS = {"wrong type": 3, "missing field": 3, "unknown key": 3, "--help": 5}


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one process, from the operating system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step(cache: str) -> float:
    """CPU seconds of the default run until its first step is in metrics.csv."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["logger.every_n_steps=1", f"hydra.run.dir={folder}/run"]
        process = subprocess.Popen(
            [*TRAIN, *options], stderr=subprocess.DEVNULL, env=os.environ | {"VIBENCH_CACHE": cache}, cwd=folder
        )
        metrics = Path(folder, "run", "metrics.csv")
        while not metrics.is_file() and process.poll() is None:
            time.sleep(0.005)
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.kill()
        process.wait()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    for command in COMMANDS.values():
        cpu_seconds(command)  # once, so that every file is in the page cache
    rounds = [{name: cpu_seconds(command) for name, command in COMMANDS.items()} for _ in range(ROUNDS)]
    print(f"{'command':<16}{'CPU s':>8}{'x import hydra':>16}{'bar':>6}")
    for name in COMMANDS:
        seconds = statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r["import hydra"] for r in rounds)
        print(f"{name:<16}{seconds:>8.2f}{ratio:>16.2f}{BARS.get(name, ''):>6}")
    with tempfile.TemporaryDirectory() as cache:
        print(f"first step of the default run, machines simulated first: {first_step(cache):.2f} CPU s (bar 6)")
        again = statistics.median(first_step(cache) for _ in range(3))
        print(f"first step of the default run, machines in the cache:    {again:.2f} CPU s (bar 6)")


if __name__ == "__main__":
    main()
