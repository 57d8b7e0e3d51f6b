"""What the planner decides: how a batch is cut, in which arithmetic, and what is kept for the backward pass.

The levers are tried in the order of what they cost: the precision first, then the micro-batch, then checkpointing. Each
combination is traced once (``trace``) and replayed through the allocator for every micro-batch (``allocator``). An
experiment that does not fit with any is refused before anything is started.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import Device, HardwareConfig
from vibench.config.training import Checkpointing, Optimizer, Precision, wish
from vibench.errors import MemoryFitError
from vibench.memory.allocator import reserved_peak
from vibench.memory.bill import Bill, bill
from vibench.memory.device import GIB
from vibench.memory.trace import Levers, Trace, trace
from vibench.model import build_model, freeze

log = logging.getLogger("vibench")
STATE_BYTES = {Optimizer.adamw: 8, Optimizer.adam: 8, Optimizer.sgd: 4}  # per trained parameter, all in fp32
BLAS_MIB, BLAS_MIB_HOPPER = 16.25, 32  # workspace of cuBLAS, in the allocator and in no trace


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How the training step is run. ``micro_batch x accumulation`` covers the global batch.

    Attributes:
        precision: fp32, bf16 or fp16.
        checkpointing: none, selective or full.
        state_gib: weights, gradients and optimizer state.
        peak_gib: what the allocator will reserve at most; None where there is no card to plan for.
        usable_gib: what the hardware offers; None where there is no card to plan for.
        components, layers: who holds it, in GiB, see :class:`Bill`.
        rejected: the combinations that were tried before, and what they would take.
    """

    micro_batch: int
    accumulation: int
    precision: str
    checkpointing: str
    parameters: int
    state_gib: float
    peak_gib: float | None
    usable_gib: float | None
    components: dict[str, float]
    layers: list[tuple[str, str, float]]
    rejected: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit(config: ExperimentConfig, *, n_channels: int, n_classes: int) -> MemoryPlan:
    """Plan an experiment for the hardware it names.

    Raises:
        MemoryFitError: it does not fit, whatever is tried.
    """
    sizes = {"n_channels": n_channels, "n_classes": n_classes}
    with torch.device("meta"):
        model = build_model(config, **sizes)
    freeze(model, config.training.freeze)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state_gib = (parameters * 4 + trained * (4 + STATE_BYTES[config.training.optimizer])) / GIB
    usable_gib = usable(config.hardware)
    common: dict[str, Any] = {"parameters": parameters, "state_gib": state_gib, "usable_gib": usable_gib}
    unknown: dict[str, Any] = {"peak_gib": None, "components": {}, "layers": [], "rejected": []} | common
    if usable_gib is None:
        return _plan(config, next(_cuts(config)), next(_levers(config, model)), **unknown)
    if state_gib > usable_gib:
        raise MemoryFitError(_state_refusal(config, model, parameters, state_gib, usable_gib))
    try:
        return _search(config, model, sizes, usable_gib, common)
    except RuntimeError as error:  # a layer that asks for numbers; one that is wrong will say so again
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning(f"MEMORY IS NOT PREDICTED: the model cannot be traced ({said})")
        return _plan(config, next(_cuts(config)), next(_levers(config, model)), **unknown)


def _search(
    config: ExperimentConfig, model: nn.Module, sizes: dict[str, int], usable_gib: float, common: dict[str, Any]
) -> MemoryPlan:
    """The first combination that fits.

    Raises:
        MemoryFitError: none does.
    """
    rejected: list[str] = []
    least: tuple[float, Levers, Trace] | None = None
    for levers in _levers(config, model):
        traced = trace(config, levers, **sizes)
        for micro in _cuts(config):
            peak_gib = _peak(config, traced, micro)
            if peak_gib <= usable_gib:
                what = _bill(config, traced, micro)
                return _plan(
                    config,
                    micro,
                    levers,
                    peak_gib=peak_gib,
                    components=what.components,
                    layers=what.layers,
                    rejected=rejected,
                    **common,
                )
        rejected.append(
            f"{levers.precision}, checkpointing={levers.checkpointing}, micro-batch {micro}: {_gib(peak_gib)} GiB"
        )
        if least is None or peak_gib < least[0]:
            least = (peak_gib, levers, traced)
    assert least is not None
    what = _bill(config, least[2], micro)
    raise MemoryFitError(_refusal(config, least[0], least[1], micro, usable_gib, what, rejected))


def usable(hardware: HardwareConfig) -> float | None:
    """GiB of the card that a plan may fill; None without a card."""
    if hardware.gpu_memory_gib is None:
        return None
    return _usable(hardware.gpu_memory_gib, hardware.usable_share, hardware.context_mib)


