"""What the planner decides: how a batch is cut, in which arithmetic, what is kept, where the optimizer keeps its state.

The levers are tried in the order of what they cost (``levers``). Each combination is traced once (``trace``) and
replayed through the allocator for the sizes of micro-batch (``allocator``). An experiment that does not fit with any is
refused before anything is started, and so is one that cannot end in its time.
"""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import requeues_left
from vibench.config.training import Optimizer, Precision
from vibench.errors import ConfigError
from vibench.memory.allocator import reserved_peak
from vibench.memory.bill import Bill, bill, timeline
from vibench.memory.cards import usable
from vibench.memory.device import GIB
from vibench.memory.duration import UNKNOWN, Duration, duration, words
from vibench.memory.host import host_bill
from vibench.memory.levers import candidates, cuts, parts_of
from vibench.memory.placement import placed, replicated, sharded
from vibench.memory.refusal import gib, nothing_fits, state_alone
from vibench.memory.trace import Levers, Trace, live_peak, trace
from vibench.model import Model, build_model, freeze

log = logging.getLogger("vibench")
STATE_BYTES = {Optimizer.adamw: 8, Optimizer.adam: 8, Optimizer.sgd: 4}  # per trained parameter, all in fp32
BLAS_MIB, BLAS_MIB_HOPPER = 16.25, 32  # workspace of cuBLAS, in the allocator and in no trace


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How the training step is run. ``micro_batch x accumulation x devices`` covers the global batch.

    Attributes:
        precision: fp32, bf16 or fp16.
        checkpointing: none, selective, full or sliced.
        optimizer_state: device, int8 or host.
        sharding: none or full.
        devices: cards that train together.
        state_gib: weights, gradients and optimizer state of a device.
        peak_gib: what the allocator of a device will reserve at most; None where nothing was traced.
        usable_gib: what a device offers; None where there is no card to plan for.
        components, layers: who holds it, in GiB, see :class:`Bill`.
        timeline: component -> GiB alive at even distances in two steps and a prediction, for a picture.
        host: what the run takes of the host's memory, in GiB, largest first.
        step_seconds, run_seconds: estimates; None where the rates of the hardware are not known.
        pace: what measured runs on that hardware took over their first estimates, and is in these; None before there
            were any.
        rejected: the combinations that were tried before, and what they would take.
    """

    micro_batch: int
    accumulation: int
    precision: str
    checkpointing: str
    optimizer_state: str
    sharding: str
    devices: int
    parameters: int
    state_gib: float
    peak_gib: float | None
    usable_gib: float | None
    components: dict[str, float]
    layers: list[tuple[str, str, float]]
    timeline: dict[str, list[float]]
    host: dict[str, float]
    step_seconds: float | None
    run_seconds: float | None
    pace: float | None
    rejected: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        """In a line: how the batch is cut, memory of card and host, time."""
        told = [
            f"micro-batch {self.micro_batch} x {self.accumulation}" + (f" x {self.devices}" if self.devices > 1 else "")
        ]
        told[0] += f", {self.precision}" + (", sharded" if self.sharding == "full" else "")
        if self.peak_gib is not None and self.usable_gib is not None:
            told.append(f"{self.peak_gib:.2f} of {self.usable_gib:.2f} GiB")
        told.append(f"host {sum(self.host.values()):.1f} GiB")
        if self.run_seconds is not None:
            told.append(f"about {words(self.run_seconds)}")
        return ", ".join(told)


class Traces:
    """Traces of one experiment, each made once: cards whose kernels are alike share them."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def __call__(self, make: Callable[..., Any], config: ExperimentConfig, levers: Levers, **sizes: int) -> Any:
        capability = config.hardware.compute_capability
        alike = dataclasses.replace(levers, optimizer_state="device", sharding="none")  # one trace, placed otherwise
        key = (make, alike, None if capability is None else capability >= 8)
        if key not in self._made:
            try:
                self._made[key] = make(config, alike, **sizes)
            except RuntimeError as error:
                self._made[key] = error
        if isinstance(self._made[key], RuntimeError):
            raise self._made[key]
        return self._made[key]


def fit(
    config: ExperimentConfig,
    *,
    n_channels: int,
    n_classes: int,
    windows: dict[str, int] | None = None,
    usable_gib: float | None = None,
    traces: Traces | None = None,
    on_cpu: bool = False,
    requeues: int = 0,
) -> MemoryPlan:
    """Plan an experiment for the hardware it names.

    Args:
        n_channels, n_classes: of the data.
        windows: split -> how many; without it no time is estimated.
        usable_gib: what the card offers, where that is known better than by its name.
        traces: of the same experiment on other hardware.
        on_cpu: trace it also where there is no card to plan for.
        requeues: how often something will let the run go on after its time limit.

    Raises:
        MemoryFitError: it does not fit, whatever is tried.
        TimeFitError: it cannot end within hardware.slurm.time.
        ConfigError: the model does not exist in the precision that was asked for.
    """
    with torch.device("meta"):
        model = build_model(config, n_channels=n_channels, n_classes=n_classes)
    freeze(model, config.training.freeze)
    sizes = {"n_channels": n_channels, "n_classes": n_classes}
    planner = _Planner(config, model, sizes, traces or Traces(), requeues)
    if usable_gib is None:
        usable_gib = usable(config.hardware)
    return planner.plan(windows or {}, usable_gib, on_cpu=on_cpu)


