"""Who holds the memory at the peak: components and layers, largest first."""

from collections import defaultdict
from dataclasses import dataclass

from vibench.memory.device import GIB
from vibench.memory.tracker import Block

SHOWN = 12  # rows of layers


@dataclass(frozen=True, slots=True)
class Bill:
    """What is alive at the peak of a step.

    Attributes:
        components: parameters, gradients, optimizer, activations, temporaries, input -> GiB, largest first.
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
    kept = set(alive)  # to the end: what the optimizer made and keeps is its state
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


def _component(block: Block, kept: bool) -> str:
    if block.gradient:
        return "gradients"
    if block.phase == "optimizer":
        return "optimizer" if kept else "temporaries"
    return {"weights": "parameters", "input": "input", "backward": "temporaries"}.get(block.phase, "activations")
