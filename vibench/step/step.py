"""One optimizer step: what the training does with a batch, and what a memory trace sees of it."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from vibench.config.training import Optimizer, TrainingConfig
from vibench.data.batch import Batch
from vibench.model import Model
from vibench.step.micro_batch import Share, accumulate
from vibench.step.precision import autocast
from vibench.step.task_weights import Weighing

VARIANCE_RATE = 0.02  # of the log variances of the tasks, after the warm-up


def build_optimizer(
    model: nn.Module, weighing: Weighing, config: TrainingConfig, precision: str
) -> torch.optim.Optimizer:
    """The optimizer of what is trained.

    Adam and AdamW are fused: faster on any device, and without the temporary copy of all weights that the unfused ones
    make on a GPU. Not in fp16, where a fused one would have to be told of an overflow through Lightning's wrapper, and
    is not; and not SGD, whose fused form takes no weights without momentum beside others with it.
    """
    groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    if variances := list(weighing.parameters()):
        # no decay: a variance of 1 is not where it should go; a rate of its own: it has far to go, in units of its own
        groups.append({"params": variances, "weight_decay": 0.0, "peak": VARIANCE_RATE})
    common = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer is Optimizer.sgd:
        return torch.optim.SGD(groups, momentum=0.9, **common)
    kind = torch.optim.AdamW if config.optimizer is Optimizer.adamw else torch.optim.Adam
    return kind(groups, **common, fused=precision != "fp16")


class Step:
    """Forward and backward in micro-batches, clipping, the optimizer, and gradients freed at once.

    Args:
        model: what is trained.
        weighing: what its tasks weigh.
        config: how.
        precision: fp32, bf16 or fp16.
        scaler: of the loss, for fp16.
        device: where the model is.
    """

    def __init__(
        self,
        model: Model,
        weighing: Weighing,
        config: TrainingConfig,
        *,
        precision: str,
        scaler: torch.amp.GradScaler,
        device: torch.device,
    ) -> None:
        self.model, self.weighing, self.config = model, weighing, config
        self.precision, self.scaler, self.device = precision, scaler, device

    def __call__(
        self,
        batch: Batch,
        optimizer: torch.optim.Optimizer,
        factors: dict[str, float],
        *,
        micro_batch: int,
        measure: bool,
        check: Callable[[dict[str, Share]], None],
    ) -> tuple[dict[str, Share], Tensor | None]:
        """Train on one batch; what each task contributed, and the norm of the gradient where it is clipped.

        Args:
            batch: on the host.
            factors: task -> weight, of the tasks that the step trains.
            micro_batch: windows at once on the device.
            measure: also the norms of the tasks' gradients.
            check: called with the shares before any weight is changed.
        """
        shares = accumulate(
            self.model,
            batch,
            factors=factors,
            micro_batch=micro_batch,
            device=self.device,
            autocast=partial(autocast, self.precision, self.device),
            scale=self.scaler.scale,
            measure=measure,
        )
        check(shares)
        if self.weighing.log_variance:
            told = {name: share.loss for name, share in shares.items() if share.samples}
            if (objective := self.weighing.objective(told)) is not None:
                self.scaler.scale(objective).backward()
        self.scaler.unscale_(optimizer)
        norm = self._clip()
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)  # at once: old gradients need not live through the next forward pass
        return shares, norm

    def _clip(self) -> Tensor | None:
        if self.config.clip_norm is None:
            return None
        return nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