class _Planner:
    def __init__(
        self, config: ExperimentConfig, model: Model, sizes: dict[str, int], traces: Traces, requeues: int
    ) -> None:
        self.config, self.model, self.sizes, self.traces, self.requeues = config, model, sizes, traces, requeues
        self.parameters = sum(p.numel() for p in model.parameters())
        self.trained = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def plan(self, windows: dict[str, int], usable_gib: float | None, *, on_cpu: bool) -> MemoryPlan:
        levers, micro, traced, rejected = self._choose(usable_gib, on_cpu=on_cpu)
        took = self._duration(levers, micro, windows) if windows else UNKNOWN
        found: dict[str, Any] = {"peak_gib": None, "components": {}, "layers": [], "timeline": {}}
        if traced is not None:
            what, blocks, events = self._bill(traced, levers, micro), *self._replay(traced, levers, micro)
            found = {"components": what.components, "layers": what.layers, "timeline": timeline(blocks, events)}
            found["peak_gib"] = self._peak(traced, levers, micro)
        return MemoryPlan(
            micro_batch=micro,
            accumulation=parts_of(self.config, micro),
            devices=self.config.hardware.devices,
            parameters=self.parameters,
            state_gib=self._state_gib(levers),
            usable_gib=usable_gib,
            host=self._host(levers, windows, found["peak_gib"]),
            step_seconds=took.step,
            run_seconds=took.run,
            pace=took.pace,
            rejected=rejected,
            **asdict(levers),
            **found,
        )

    def _choose(self, usable_gib: float | None, *, on_cpu: bool) -> tuple[Levers, int, Trace | None, list[str]]:
        """The first combination that fits, and those before it.

        Raises:
            MemoryFitError: none does.
        """
        levers = next(iter(candidates(self.config, self.model)))
        micro = cuts(self.config)[-1]
        if usable_gib is None and not on_cpu:
            return levers, micro, None, []
        try:
            return self._try(levers, micro, usable_gib)
        except ConfigError as error:
            if self.config.training.precision is not Precision.auto:
                raise
            fp32 = dataclasses.replace(self.config.training, precision=Precision.fp32)
            self.config = dataclasses.replace(self.config, training=fp32)
            *found, rejected = self._try(dataclasses.replace(levers, precision="fp32"), micro, usable_gib)
            return *found, [str(error).partition("; use ")[0], *rejected]
        except RuntimeError as error:  # a layer that asks for numbers; one that is wrong will say so again
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning(f"MEMORY IS NOT PREDICTED: the model cannot be traced ({said})")
            tried = list(candidates(self.config, self.model))
            fits = [one for one in tried if usable_gib is None or self._state_gib(one) <= usable_gib]
            return (fits or tried[-1:])[0], micro, None, []

    def _try(self, levers: Levers, micro: int, usable_gib: float | None) -> tuple[Levers, int, Trace | None, list[str]]:
        if usable_gib is None:
            return levers, micro, self._trace(levers), []
        return self._search(usable_gib)

    def _search(self, usable_gib: float) -> tuple[Levers, int, Trace | None, list[str]]:
        rejected: list[str] = []
        least: tuple[float, Levers, Trace, int] | None = None
        for levers in candidates(self.config, self.model):
            name = _name(levers)
            if (state := self._state_gib(levers)) > usable_gib:
                said = (
                    f"{_name(levers, all_of_it=False)}: weights, gradients and optimizer state alone {gib(state)} GiB"
                )
                if said not in rejected:
                    rejected.append(said)
                continue
            traced = self._trace(levers)
            micro = self._largest(traced, levers, usable_gib)
            if micro is not None:
                return levers, micro, traced, rejected
            # a whole batch has no old gradients beside the new ones, so the smallest part is not always the least
            ends = (cuts(self.config)[0], cuts(self.config)[-1])
            peak, micro = min((self._peak(traced, levers, size), size) for size in ends)
            rejected.append(f"{name}, micro-batch {micro}: {gib(peak)} GiB")
            if least is None or peak < least[0]:
                least = (peak, levers, traced, micro)
        if least is None:
            leanest = min(candidates(self.config, self.model), key=self._state_gib)
            raise state_alone(self.config, self.model, self.parameters, self._state_gib(leanest), usable_gib, rejected)
        peak, levers, traced, micro = least
        what = self._bill(traced, levers, micro)
        raise nothing_fits(self.config, peak, f"{_name(levers)}, micro-batch {micro}", usable_gib, what, rejected)

    def _largest(self, traced: Trace, levers: Levers, usable_gib: float) -> int | None:
        """The largest cut of the batch that fits, found by halving: of two parts, the smaller never takes more."""
        sizes = cuts(self.config)
        fits = None
        low, high = 0, len(sizes) - 1
        while low <= high:
            middle = high if fits is None and high == len(sizes) - 1 else (low + high) // 2  # the whole batch first
            if self._peak(traced, levers, sizes[middle]) <= usable_gib:
                fits, low = sizes[middle], middle + 1
            else:
                high = middle - 1
        return fits

    def _trace(self, levers: Levers) -> Trace:
        """
        Raises:
            ConfigError: the model cannot be run in this precision, and can in fp32.
        """
        try:
            return self.traces(trace, self.config, levers, **self.sizes)
        except RuntimeError as error:
            if levers.precision == "fp32":
                raise
            self.traces(trace, self.config, dataclasses.replace(levers, precision="fp32"), **self.sizes)
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            backbone = self.config.backbone._target_.rpartition(".")[2]
            raise ConfigError(
                [f"{backbone} cannot be trained in {levers.precision}: {said}; use training.precision=fp32"]
            ) from error

    def _state_gib(self, levers: Levers) -> float:
        """Weights, gradients and optimizer state of a device."""
        kept = {"device": STATE_BYTES[self.config.training.optimizer], "int8": 2.03, "host": 0}[levers.optimizer_state]
        whole = self.parameters * 4 + self.trained * (4 + kept)
        return whole / GIB / (self.config.hardware.devices if levers.sharding == "full" else 1)

    def _replay(self, traced: Trace, levers: Levers, micro: int) -> tuple[list[Any], list[tuple[int, bool]]]:
        events = traced.events(parts_of(self.config, micro))
        blocks = placed(traced.blocks(micro), events, levers.optimizer_state)
        if levers.sharding == "full":
            return sharded(blocks, events, self.model, self.config.hardware.devices)
        return replicated(blocks, events) if self.config.hardware.devices > 1 else (blocks, events)

    def _peak(self, traced: Trace, levers: Levers, micro: int) -> float:
        """GiB that the allocator reserves at most; on a CPU what is alive at most."""
        blocks, events = self._replay(traced, levers, micro)
        capability = self.config.hardware.compute_capability
        if capability is None:
            return live_peak(blocks, events)[0] / GIB
        if levers.sharding == "full":  # the test is one card's, of a whole model without the state of an optimizer
            scored = [block.phase == "score" for block in blocks]
            test = self.parameters * 4 + live_peak(blocks, [event for event in events if scored[event[0]]])[0]
            return max(reserved_peak(blocks, events), test) / GIB + BLAS_MIB_HOPPER / 1024
        return reserved_peak(blocks, events) / GIB + (BLAS_MIB_HOPPER if capability >= 9 else BLAS_MIB) / 1024

    def _bill(self, traced: Trace, levers: Levers, micro: int) -> Bill:
        return bill(*self._replay(traced, levers, micro))

    def _duration(self, levers: Levers, micro: int, windows: dict[str, int]) -> Duration:
        def traced(make: Callable[..., Any]) -> Any:
            return self.traces(make, self.config, levers, **self.sizes)

        return duration(self.config, levers, micro, windows, traced, self.requeues)

    def _host(self, levers: Levers, windows: dict[str, int], peak_gib: float | None) -> dict[str, float]:
        on_cpu = self.config.hardware.gpu_memory_gib is None
        return host_bill(
            self.config,
            levers,
            n_channels=self.sizes["n_channels"],
            parameters=self.parameters,
            trained=self.trained,
            windows=sum(windows.values()),
            step_gib=(peak_gib or self._state_gib(levers)) if on_cpu else 0.0,
        )


