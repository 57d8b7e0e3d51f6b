"""Where a run goes, and what it took there."""

import dataclasses
import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

import torch

from vibench.config.hardware import Device, HardwareConfig
from vibench.config.rules import precision_exists
from vibench.config.training import Precision
from vibench.errors import ConfigError

log = logging.getLogger("vibench")
GIB = 2**30


def choose_device(hardware: HardwareConfig) -> torch.device:
    """Where the run goes: the hardware's device, or loudly the CPU where there is no GPU.

    Raises:
        ConfigError: a GPU was promised by SLURM and is not there, or there are fewer than are to be used.
    """
    wanted, gpu = hardware.device, torch.cuda.is_available()
    if wanted is Device.cuda and not gpu:
        if "SLURM_JOB_ID" in os.environ:
            raise ConfigError([f"hardware={hardware.name} needs a GPU, this SLURM job sees none; check its gres"])
        log.warning(f"NO GPU HERE: planned for hardware={hardware.name}, running on the CPU")
    if not gpu or wanted is Device.cpu:
        return torch.device("cpu")
    if hardware.gpus > torch.cuda.device_count():
        raise ConfigError(
            [
                f"hardware.gpus={hardware.gpus} exceeds the {torch.cuda.device_count()} cards that are visible here; "
                f"use hardware.gpus<={torch.cuda.device_count()}"
            ]
        )
    return torch.device("cuda", torch.cuda.current_device())  # each rank has chosen its own


def as_found(hardware: HardwareConfig, precision: Precision, device: torch.device) -> HardwareConfig:
    """``hardware=local`` with the card of this machine in it, as its driver reports it; any other as it is.

    Raises:
        ConfigError: the precision that was asked for is not available on that card.
    """
    if hardware.device is not Device.auto or device.type != "cuda":
        return hardware
    card = torch.cuda.get_device_properties(device)
    found = dataclasses.replace(
        hardware,
        name=f"local ({card.name})",
        device=Device.cuda,
        gpu_memory_gib=card.total_memory / GIB,
        compute_capability=card.major + card.minor / 10,
    )
    if complaints := list(precision_exists(found, precision)):
        raise ConfigError(complaints)
    return found


def is_planned(hardware: HardwareConfig, device: torch.device) -> bool:
    """Whether the run is on the kind of hardware that it was planned for: what it takes there can be compared."""
    if device.type == "cpu":
        return hardware.gpu_memory_gib is None
    there = torch.cuda.get_device_properties(device).total_memory / GIB
    return hardware.gpu_memory_gib is not None and abs(there / hardware.gpu_memory_gib - 1) < 0.05


def free_gib(device: torch.device) -> float:
    """What nobody uses of a card, once this process has its context there."""
    torch.cuda.synchronize(device)
    return torch.cuda.mem_get_info(device)[0] / GIB


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def reset_peak(device: torch.device) -> None:
    """Forget what earlier runs of this process took."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib(device: torch.device) -> float:
    """Most memory in use since the reset: reserved by the allocator on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / GIB
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024 / GIB
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
