"""Hardware schema: the card a run is planned for."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vibench.config.setting import setting


class Device(Enum):
    """Where tensors live; ``auto`` is the GPU of this machine where it has one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(kw_only=True, slots=True)
class HardwareConfig:
    """One kind of machine."""

    name: str = setting("name in messages and results")
    device: Device = setting("auto, cpu or cuda")
    gpu_memory_gib: float | None = setting("GiB as the driver reports them; null without a card to plan for", above=0)
    usable_share: float = setting("part of the card's memory a plan may fill", above=0, high=1)
    context_mib: int = setting("MiB that the CUDA context takes outside the allocator", low=0)
    compute_capability: float | None = setting("CUDA compute capability; null without a card to plan for", low=3)
    cpus: int | None = setting("CPU cores a run may use; null: those of this machine", low=1)

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
