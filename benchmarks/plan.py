"""What a plan costs: CPU seconds and memory of ``vibench-plan``, as a whole process.

    python benchmarks/plan.py

Bars: one hardware, the largest foundation model, every lever tried, at most 12 CPU-seconds and 0.6 GB; every hardware
of ``conf/hardware`` at most 30 CPU-seconds.
"""

import os
import resource
import subprocess
import sys

PLAN = [sys.executable, "-c", "from vibench.cli.plan import main; main()"]
LARGEST = "experiment=foundation/timesnet"
COMMANDS = {
    "timesnet on rtx3090": [LARGEST, "hardware=rtx3090"],
    "the same, every lever": [LARGEST, "hardware=rtx3090", "hardware.gpu_memory_gib=6"],
    "patchtst on rtx3090": ["experiment=foundation/patchtst", "hardware=rtx3090"],
    "dlinear on rtx3090": ["experiment=foundation/dlinear", "hardware=rtx3090"],
    "fno on rtx3090": ["experiment=foundation/fno", "hardware=rtx3090"],
    "timesnet on every hardware": [LARGEST],
}


def main() -> None:
    print(f"{'plan':<28}{'CPU s':>8}{'GB':>7}")
    for name, arguments in COMMANDS.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen([*PLAN, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, _, used = _wait(process)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{name:<28}{seconds:>8.1f}{used:>7.2f}", flush=True)


def _wait(process: "subprocess.Popen[bytes]") -> tuple[int, int, float]:
    """Pid, exit status, and most memory in GB."""
    pid, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return pid, process.returncode, used.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
