"""Which windows, and which layer, made a number that is not finite. Asked only when it has happened."""

import torch
from torch import Tensor, nn

from vibench.data.batch import Batch
from vibench.errors import DataError
from vibench.step.precision import autocast
from vibench.step.ranks import ranks
from vibench.step.step import Step

SHOWN = 3  # windows that are named


def find_not_finite(step: Step, batch: Batch, factors: dict[str, float], names: list[str]) -> str:
    """The windows at fault and the first layer whose result is not finite, in words.

    The batch is predicted window by window, so that one does not hide the next; where every prediction and loss is
    finite, the gradient is made window by window. Leaves the gradients of the weights in disorder.

    Args:
        step: whose model and precision it was.
        batch: on the host.
        factors: task -> weight, of the tasks that were trained.
        names: of its windows.

    Raises:
        DataError: it is the data: a signal or a target is not finite.
    """
    _check_data(batch, factors, names)
    layers: dict[int, str] = {}
    for row in range(len(batch)):
        layer = _first_layer(step, batch.part(row, row + 1).to(step.device), factors)
        if layer is not None:
            layers[row] = layer
    if layers:
        return f"{_listed([names[row] for row in layers])}; first layer: {layers[min(layers)]}"
    whole = [name for name, p in step.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    guilty = _in_backward(step, batch, factors) if ranks() == 1 else []
    told = _listed([names[row] for row in guilty]) if guilty else f"no single one of {_listed(names)}"
    return f"{told}; the backward pass, gradient of {whole[-1] if whole else 'none of the weights alone'}"


def _check_data(batch: Batch, factors: dict[str, float], names: list[str]) -> None:
    for row, name in enumerate(names):
        if not batch.signal[row].isfinite().all():
            raise DataError(f"the signal of {name} is not finite; repair its recording, or leave it out")
        for task in factors:
            target, present = batch.targets[task][row], batch.present[task][row]
            if target.is_floating_point() and not target[present].isfinite().all():
                raise DataError(f"the target of {task} in {name} is not finite; repair its recording, or leave it out")


def _first_layer(step: Step, part: Batch, factors: dict[str, float]) -> str | None:
    """The first layer, in the order of the forward pass, whose result is not finite; a loss counts as the last."""
    found: list[str] = []

    def watch(name: str) -> object:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            real = isinstance(output, Tensor) and output.is_floating_point()
            if not found and real and not output.isfinite().all():
                found.append(name)

        return look

    leaves = [(name, m) for name, m in step.model.named_modules() if name]
    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            for seen, names in step.model.views(part, list(factors)):
                with autocast(step.precision, step.device):
                    tokens, real = step.model.encode(seen)
                    predictions = {name: step.model.tasks[name](tokens, real) for name in names}
                for name, prediction in predictions.items():
                    loss = step.model.tasks[name].loss(prediction, seen.targets[name], seen.present[name])
                    if not found and not loss.isfinite():
                        found.append(f"the loss of {name}, of finite predictions")
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _in_backward(step: Step, batch: Batch, factors: dict[str, float]) -> list[int]:
    guilty = []
    for row in range(len(batch)):
        step.model.zero_grad(set_to_none=True)
        step.gradient(batch.part(row, row + 1), factors, micro_batch=1, measure=False)
        if any(p.grad is not None and not p.grad.isfinite().all() for p in step.model.parameters()):
            guilty.append(row)
    return guilty


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{'window' if len(names) == 1 else 'windows'} {', '.join(names[:SHOWN])}{more}"
