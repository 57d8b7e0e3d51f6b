"""One optimizer step's gradient from parts of its batch, exactly.

The labels of the whole batch are counted first; each part's losses are divided by those counts, so that the sum over
the parts is the gradient of the un-split batch. A mean of the parts' means is not: uneven parts and masked labels
weigh differently.

Of each part, one task after another is predicted and sent backward as far as the tokens, so that the activations of one
head are held at a time; then the tokens' summed gradient goes through the backbone, once.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from vibench.data.batch import Batch, labelled
from vibench.model import Model
from vibench.step.ranks import own_share


@dataclass(kw_only=True, slots=True)
class Share:
    """What one task contributed to a step.

    Attributes:
        loss: mean over its labels, not weighted; zero where it has none.
        samples: windows with a label, counted on the host.
        squared_norm: of the gradient that its weighted loss sends into the tokens of the batch; None if not measured.
    """

    loss: Tensor
    samples: Tensor
    squared_norm: Tensor | None


def accumulate(
    model: Model,
    batch: Batch,
    *,
    factors: dict[str, float],
    micro_batch: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    scale: Callable[[Tensor], Tensor],
    measure: bool,
) -> dict[str, Share]:
    """Add the gradient of the batch's loss to the parameters.

    Of several ranks, each adds the gradient of its share of the batch, divided by the labels of all of it.

    Args:
        batch: on the host; its parts are moved to the device one by one.
        factors: task -> weight of its mean loss; tasks that are not named are left out.
        micro_batch: windows at once on the device.
        autocast: context of the forward pass.
        scale: what a loss is multiplied by before it goes backward, against underflow.
        measure: also the norms of the tasks' gradients.
    """
    counts, shares = {}, {}
    for name in factors:
        present = batch.present[name]
        counts[name] = model.tasks[name].count(present).clamp(min=1).to(device)
        zero = torch.zeros((), device=device)
        samples = labelled(present).sum()
        shares[name] = Share(loss=zero, samples=samples, squared_norm=zero.clone() if measure else None)

    def loss(name: str, tokens: Tensor, real: Tensor, seen: Batch) -> Tensor:
        task = model.tasks[name]
        with autocast():
            prediction = task(tokens, real)
        mean = task.loss(prediction, seen.targets[name], seen.present[name]) / counts[name]
        shares[name].loss += mean.detach()
        return scale(mean * factors[name])

    def send_back(seen: Batch, names: list[str]) -> None:
        with autocast():
            tokens, real = model.encode(seen)
        gradient = None
        for name in names:
            leaf = tokens.detach().requires_grad_(tokens.requires_grad)
            loss(name, leaf, real, seen).backward()
            if leaf.grad is not None:
                if measure:
                    shares[name].squared_norm += leaf.grad.float().square().sum()
                gradient = leaf.grad if gradient is None else gradient.add_(leaf.grad)
        if gradient is not None:
            tokens.backward(gradient)

    own = own_share(batch)
    for start in range(0, len(own), micro_batch):
        part = own.part(start, start + micro_batch).to(device, non_blocking=True)
        for seen, names in model.views(part, list(factors)):
            send_back(seen, names)  # a function: what it held is let go before the next part comes
    return shares
