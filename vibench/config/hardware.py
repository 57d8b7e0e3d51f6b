"""Hardware schema: the card a run is planned for."""

import os
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


GRES = re.compile(r"[A-Za-z_]\w*(?::[A-Za-z_][\w.-]*)?")
OWN = {  # option of sbatch -> key that says it
    "--partition": "hardware.slurm.partition",
    "--gres": "hardware.slurm.gres",
    "--gpus": "hardware.gpus",
    "--gpus-per-node": "hardware.gpus",
    "--constraint": "hardware.slurm.constraint",
    "--account": "hardware.slurm.account",
    "--qos": "hardware.slurm.qos",
    "--mem": "hardware.slurm.mem_mb",
    "--time": "hardware.slurm.time",
    "--signal": "hardware.slurm.warn_s",
    "--nodes": "hardware.nodes",
    "--cpus-per-task": "hardware.cpus",
    "--array": "hydra.launcher.at_once",
    "--ntasks": "hardware.nodes",
    "--ntasks-per-node": "hardware.gpus",
    "--mem-per-cpu": "hardware.slurm.mem_mb",
    "--mem-per-gpu": "hardware.slurm.mem_mb",
    "--requeue": "hardware.slurm.requeues",
    "--no-requeue": "hardware.slurm.requeues",
}
REQUEUES_LEFT = "VIBENCH_REQUEUES_LEFT"  # in the environment of a run that something will requeue
TIME = re.compile(r"(?:(\d+)-)?(\d{1,3}):(\d{2}):(\d{2})")  # SLURM's [days-]hours:minutes:seconds


def requeues_left() -> int:
    """How often something will let this run go on after its time limit."""
    return int(os.environ.get(REQUEUES_LEFT, "0"))


@dataclass(kw_only=True, slots=True)
class SlurmConfig:
    """What ``hydra/launcher=slurm`` asks for a run; cards, machines and CPU cores are those of the hardware."""

    partition: str | None = setting("partition; null: the cluster's default")
    gres: str | None = setting("kind of card, e.g. gpu:a100, without a number; null: none is asked for")
    constraint: str | None = setting("features that the machine must have, e.g. vram80; null: none")
    account: str | None = setting("account that pays; null: the user's default")
    qos: str | None = setting("quality of service; null: the default")
    mem_mb: int | None = setting("MB of host memory on each machine; null: what the plan says and a quarter", low=1)
    time: str | None = setting("time limit of one attempt, [days-]hours:minutes:seconds; null: none is known")
    requeues: int = setting("how often a run may go on after its time limit or a preemption", low=0)
    warn_s: int = setting("seconds before the time limit at which a run saves itself; at most half of that", low=1)
    sbatch: list[str] = setting('more options of sbatch, e.g. ["--exclude=node7"]')
    setup: list[str] = setting("lines of shell before the run, e.g. [module load cuda]")

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
        if self.gres is not None and GRES.fullmatch(self.gres) is None:
            yield (
                f"hardware.slurm.gres={self.gres} is no kind of card; use e.g. gpu:a100, and hardware.gpus for how many"
            )
        for option in self.sbatch:
            name = option.partition("=")[0]
            if not name.startswith("--"):
                yield f"hardware.slurm.sbatch has {option}, which is no option; write it out, e.g. --exclude=node7"
            elif name in OWN:
                yield f"hardware.slurm.sbatch has {option}, which is said by {OWN[name]}; set that"


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
    gpus: int = setting("cards of each machine that train together (processes, on a CPU)", low=1)
    nodes: int = setting("machines that train together; more than one needs hydra/launcher=slurm", low=1)
    context_mib: int = setting("MiB that the CUDA context takes outside the allocator", low=0)
    compute_capability: float | None = setting("CUDA compute capability; null without a card to plan for", low=3)
    fp32_tflops: float | None = setting("10^12 operations a second in fp32, of the data sheet; null: unknown", above=0)
    half_tflops: float | None = setting("the same in bf16 or fp16, sums in fp32; null: unknown", above=0)
    bandwidth_gbs: float | None = setting("10^9 bytes a second of the card's memory; null: unknown", above=0)
    cpus: int | None = setting("CPU cores a run may use; null: those of this machine", low=1)
    ram_gib: float | None = setting("GiB of host memory a run may use; null: what is free at its start", above=0)
    slurm: SlurmConfig

    @property
    def devices(self) -> int:
        """Cards (processes, on a CPU) that train together, on all machines."""
        return self.gpus * self.nodes

    @property
    def host_gib(self) -> float | None:
        """Host memory of each machine that a run may use; None where nothing says it."""
        asked = self.slurm.mem_mb / 1024 if self.slurm.mem_mb is not None else None
        said = [gib for gib in (self.ram_gib, asked) if gib is not None]
        return min(said) if said else None

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
