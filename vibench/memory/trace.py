"""The memory of the real training step, without a GPU and without its numbers.

Two optimizer steps of two micro-batches each, then the predictions of a validation, on fake tensors: the code is the
training's own (``vibench.step``), only that no number is computed. From two sizes of micro-batch follows every other:
a block is ``a + b * size`` bytes.
"""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves
from torchmetrics import Metric

from vibench.config.experiment import ExperimentConfig
from vibench.config.training import TaskWeights
from vibench.data.batch import Batch, blank_batch
from vibench.memory.cuda import as_on_gpu
from vibench.memory.scratch import Scratch
from vibench.memory.tracker import Block, Observer, Timeline, Tracker, bias_in_place
from vibench.model import Model, build_model, freeze, targets
from vibench.step.checkpointing import checkpoint_blocks
from vibench.step.optimizer import build_optimizer
from vibench.step.precision import autocast
from vibench.step.ranks import alone
from vibench.step.scores import Scores
from vibench.step.step import Step
from vibench.step.task_weights import Weighing

SIZES = (2, 11)  # windows of a micro-batch in the two traces; what kernels take is a line only from afar
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """Timelines of the same training at two sizes of micro-batch, event by event alike.

    Attributes:
        small, large: of ``SIZES``.
    """

    small: Timeline
    large: Timeline

    def blocks(self, micro_batch: int) -> list[Block]:
        """The blocks at any size of micro-batch."""
        first, second = SIZES
        found = []
        for a, b in zip(self.small.blocks, self.large.blocks, strict=True):
            more = (b.nbytes - a.nbytes) * (micro_batch - first) // (second - first)
            if a.phase == "scratch":
                more = max(more, 0)  # of a single window, kernels take other ways, and not less
            found.append(dataclasses.replace(a, nbytes=a.nbytes + more))
        return found

    def events(self, accumulation: int) -> list[tuple[int, bool]]:
        """The events of a step of that many micro-batches: one of them, or two, after which it repeats itself."""
        blocks = self.small.blocks
        return [event for event in self.small.events if accumulation > 1 or blocks[event[0]].part == 0]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Levers:
    """What a plan can change: with the same result, but for the rounding of a lower precision.

    Attributes:
        precision: fp32, bf16 or fp16.
        checkpointing: none, selective, full or sliced.
        optimizer_state: device, int8 or host.
        sharding: none or full.
    """

    precision: str
    checkpointing: str
    optimizer_state: str = "device"
    sharding: str = "none"


def trace(config: ExperimentConfig, levers: Levers, *, n_channels: int, n_classes: int) -> Trace:
    """Trace an experiment as it would run on the hardware it names.

    Args:
        n_channels, n_classes: of the data.
    """
    capability, timelines = config.hardware.compute_capability, []
    scratch = Scratch() if capability is None else None
    for size in SIZES:
        tracker = Tracker(scratch)
        with emulated(capability):
            rehearse(config, levers, size, tracker, n_channels=n_channels, n_classes=n_classes)
        timelines.append(tracker.timeline)
    return Trace(*timelines)


@contextmanager
def emulated(capability: float | None) -> Iterator[None]:
    """Fake tensors, and operators as on a GPU of that compute capability, or as on this CPU."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True  # an operator that is refused is logged with its traceback
    try:
        there = as_on_gpu(capability) if capability is not None else nullcontext()
        with alone(), bias_in_place(), there, FakeTensorMode():
            yield
    finally:
        log.disabled = before


def rehearse(
    config: ExperimentConfig,
    levers: Levers,
    micro_batch: int,
    observer: Observer,
    *,
    n_channels: int,
    n_classes: int,
    steps: int = 2,
) -> None:
    """Run steps of two micro-batches each, and a prediction, before the eyes of an observer.

    In a ``FakeTensorMode`` on fake tensors, else on real ones. On a card, the parts of a batch are copies.
    """
    on_gpu, precision = config.hardware.compute_capability is not None, levers.precision

    class Parted(Batch):
        """Tells the observer which micro-batch begins."""

        def part(self, start: int, stop: int) -> Batch:
            observer.part = start // (stop - start)
            return super().part(start, stop)

        def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
            if not on_gpu:
                return self
            with observer.during("input"):
                return self._each(torch.clone)

    def begin(phase: str) -> None:
        observer.phase, observer.part = phase, 0

    def batch(size: int) -> Parted:
        blank = blank_batch(targets(config), size, n_channels, config.data.window)
        return Parted(**blank.values())

    training = dataclasses.replace(config.training, task_weights=TaskWeights.fixed)  # learned ones are a few numbers
    host = {size: batch(size) for size in (micro_batch, 2 * micro_batch)}  # outside: it lies on the host
    observer.ignore([leaf for one in host.values() for leaf in tree_leaves(one.values())])
    with observer:
        model = build_model(config, n_channels=n_channels, n_classes=n_classes)
        freeze(model, training.freeze)
        checkpoint_blocks(model, levers.checkpointing)
        begin("metrics")
        state = torch.empty(_metrics_bytes(model), dtype=torch.uint8)
        begin("weights")
        weighing = Weighing(model, config.task, training.task_weights)
        optimizer = build_optimizer(model, weighing, training, precision, "device")
        off = torch.amp.GradScaler("cpu", enabled=False)  # it asks for numbers
        step = Step(model, weighing, training, precision=precision, scaler=off, device=CPU)
        with observer.named(model):
            for _ in range(steps):
                begin("forward")
                shares = step.gradient(host[2 * micro_batch], weighing.factors(), micro_batch=micro_batch, measure=True)
                begin("optimizer")
                step.update(optimizer, shares, lambda *_: True)
                del shares
                observer.name_state(optimizer)
            begin("score")
            model.eval()
            with torch.no_grad(), autocast(precision, CPU):
                model(host[micro_batch].to(CPU))
            observer.finish()  # before all of it is let go
    del state


def _metrics_bytes(model: Model) -> int:
    """State of the metrics, and what to begin with again; made in earnest, as they copy it, and fakes cannot be."""
    with _disable_current_modes():
        metrics = [module for module in Scores(model).modules() if isinstance(module, Metric)]
    return 2 * sum(state.nbytes for m in metrics for state in m._defaults.values() if isinstance(state, Tensor))


def live_peak(blocks: list[Block], events: list[tuple[int, bool]]) -> tuple[int, int]:
    """Most bytes alive at once, and after how many events."""
    live = peak = when = 0
    for number, (block, comes) in enumerate(events):
        live += blocks[block].nbytes if comes else -blocks[block].nbytes
        if live > peak:
            peak, when = live, number
    return peak, when
