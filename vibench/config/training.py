"""Training schema. Every key reaches the training: ``tests/training/test_every_key_acts.py`` holds it to that."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vibench.config.setting import setting


class Precision(Enum):
    """Arithmetic of forward and backward; parameters and optimizer stay fp32. ``auto`` lets the planner choose."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Optimizer(Enum):
    adamw = "adamw"  # Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101
    adam = "adam"
    sgd = "sgd"  # momentum 0.9


class Schedule(Enum):
    """Learning rate after the warm-up: constant, or down to zero at the last step."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


def wish(text: str) -> int | None:
    """The number a user fixed, or None where the planner chooses. (A string, since OmegaConf has no usable union.)"""
    return None if text == "auto" else int(text)


def _is_wish(text: str) -> bool:
    return text == "auto" or (text.isascii() and text.isdigit() and int(text) > 0)


@dataclass(kw_only=True, slots=True)
class TrainingConfig:
    """How the weights are found."""

    epochs: int = setting("passes over the training windows", low=1)
    max_steps: int | None = setting("optimizer steps after which training ends; null: all of the epochs", low=1)
    global_batch_size: int = setting("windows per optimizer step; changes results", low=1)
    micro_batch: str = setting("windows at once on the device; leaves the gradient as it is; auto or a number")
    accumulation: str = setting("micro-batches per optimizer step; auto or a number")
    precision: Precision = setting("auto, fp32, bf16 or fp16")
    optimizer: Optimizer = setting("adamw, adam or sgd")
    lr: float = setting("learning rate after the warm-up", above=0)
    weight_decay: float = setting("decay of the weights per unit of learning rate", low=0)
    clip_norm: float | None = setting("largest 2-norm of the gradient; null: no clipping", above=0)
    schedule: Schedule = setting("constant, linear or cosine")
    warmup_steps: int = setting("steps over which the learning rate rises from zero", low=0)
    monitor: str | None = setting("TASK/METRIC or loss of the validation that picks the best checkpoint; null: none")
    patience: int | None = setting("validations without a better monitor before training stops; null: never", low=1)

    def complaints(self) -> Iterator[str]:
        wrong = [key for key in ("micro_batch", "accumulation") if not _is_wish(getattr(self, key))]
        for key in wrong:
            yield f"training.{key}={getattr(self, key)} is neither auto nor a whole number from 1; use e.g. auto"
        if wrong:
            return
        micro, accumulation, batch = wish(self.micro_batch), wish(self.accumulation), self.global_batch_size
        for key, number in (("micro_batch", micro), ("accumulation", accumulation)):
            if number is not None and number > batch:
                yield (
                    f"training.{key}={number} exceeds training.global_batch_size={batch}; "
                    f"use training.{key}<={batch} or auto"
                )
        if micro is not None and accumulation is not None and micro <= batch and -(-batch // micro) != accumulation:
            yield (
                f"training.micro_batch={micro} x training.accumulation={accumulation} does not make "
                f"training.global_batch_size={batch}; use training.accumulation={-(-batch // micro)} or auto"
            )
        if micro is None and accumulation is not None and accumulation <= batch:
            cut = -(-batch // accumulation)
            if -(-batch // cut) != accumulation:
                yield (
                    f"training.accumulation={accumulation} does not cut training.global_batch_size={batch} evenly: "
                    f"micro-batches of {cut} make {-(-batch // cut)} parts; "
                    f"use training.accumulation={-(-batch // cut)} or auto"
                )
        if self.patience is not None and self.monitor is None:
            yield f"training.patience={self.patience} has nothing to watch; set training.monitor or patience=null"
        if self.max_steps is not None and self.warmup_steps >= self.max_steps > 0:
            yield (
                f"training.warmup_steps={self.warmup_steps} does not end before training.max_steps={self.max_steps}; "
                f"use training.warmup_steps<={self.max_steps - 1}"
            )
