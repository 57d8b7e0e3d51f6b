"""Memory of the host: what a run takes of it, what there is, and how the C library keeps it."""

import ctypes
import resource
import sys
from pathlib import Path

from torch.utils._pytree import tree_leaves

from vibench.cgroups import free_bytes
from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import HardwareConfig
from vibench.data.batch import blank_batch
from vibench.errors import MemoryFitError
from vibench.memory.device import GIB
from vibench.memory.trace import Levers
from vibench.model import targets

PROCESS_GIB = 0.52  # Python, torch, torchmetrics and h5py (``benchmarks/host.py``)
CUDA_GIB = 1.5  # libraries and context of CUDA in the host's memory: assumed, not measured
WORKER_GIB = 0.1  # what a loading process does not share with the one it was forked from (``benchmarks/host.py``)
AHEAD = 2  # batches that a worker of the DataLoader loads ahead

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
MOST_MMAP_THRESHOLD = 32 * 2**20  # the largest that glibc takes


def keep_freed_memory() -> bool:
    """Let the C library keep what a training step frees, for the next step; True where it can.

    A step frees all its activations at its end. By default glibc gives them back to the kernel, which hands out zeroed
    pages again in the next step: thousands of page faults, 5 % of a small step (``benchmarks/loop.py``). The peak of
    the process stays the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, musl for one
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD))


def host_bill(
    config: ExperimentConfig,
    levers: Levers,
    *,
    n_channels: int,
    parameters: int,
    trained: int,
    windows: int,
    step_gib: float,
) -> dict[str, float]:
    """What a run takes of the host's memory, in GiB, largest first. What the kernel keeps of the signals' file is not
    among it: it is dropped when memory is needed.

    Args:
        parameters, trained: of the model.
        windows: of all splits.
        step_gib: of the training step, where it runs on the CPU; else 0.
    """
    gpu = config.hardware.gpu_memory_gib is not None
    ranks, workers = config.hardware.gpus, config.data.workers
    one = blank_batch(targets(config), 1, n_channels, config.data.window)
    window_gib = sum(tensor.nbytes for tensor in tree_leaves(one.values())) / GIB
    batches = (max(AHEAD * workers, 1) + 1) * config.training.global_batch_size * (2 if gpu else 1)  # pinned: a copy
    weights_gib = parameters * 4 / GIB
    state_gib = trained * 8 / GIB
    found = {
        "processes": (PROCESS_GIB + (CUDA_GIB if gpu else 0)) * ranks,
        "workers": WORKER_GIB * workers * ranks,
        "batches": batches * window_gib * ranks,
        "windows": windows * 16 / GIB * ranks,
        "training step": step_gib * ranks,
        "optimizer on the host": (weights_gib * 2 + state_gib) * ranks if levers.optimizer_state == "host" else 0.0,
        # of the first rank a fresh model, and the checkpoint it reads; of the others what they move to their cards
        "weights before and after training": weights_gib * (ranks + 1) + state_gib,
    }
    return dict(sorted(((name, gib) for name, gib in found.items() if gib), key=lambda item: -item[1]))


def check_host(hardware: HardwareConfig, bill: dict[str, float]) -> None:
    """Refuse what the host cannot hold.

    Raises:
        MemoryFitError: with the bill.
    """
    there = hardware.host_gib if hardware.host_gib is not None else free_gib()
    need = sum(bill.values())
    if there is not None and need > there:
        parts = " + ".join(f"{name} {gib:.2f}" for name, gib in bill.items() if gib >= need / 100)
        whose = f"this machine has {there:.1f} free"
        if there == hardware.ram_gib:
            whose = f"hardware.ram_gib={there:g}"
        elif hardware.host_gib is not None:
            whose = f"hardware.slurm.mem_mb={hardware.slurm.mem_mb} is {there:.1f}"
        raise MemoryFitError(
            f"the run takes {need:.1f} GiB of the host's memory, {whose}: {parts} GiB; use fewer data.workers, a "
            "smaller training.global_batch_size or d_model, or a machine with more"
        )


def limit_left_gib() -> float | None:
    """Address space that the limit of this process (``ulimit -v``) leaves it; None without one."""
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    try:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return None
    return (most - taken) / GIB


def free_gib() -> float | None:
    """What a process could still take without swapping, also within a control group; None where it is not told."""
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(told["MemAvailable"].split()[0]) * 1024 / GIB
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return min([free, *(bytes_ / GIB for bytes_ in free_bytes())])
