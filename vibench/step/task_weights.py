"""How much each task counts in the total loss, and which of them a step trains."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vibench.config.task import TaskConfig
from vibench.config.training import TaskOrder, TaskWeights
from vibench.model import Model


class Weighing(nn.Module):
    """Fixed weights, or weights by what each task leaves unexplained.

    Learned (Kendall et al. 2018, https://arxiv.org/abs/1705.07115): a task with variance ``exp(s)`` counts
    ``exp(-s)``, half of it where its loss is a squared error, and ``s / 2`` is added, so that no variance grows without
    bound. The configured weight stays a factor of both.

    Args:
        model: whose tasks they are.
        tasks: name -> config.
        kind: fixed or learned.
    """

    def __init__(self, model: Model, tasks: dict[str, TaskConfig], kind: TaskWeights) -> None:
        super().__init__()
        self.fixed = {name: task.weight for name, task in tasks.items()}
        self.share = {name: 0.5 if task.gaussian else 1.0 for name, task in model.tasks.items()}
        learned = tasks if kind is TaskWeights.learned else {}
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in learned})

    def factors(self) -> dict[str, float]:
        """Task -> what its mean loss is multiplied by."""
        if not self.log_variance:
            return dict(self.fixed)
        precision = torch.stack([-s.detach() for s in self.log_variance.values()]).exp().tolist()  # one wait
        names = self.log_variance.keys()
        return {n: self.fixed[n] * self.share[n] * p for n, p in zip(names, precision, strict=True)}

    def objective(self, losses: dict[str, Tensor]) -> Tensor | None:
        """What the variances are to make small, given the losses of the tasks that have labels; None if fixed."""
        terms = [
            self.fixed[name] * (self.share[name] * (-s).exp() * losses[name].detach() + s / 2)
            for name, s in self.log_variance.items()
            if name in losses
        ]
        return torch.stack(terms).sum() if terms else None


def in_turn(
    tasks: dict[str, TaskConfig],
    order: TaskOrder,
    *,
    epoch: int,
    epochs: int,
    turns: dict[str, int],
    has_label: Callable[[str], bool],
) -> list[str]:
    """Names of the tasks that a step trains.

    When tasks alternate it is the one with the fewest turns of those with a label in the batch: rare labels are used.

    Args:
        epoch: counted from 1, of ``epochs``.
        turns: task -> steps that trained it, see :func:`caught_up`.
        has_label: whether the batch has a label of a task.
    """
    names = list(tasks)
    if order is TaskOrder.sequential:
        return [names[(epoch - 1) * len(names) // epochs]]
    on = [name for name in names if tasks[name].trains_in(epoch)]
    if order is TaskOrder.joint:
        return on
    return [min([name for name in on if has_label(name)] or on, key=turns.__getitem__)]


def caught_up(tasks: dict[str, TaskConfig], turns: dict[str, int], epoch: int) -> dict[str, int]:
    """The turns at the beginning of an epoch: a task that joins begins with the fewest of those that are there."""
    there = [turns[name] for name, task in tasks.items() if task.trains_in(epoch) and task.trains_in(epoch - 1)]
    return {
        name: max(turns[name], min(there)) if there and task.trains_in(epoch) else turns[name]
        for name, task in tasks.items()
    }
