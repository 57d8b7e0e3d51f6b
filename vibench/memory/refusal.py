"""What is said of an experiment that does not fit."""

from torch import nn

from vibench.config.experiment import ExperimentConfig
from vibench.errors import MemoryFitError
from vibench.memory.bill import Bill
from vibench.memory.cards import roomier


def gib(number: float) -> str:
    """GiB in two digits, or to a tenth."""
    return f"{number:.1f}" if number >= 1 else f"{number:.2g}"


def state_alone(
    config: ExperimentConfig,
    model: nn.Module,
    parameters: int,
    state_gib: float,
    usable_gib: float,
    rejected: list[str],
) -> MemoryFitError:
    """Of a model whose weights do not fit."""
    name, largest = max(model.named_parameters(), key=lambda item: item[1].numel())
    return MemoryFitError(
        f"{config.hardware.name} offers {gib(usable_gib)} GiB, but the weights, gradients and optimizer state of "
        f"{parameters / 1e9:.2f} billion parameters alone take {gib(state_gib)} GiB, at any batch size; "
        f"largest: {name} {tuple(largest.shape)}; use a smaller d_model={config.d_model} or a larger hardware; "
        f"{roomier(state_gib)}; tried: {' | '.join(rejected)}"
    )


def nothing_fits(
    config: ExperimentConfig, peak: float, how: str, usable_gib: float, what: Bill, rejected: list[str]
) -> MemoryFitError:
    """Of an experiment whose step does not fit.

    Args:
        peak, how, what: the least there is, with which levers, and who holds it.
    """
    parts = " + ".join(f"{name} {gib(there)}" for name, there in what.components.items() if there >= peak / 100)
    layer, component, most = what.layers[0]
    return MemoryFitError(
        f"{config.hardware.name} offers {gib(usable_gib)} GiB, the least that this experiment takes is {gib(peak)} "
        f"GiB ({how}): {parts} GiB; largest: {component} of {layer}, {gib(most)} GiB; {roomier(peak)}; "
        f"tried: {' | '.join(rejected)}"
    )