def refit(
    config: ExperimentConfig,
    plan: MemoryPlan,
    free_gib: float,
    *,
    n_channels: int,
    n_classes: int,
    windows: dict[str, int],
) -> MemoryPlan:
    """The plan, or a new one where the card has less memory free than it needs: others are on it.

    Args:
        free_gib: of the card, its context already taken.

    Raises:
        MemoryFitError: it does not fit what is free.
    """
    if plan.peak_gib is None or plan.peak_gib <= free_gib:
        return plan
    log.warning(
        f"THE CARD IS SHARED: {gib(free_gib)} GiB are free, the plan needs {gib(plan.peak_gib)}; "
        "planning anew, with the same global batch"
    )
    margin = free_gib * config.hardware.usable_share  # of what is free, as of a whole card
    sizes = {"n_channels": n_channels, "n_classes": n_classes}
    return fit(config, **sizes, windows=windows, usable_gib=margin, requeues=requeues_left())


def _name(levers: Levers, *, all_of_it: bool = True) -> str:
    """A combination in words; what is as usual is left out."""
    words = [levers.precision]
    words += [f"checkpointing={levers.checkpointing}"] if all_of_it else []
    words += [f"optimizer_state={levers.optimizer_state}"] if levers.optimizer_state != "device" else []
    words += ["sharding=full"] if levers.sharding == "full" else []
    return ", ".join(words)
