"""Who holds the memory at the peak: components and layers, largest first."""

from collections import defaultdict
from dataclasses import dataclass

from vibench.memory.device import GIB
from vibench.memory.tracker import Block, lasting

SHOWN = 12  # rows of layers
POINTS = 240  # of a picture


PHASES = {  # what was going on -> the component of what was made then and is no gradient
    "weights": "parameters",
    "metrics": "metrics",
    "input": "input",
    "backward": "temporaries",
    "scratch": "temporaries",
    "gathered": "gathered weights",
}


@dataclass(frozen=True, slots=True)
class Bill:
    """What is alive at the peak of a step.

    Attributes:
        components: parameters, gradients, optimizer, activations, temporaries, metrics, input, gathered weights -> GiB,
            largest first.
        layers: (layer, component, GiB), largest first.
    """

    components: dict[str, float]
    layers: list[tuple[str, str, float]]


def bill(blocks: list[Block], events: list[tuple[int, bool]]) -> Bill:
    """The bill at the first moment at which most bytes are alive."""
    alive: dict[int, None] = {}
    live = peak = 0
    at_peak: list[int] = []
    for number, comes in events:
        if comes:
            alive[number] = None
            live += blocks[number].nbytes
            if live > peak:
                peak, at_peak = live, list(alive)
        else:
            del alive[number]
            live -= blocks[number].nbytes
    kept = set(alive)  # to the end: the state of the optimizer
    components: dict[str, int] = defaultdict(int)
    layers: dict[tuple[str, str], int] = defaultdict(int)
    for number in at_peak:
        block = blocks[number]
        component = _component(block, number in kept)
        components[component] += block.nbytes
        layers[block.layer or "-", component] += block.nbytes
    return Bill(
        components={name: size / GIB for name, size in sorted(components.items(), key=lambda item: -item[1])},
        layers=[(*key, size / GIB) for key, size in sorted(layers.items(), key=lambda item: -item[1])[:SHOWN]],
    )


def timeline(blocks: list[Block], events: list[tuple[int, bool]]) -> dict[str, list[float]]:
    """Component -> GiB alive at ``POINTS`` moments from the first forward pass on; at each the most since the last."""
    kept = lasting(events)
    begin = next((at for at, (number, _) in enumerate(events) if blocks[number].phase == "forward"), 0)
    live: dict[str, int] = defaultdict(int)
    total = 0
    highest: dict[int, tuple[int, dict[str, int]]] = {}
    for at, (number, comes) in enumerate(events):
        size = blocks[number].nbytes if comes else -blocks[number].nbytes
        live[_component(blocks[number], number in kept)] += size
        total += size
        if at >= begin:
            point = (at - begin) * POINTS // (len(events) - begin)
            if point not in highest or total > highest[point][0]:
                highest[point] = (total, dict(live))
    moments = [highest[point][1] for point in sorted(highest)]
    return {name: [moment.get(name, 0) / GIB for moment in moments] for name in live}


def _component(block: Block, kept: bool) -> str:
    if block.gradient:
        return "gradients"
    if block.phase == "optimizer":
        return "optimizer" if kept else "temporaries"
    return PHASES.get(block.phase, "activations")
