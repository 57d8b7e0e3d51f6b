"""What the planner decides: how a batch is cut, and in which arithmetic.

What is planned so far is the state of the optimizer step, whose size no batch changes: weights, gradients and
optimizer. A model whose state alone exceeds the card is refused before anything is started.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import Device, HardwareConfig
from vibench.config.training import Optimizer, Precision, wish
from vibench.errors import MemoryFitError
from vibench.memory.device import GIB
from vibench.model import build_model, freeze

STATE_BYTES = {Optimizer.adamw: 8, Optimizer.adam: 8, Optimizer.sgd: 4}  # per trained parameter, all in fp32


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How the training step is run. ``micro_batch x accumulation`` covers the global batch.

    Attributes:
        precision: fp32, bf16 or fp16.
        state_gib: weights, gradients and optimizer state.
        usable_gib: what the hardware offers; None where there is no card to plan for.
    """

    micro_batch: int
    accumulation: int
    precision: str
    parameters: int
    state_gib: float
    usable_gib: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit(config: ExperimentConfig, *, n_channels: int, n_classes: int) -> MemoryPlan:
    """Plan an experiment for the hardware it names.

    Raises:
        MemoryFitError: the state of the model does not fit.
    """
    with torch.device("meta"):
        model = build_model(config, n_channels=n_channels, n_classes=n_classes)
    freeze(model, config.training.freeze)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state_gib = (parameters * 4 + trained * (4 + STATE_BYTES[config.training.optimizer])) / GIB
    usable_gib = usable(config.hardware)
    if usable_gib is not None and state_gib > usable_gib:
        raise MemoryFitError(_refusal(config, model, parameters, state_gib, usable_gib))
    batch, accumulation = config.training.global_batch_size, wish(config.training.accumulation)
    micro = wish(config.training.micro_batch) or -(-batch // (accumulation or 1))
    return MemoryPlan(
        micro_batch=micro,
        accumulation=-(-batch // micro),
        precision=_precision(config).value,
        parameters=parameters,
        state_gib=state_gib,
        usable_gib=usable_gib,
    )


def usable(hardware: HardwareConfig) -> float | None:
    """GiB of the card that a plan may fill; None without a card."""
    if hardware.gpu_memory_gib is None:
        return None
    return hardware.gpu_memory_gib * hardware.usable_share - hardware.context_mib / 1024


def _precision(config: ExperimentConfig) -> Precision:
    """What was asked for; auto is bf16 on a card that has it, else fp32."""
    if config.training.precision is not Precision.auto:
        return config.training.precision
    gpu = config.hardware.device is Device.cuda
    return Precision.bf16 if gpu and config.hardware.has_bf16 else Precision.fp32


def _refusal(config: ExperimentConfig, model: nn.Module, parameters: int, state_gib: float, usable_gib: float) -> str:
    name, largest = max(model.named_parameters(), key=lambda item: item[1].numel())
    return (
        f"{config.hardware.name} offers {usable_gib:.1f} GiB, but the weights, gradients and optimizer state of "
        f"{parameters / 1e9:.2f} billion parameters alone take {state_gib:.1f} GiB, at any batch size; largest: {name} "
        f"{tuple(largest.shape)}; use a smaller d_model={config.d_model} or a larger hardware"
    )
