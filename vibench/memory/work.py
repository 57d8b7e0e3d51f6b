"""The work of a training step: operations and bytes of every kernel, and the seconds they take on some hardware.

Counted apart from the memory: counting operations keeps tensors alive that checkpointing lets go.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import HardwareConfig
from vibench.memory.cuda import HALF
from vibench.memory.trace import SIZES, Levers, emulated, rehearse
from vibench.memory.tracker import Observer

PRODUCTS, STREAMS = 0.5, 0.7  # parts of the data sheet's rates that kernels of this size reach: assumed, not measured
LAUNCH_S = 1e-5  # seconds from one small kernel to the next, which Python takes: assumed


@dataclass(slots=True)
class Kernel:
    """One operator: what it calculates and moves, when."""

    operations: float
    nbytes: float
    half: bool
    phase: str
    part: int


class Counter(Observer):
    """Notes every operator that does something."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        moved = made + [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if moved and not func.is_view and func.namespace != "prim":
            counted = flop_registry.get(func.overloadpacket)
            operations = counted(*args, **kwargs, out_val=out) if counted is not None else 0
            half = any(tensor.dtype in HALF for tensor in moved)
            nbytes = sum(tensor.numel() * tensor.element_size() for tensor in moved)
            self.kernels.append(Kernel(operations, nbytes, half, self.phase, self.part))
        return out


@dataclass(frozen=True, slots=True)
class Seconds:
    """What a piece of a run takes.

    Attributes:
        part: one micro-batch forward and backward.
        update: the optimizer, once a step.
        score: the predictions of one micro-batch.
    """

    part: float
    update: float
    score: float


@dataclass(frozen=True, slots=True)
class Work:
    """Kernels of two sizes of micro-batch, one by one alike.

    Attributes:
        small, large: of ``SIZES``.
    """

    small: list[Kernel]
    large: list[Kernel]

    def seconds(self, micro_batch: int, hardware: HardwareConfig, *, at_best: bool = False) -> Seconds:
        """Every kernel takes the longer of calculating and moving (Williams et al. 2009, the roofline,
        https://doi.org/10.1145/1498765.1498785), and the time to start it.

        Args:
            at_best: by the rates of the data sheet, as no kernel reaches them, in half precision: convolutions in fp32
                may be calculated in TF32.
        """
        products, streams, launch = (1.0, 1.0, 0.0) if at_best else (PRODUCTS, STREAMS, LAUNCH_S)
        assert hardware.fp32_tflops is not None
        assert hardware.bandwidth_gbs is not None
        half_tflops = hardware.half_tflops or hardware.fp32_tflops
        first, second = SIZES
        far = (micro_batch - first) / (second - first)
        sums = {"part": 0.0, "optimizer": 0.0, "score": 0.0}
        for a, b in zip(self.small, self.large, strict=True):
            rate = (half_tflops if a.half or at_best else hardware.fp32_tflops) * 1e12 * products
            calculated = max(a.operations + (b.operations - a.operations) * far, 0) / rate
            moved = max(a.nbytes + (b.nbytes - a.nbytes) * far, 0) / (hardware.bandwidth_gbs * 1e9 * streams)
            sums["part" if a.phase in ("forward", "input") else a.phase] += max(calculated, moved) + launch
        return Seconds(part=sums["part"], update=sums["optimizer"], score=sums["score"])


def count(config: ExperimentConfig, levers: Levers, *, n_channels: int, n_classes: int) -> Work:
    """The work of one micro-batch, of one update and of one prediction."""
    found = []
    for size in SIZES:
        counter = Counter()
        with emulated(config.hardware.compute_capability):
            rehearse(config, levers, size, counter, n_channels=n_channels, n_classes=n_classes, steps=1)
        found.append([kernel for kernel in counter.kernels if _counts(kernel)])
    return Work(*found)


def _counts(kernel: Kernel) -> bool:
    """Of a step of two micro-batches the second, which adds to gradients that are there; what is made once is left."""
    if kernel.phase in ("forward", "input"):
        return kernel.part == 1
    return kernel.phase in ("optimizer", "score")
