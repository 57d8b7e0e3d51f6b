"""Hardware schema: the card a run is planned for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vibench.config.setting import setting


class Device(Enum):
    """Where tensors live; ``auto`` is the GPU of this machine where it has one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


TIME = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2}):(\d{2})")  # SLURM's [days-]hours:minutes:seconds


@dataclass(kw_only=True, slots=True)
class SlurmConfig:
    """What is asked of SLURM for a run."""

    time: str | None = setting("time limit, [days-]hours:minutes:seconds; null: none is known")

    @property
    def seconds(self) -> int | None:
        """The time limit; None without one."""
        if self.time is None:
            return None
        found = TIME.fullmatch(self.time)
        if found is None:
            raise ValueError(f"{self.time} is no time")
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def complaints(self) -> Iterator[str]:
        if self.time is not None and TIME.fullmatch(self.time) is None:
            yield (
                f"hardware.slurm.time={self.time} is no time; use [days-]hours:minutes:seconds, e.g. 1-12:00:00, "
                "in quotes where it stands in YAML"
            )
        elif self.seconds == 0:
            yield f"hardware.slurm.time={self.time} leaves no time to run; use null for no limit"


@dataclass(kw_only=True, slots=True)
class HardwareConfig:
    """One kind of machine."""

    name: str = setting("name in messages and results")
    device: Device = setting("auto, cpu or cuda")
    gpu_memory_gib: float | None = setting("GiB as the driver reports them; null without a card to plan for", above=0)
    usable_share: float = setting("part of the card's memory a plan may fill", above=0, high=1)
    measured_share: float | None = setting(
        "the same once runs on such a card were measured; null: usable_share stays", above=0, high=1
    )
    gpus: int = setting("cards of one machine that train together (processes, on a CPU)", low=1)
    context_mib: int = setting("MiB that the CUDA context takes outside the allocator", low=0)
    compute_capability: float | None = setting("CUDA compute capability; null without a card to plan for", low=3)
    fp32_tflops: float | None = setting("10^12 operations a second in fp32, of the data sheet; null: unknown", above=0)
    half_tflops: float | None = setting("the same in bf16 or fp16, sums in fp32; null: unknown", above=0)
    bandwidth_gbs: float | None = setting("10^9 bytes a second of the card's memory; null: unknown", above=0)
    cpus: int | None = setting("CPU cores a run may use; null: those of this machine", low=1)
    ram_gib: float | None = setting("GiB of host memory a run may use; null: what is free at its start", above=0)
    slurm: SlurmConfig

    @property
    def has_bf16(self) -> bool:
        """bfloat16 arithmetic: every CPU, and cards from compute capability 8.0."""
        return self.compute_capability is None or self.compute_capability >= 8

    def complaints(self) -> Iterator[str]:
        if self.device is Device.cuda and (self.gpu_memory_gib is None or self.compute_capability is None):
            yield (
                "hardware.device=cuda needs hardware.gpu_memory_gib and hardware.compute_capability; "
                "take a card of conf/hardware, e.g. hardware=rtx3090"
            )
        yield from self.slurm.complaints()
