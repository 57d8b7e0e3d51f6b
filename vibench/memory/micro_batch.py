"""One optimizer step's gradient from parts of its batch, exactly.

The labels of the whole batch are counted first; each part's losses are divided by those counts, so that the sum over
the parts is the gradient of the un-split batch. A mean of the parts' means is not: uneven parts and masked labels
weigh differently.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vibench.data.batch import Batch
from vibench.model import Model


def accumulate(
    model: Model,
    batch: Batch,
    *,
    micro_batch: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager],
    backward: Callable[[Tensor], None],
) -> dict[str, Tensor]:
    """Add the gradient of the batch's loss to the parameters and return each task's mean loss, detached.

    Args:
        batch: on the host; its parts are moved to the device one by one.
        micro_batch: windows at once on the device.
        autocast: context of the forward pass.
        backward: called with the loss of each part.
    """
    counts = {name: task.count(batch.present[name]).clamp(min=1).to(device) for name, task in model.tasks.items()}
    losses = {name: torch.zeros((), device=device) for name in model.tasks}
    for start in range(0, len(batch), micro_batch):
        part = batch.part(start, start + micro_batch).to(device, non_blocking=True)
        with autocast():
            predictions = model(part)
        total = torch.zeros((), device=device)
        for name, task in model.tasks.items():
            mean = task.loss(predictions[name], part.targets[name], part.present[name]) / counts[name]
            losses[name] += mean.detach()
            total = total + task.weight * mean
        backward(total)
    return losses
