"""What may be tried to make an experiment fit, cheapest first. What was asked for is not changed."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

from torch import nn

from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import Device
from vibench.config.training import Checkpointing, Optimizer, OptimizerState, Precision, Sharding, wish
from vibench.errors import ConfigError
from vibench.memory.trace import Levers
from vibench.step.checkpointing import levels


def candidates(config: ExperimentConfig, model: nn.Module) -> Iterator[Levers]:
    """Combinations in the order of what they cost: less is kept by blocks, then the optimizer's state is spread over
    the cards, then it is rounded to 8 bits, then it is moved to the host.

    Raises:
        ConfigError: 8 bits are asked for, and torchao is not installed.
    """
    if config.training.optimizer_state is OptimizerState.int8 and not _torchao():
        raise ConfigError(
            ["training.optimizer_state=int8 needs torchao; pip install 'vibench[int8]', or use optimizer_state=host"]
        )
    kept = _kept(config, model)
    for state, sharding in _placements(config):
        for checkpointing in kept:
            yield Levers(
                precision=precision_of(config).value,
                checkpointing=checkpointing,
                optimizer_state=state,
                sharding=sharding,
            )


def with_levers(config: ExperimentConfig, changes: dict[str, Any]) -> ExperimentConfig:
    """The experiment with the levers that a run had to pull, as if they had been asked for; and with the precision that
    was chosen where it began."""
    training = config.training
    if "precision" in changes and training.precision is Precision.auto:
        training = dataclasses.replace(training, precision=Precision[changes["precision"]])
    if (micro := changes.get("micro_batch", "auto")) != "auto":
        training = dataclasses.replace(training, micro_batch=micro, accumulation="auto")
    if (kept := changes.get("checkpointing", "auto")) != "auto":
        training = dataclasses.replace(training, checkpointing=Checkpointing[kept])
    if (state := changes.get("optimizer_state", "auto")) != "auto":
        training = dataclasses.replace(training, optimizer_state=OptimizerState[state])
    return dataclasses.replace(config, training=training)


def precision_of(config: ExperimentConfig) -> Precision:
    """What was asked for; auto is bf16 on a card that has it, else fp32."""
    if config.training.precision is not Precision.auto:
        return config.training.precision
    gpu = config.hardware.device is Device.cuda
    return Precision.bf16 if gpu and config.hardware.has_bf16 else Precision.fp32


def _kept(config: ExperimentConfig, model: nn.Module) -> list[str]:
    wished = config.training.checkpointing
    if wished is not Checkpointing.auto:
        return [wished.value]
    return levels(model) if config.hardware.gpu_memory_gib is not None else ["none"]


def _placements(config: ExperimentConfig) -> list[tuple[str, str]]:
    """(state of the optimizer, sharding)."""
    training = config.training
    states = [training.optimizer_state.value]
    if training.optimizer_state is OptimizerState.auto:
        states = ["device"]
        if config.hardware.gpu_memory_gib is not None and training.precision is not Precision.fp16:
            states += ["int8"] if _has_int8(config) else []
            states += ["host"]
    sharded = [training.sharding.value]
    if training.sharding is Sharding.auto:
        shardable = config.hardware.devices > 1 and training.precision is not Precision.fp16
        sharded = ["none", "full"] if shardable else ["none"]
    places = [(state, sharding) for state in states for sharding in sharded]
    return [place for place in places if place != ("host", "full")] or places


def _has_int8(config: ExperimentConfig) -> bool:
    return config.training.optimizer is Optimizer.adamw and _torchao()


def _torchao() -> bool:
    return importlib.util.find_spec("torchao") is not None


def per_device(config: ExperimentConfig) -> int:
    """Windows of a global batch that one device sees."""
    return -(-config.training.global_batch_size // config.hardware.devices)


def cuts(config: ExperimentConfig) -> list[int]:
    """Sizes of micro-batch, smallest first; those that cut the batch evenly."""
    batch, training = per_device(config), config.training
    micro, accumulation = wish(training.micro_batch), wish(training.accumulation)
    if micro is not None or accumulation is not None:
        return [micro or -(-batch // accumulation)]
    return [size for size in range(1, batch + 1) if batch % size == 0]


def parts_of(config: ExperimentConfig, micro_batch: int) -> int:
    """Micro-batches of that size in a step."""
    return -(-per_device(config) // micro_batch)
