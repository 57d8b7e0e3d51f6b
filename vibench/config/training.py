"""Training schema. Every key reaches the training: ``tests/training/test_every_key_acts.py`` holds it to that."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

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


class Checkpointing(Enum):
    """What a block of the model keeps for its backward pass; changes time and memory, not the result."""

    auto = "auto"  # the planner's choice: as much as fits
    none = "none"  # everything
    selective = "selective"  # products and attention; the rest is computed again
    full = "full"  # what goes into the block
    sliced = "sliced"  # the same, and the sequences of a block that can go through it in parts


class OptimizerState(Enum):
    """Where the optimizer keeps what it knows of each weight, and in how many bits."""

    auto = "auto"  # the planner's choice: device, then int8, then host
    device = "device"  # beside the weights, fp32
    int8 = "int8"  # beside the weights, blocks of 8 bits, Dettmers et al. 2022, https://arxiv.org/abs/2110.02861
    host = "host"  # in the host's memory, fp32, where the step is then made: the same result, later


class Sharding(Enum):
    """Whether the cards of a machine hold a part of the weights, gradients and optimizer state each.

    FSDP, Zhao et al. 2023, https://arxiv.org/abs/2304.11277.
    """

    auto = "auto"  # the planner's choice: none, then full
    none = "none"  # every card holds all of it
    full = "full"  # every card holds a part, and asks the others for a block's weights when it comes to it


class TaskOrder(Enum):
    """Which of the tasks that are on in an epoch a step trains."""

    joint = "joint"  # all of them
    alternating = "alternating"  # one a step, in turn
    sequential = "sequential"  # one after another, an equal share of the epochs each


class TaskWeights(Enum):
    fixed = "fixed"  # task.NAME.weight
    learned = "learned"  # by each task's uncertainty, Kendall et al. 2018, https://arxiv.org/abs/1705.07115


class OnNan(Enum):
    """What is done with a step whose loss or gradient is not a finite number; no weight is ever changed by it."""

    stop = "stop"  # the run fails, and says which windows and which layer it was
    skip = "skip"  # the step is left out
    rewind = "rewind"  # back to the last checkpoint, on with half the learning rate


class OnGrowth(Enum):
    """What is done where memory grows from epoch to epoch and will be exhausted before the end."""

    stop = "stop"  # the run fails, and says what grows; a resumed one begins with as little as a new one
    go_on = "go_on"  # that is said, and the run goes on


PARTS = ("embedding", "backbone", "tasks")  # of a model


def wish(text: str) -> int | None:
    """The number a user fixed, or None where the planner chooses. (A string, since OmegaConf has no usable union.)"""
    return None if text == "auto" else int(text)


def _is_wish(text: str) -> bool:
    return text == "auto" or (text.isascii() and text.isdigit() and int(text) > 0)


def checkpoint_of(source: str) -> Path:
    """The file of weights that ``training.init_from`` names: itself, or the one that a completed run was tested with.

    Raises:
        ValueError: there is none; says why and what to name instead.
    """
    path = Path(source).expanduser()
    try:
        if path.is_file():
            return path
        if not path.is_dir():
            raise ValueError("does not exist; name the directory of a run, or a checkpoint")
    except OSError as error:  # a name that no file can have
        raise ValueError(f"does not exist ({error.strerror}); name the directory of a run, or a checkpoint") from None
    try:
        status = json.loads((path / "status.json").read_text())
        state, checkpoint = status["state"], status.get("checkpoint")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("is no directory of a run; name one that holds a status.json, or a checkpoint") from None
    if state != "completed":
        raise ValueError(f"is a run that is {state}, not completed; name a file in {path / 'checkpoints'} to use it")
    if not isinstance(checkpoint, str):
        raise ValueError("is a run whose status names no checkpoint; name the checkpoint itself")
    if not (path / checkpoint).is_file():
        raise ValueError(f"has no {checkpoint} any more; name another run, or a checkpoint")
    return path / checkpoint


@dataclass(kw_only=True, slots=True)
class TrainingConfig:
    """How the weights are found."""

    epochs: int = setting("passes over the training windows", low=1)
    max_steps: int | None = setting("optimizer steps after which training ends; null: all of the epochs", low=1)
    global_batch_size: int = setting("windows per optimizer step; changes results", low=1)
    micro_batch: str = setting("windows at once on the device; leaves the gradient as it is; auto or a number")
    accumulation: str = setting("micro-batches per optimizer step; auto or a number")
    precision: Precision = setting("auto, fp32, bf16 or fp16")
    checkpointing: Checkpointing = setting(
        "auto, none, selective, full or sliced: what a block keeps for its backward pass"
    )
    optimizer: Optimizer = setting("adamw, adam or sgd")
    optimizer_state: OptimizerState = setting("auto, device, int8 or host: where the optimizer keeps its state")
    sharding: Sharding = setting("auto, none or full: whether all cards share weights and optimizer state")
    lr: float = setting("learning rate after the warm-up", above=0)
    weight_decay: float = setting("decay of the weights per unit of learning rate", low=0)
    clip_norm: float | None = setting("largest 2-norm of the gradient; null: no clipping", above=0)
    schedule: Schedule = setting("constant, linear or cosine")
    warmup_steps: int = setting("steps over which the learning rate rises from zero", low=0)
    monitor: str | None = setting("TASK/METRIC or loss of the validation that picks the best checkpoint; null: none")
    patience: int | None = setting("validations without a better monitor before training stops; null: never", low=1)
    save_every_s: float = setting("seconds between two checkpoints within an epoch; one is saved after each", above=0)
    on_nan: OnNan = setting("stop, skip or rewind: what is done with a step that is not a finite number")
    nan_limit: int = setting("steps that are skipped, or times that are rewound, before the run fails", low=1)
    on_growth: OnGrowth = setting("stop or go_on where memory grows and will not last to the end")
    task_order: TaskOrder = setting("joint, alternating (one task a step) or sequential (one after another)")
    task_weights: TaskWeights = setting("fixed (task.NAME.weight) or learned (each task's uncertainty)")
    init_from: str | None = setting("directory of a completed run, or a checkpoint, to start from; null: fresh weights")
    init_parts: list[str] = setting("what is taken from init_from: embedding, backbone, tasks (heads of both)")
    freeze: list[str] = setting("parts that init_from filled and training leaves as they are: embedding, backbone")

    def steps(self, windows: int) -> int:
        """Optimizer steps of the whole training on that many windows."""
        steps = -(-windows // self.global_batch_size) * self.epochs
        return min(steps, self.max_steps or steps)

    def missing_paths(self) -> Iterator[str]:
        """Paths that must exist and do not."""
        if self.init_from is not None:
            try:
                checkpoint_of(self.init_from)
            except ValueError as error:
                yield f"training.init_from={self.init_from} {error}"

    def complaints(self, *, devices: int = 1) -> Iterator[str]:
        """
        Args:
            devices: that share a global batch.
        """
        yield from self._parts()
        yield from self._steps(devices)
        if self.optimizer_state is OptimizerState.int8 and self.optimizer is not Optimizer.adamw:
            yield (
                f"training.optimizer_state=int8 is AdamW's alone, training.optimizer={self.optimizer.value}; "
                "use training.optimizer=adamw, or training.optimizer_state=auto"
            )
        if self.precision is Precision.fp16 and self.optimizer_state in (OptimizerState.int8, OptimizerState.host):
            yield (
                f"training.optimizer_state={self.optimizer_state.value} does not know the loss scaling of "
                "training.precision=fp16; use bf16, fp32, or training.optimizer_state=device"
            )

    def _parts(self) -> Iterator[str]:
        """What is taken over, and what is frozen."""
        for key, legal in (("init_parts", PARTS), ("freeze", PARTS[:2])):
            for name in getattr(self, key):
                if name not in legal:
                    yield f"training.{key} names {name}, which is no part to name here; there are {', '.join(legal)}"
        if self.init_from is not None and not self.init_parts:
            yield "training.init_parts is empty, so training.init_from would give nothing; use [embedding,backbone]"
        for name in self.freeze:
            if name in PARTS[:2] and (self.init_from is None or name not in self.init_parts):
                missing = ["set training.init_from"] if self.init_from is None else []
                missing += [f"add {name} to training.init_parts"] if name not in self.init_parts else []
                yield f"training.freeze names {name}, but its weights would be random; {' and '.join(missing)}"

    def _steps(self, devices: int) -> Iterator[str]:
        """How a step is cut, and how many there are."""
        wrong = [key for key in ("micro_batch", "accumulation") if not _is_wish(getattr(self, key))]
        for key in wrong:
            yield f"training.{key}={getattr(self, key)} is neither auto nor a whole number from 1; use e.g. auto"
        if wrong:
            return
        micro, accumulation = wish(self.micro_batch), wish(self.accumulation)
        batch = -(-self.global_batch_size // devices)
        told = f"training.global_batch_size={self.global_batch_size}"
        told += f" on {devices} cards ({batch} each)" if devices > 1 else ""
        for key, number in (("micro_batch", micro), ("accumulation", accumulation)):
            if number is not None and number > batch:
                yield (f"training.{key}={number} exceeds {told}; use training.{key}<={batch} or auto")
        if micro is not None and accumulation is not None and micro <= batch and -(-batch // micro) != accumulation:
            yield (
                f"training.micro_batch={micro} x training.accumulation={accumulation} does not make "
                f"{told}; use training.accumulation={-(-batch // micro)} or auto"
            )
        if micro is None and accumulation is not None and accumulation <= batch:
            cut = -(-batch // accumulation)
            if -(-batch // cut) != accumulation:
                yield (
                    f"training.accumulation={accumulation} does not cut {told} evenly: "
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