def _usable(gpu_memory_gib: float, usable_share: float, context_mib: float) -> float:
    return gpu_memory_gib * usable_share - context_mib / 1024


def _plan(config: ExperimentConfig, micro: int, levers: Levers, **rest: Any) -> MemoryPlan:
    return MemoryPlan(micro_batch=micro, accumulation=_accumulation(config, micro), **asdict(levers), **rest)


def _accumulation(config: ExperimentConfig, micro: int) -> int:
    """Micro-batches of that size in a global batch."""
    return -(-config.training.global_batch_size // micro)


def _levers(config: ExperimentConfig, model: nn.Module) -> Iterator[Levers]:
    """What may be tried, cheapest first; what was asked for is not changed."""
    wished = config.training.checkpointing
    automatic = (
        ("none", "selective", "full") if usable(config.hardware) and hasattr(model.backbone, "blocks") else ("none",)
    )
    for checkpointing in automatic if wished is Checkpointing.auto else (wished.value,):
        yield Levers(precision=_precision(config).value, checkpointing=checkpointing)


def _cuts(config: ExperimentConfig) -> Iterator[int]:
    """Sizes of micro-batch, largest first; what was asked for is not changed."""
    batch, training = config.training.global_batch_size, config.training
    micro, accumulation = wish(training.micro_batch), wish(training.accumulation)
    if micro is not None or accumulation is not None:
        yield micro or -(-batch // accumulation)
        return
    yield from sorted({-(-batch // parts) for parts in range(1, batch + 1)}, reverse=True)


def _precision(config: ExperimentConfig) -> Precision:
    """What was asked for; auto is bf16 on a card that has it, else fp32."""
    if config.training.precision is not Precision.auto:
        return config.training.precision
    gpu = config.hardware.device is Device.cuda
    return Precision.bf16 if gpu and config.hardware.has_bf16 else Precision.fp32


def _peak(config: ExperimentConfig, traced: Trace, micro: int) -> float:
    """GiB that the allocator reserves at most."""
    blas = BLAS_MIB_HOPPER if (config.hardware.compute_capability or 0) >= 9 else BLAS_MIB
    return reserved_peak(traced.blocks(micro), traced.events(_accumulation(config, micro))) / GIB + blas / 1024


def _bill(config: ExperimentConfig, traced: Trace, micro: int) -> Bill:
    return bill(traced.blocks(micro), traced.events(_accumulation(config, micro)))


def cards() -> dict[str, float]:
    """The cards of ``conf/hardware`` -> GiB that a plan may fill."""
    folder = Path(str(files("vibench.conf"))) / "hardware"
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        if values["gpu_memory_gib"] is not None:
            found[path.stem] = _usable(*(values[key] for key in ("gpu_memory_gib", "usable_share", "context_mib")))
    return found


def _gib(gib: float) -> str:
    return f"{gib:.1f}" if gib >= 1 else f"{gib:.2g}"


def _roomier(gib: float) -> str:
    names = [name for name, there in cards().items() if there >= gib]
    return f"; it would fit hardware={', '.join(names)}" if names else "; no card of conf/hardware would hold it"


def _state_refusal(
    config: ExperimentConfig, model: nn.Module, parameters: int, state_gib: float, usable_gib: float
) -> str:
    name, largest = max(model.named_parameters(), key=lambda item: item[1].numel())
    return (
        f"{config.hardware.name} offers {usable_gib:.1f} GiB, but the weights, gradients and optimizer state of "
        f"{parameters / 1e9:.2f} billion parameters alone take {state_gib:.1f} GiB, at any batch size; largest: {name} "
        f"{tuple(largest.shape)}; use a smaller d_model={config.d_model} or a larger hardware{_roomier(state_gib)}"
    )


def _refusal(
    config: ExperimentConfig,
    peak: float,
    levers: Levers,
    micro: int,
    usable_gib: float,
    what: Bill,
    rejected: list[str],
) -> str:
    parts = " + ".join(f"{name} {_gib(gib)}" for name, gib in what.components.items() if gib >= peak / 100)
    layer, component, gib = what.layers[0]
    return (
        f"{config.hardware.name} offers {_gib(usable_gib)} GiB, the least that this experiment takes is {_gib(peak)} "
        f"GiB ({levers.precision}, checkpointing={levers.checkpointing}, micro-batch {micro}): {parts} GiB; largest: "
        f"{component} of {layer}, {_gib(gib)} GiB; tried: {' | '.join(rejected)}{_roomier(peak)}"
    )
