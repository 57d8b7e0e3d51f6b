"""One optimizer step: what the training does with a batch, and what a memory trace sees of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from vibench.config.training import TrainingConfig
from vibench.data.batch import Batch
from vibench.model import Model
from vibench.step.micro_batch import Share, accumulate
from vibench.step.precision import autocast
from vibench.step.ranks import ranks, sum_over_ranks
from vibench.step.task_weights import Weighing

Check = Callable[[dict[str, Share], Tensor], bool]


class Step:
    """Forward and backward in micro-batches, clipping, the optimizer, and gradients freed at once.

    Args:
        model: what is trained.
        weighing: what its tasks weigh.
        config: how.
        precision: fp32, bf16 or fp16.
        scaler: of the loss, for fp16.
        device: where the model is.
        sharded: every rank holds a part of the weights.
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
        sharded: bool = False,
    ) -> None:
        self.model, self.weighing, self.config = model, weighing, config
        self.precision, self.scaler, self.device, self.sharded = precision, scaler, device, sharded

    def __call__(
        self,
        batch: Batch,
        optimizer: torch.optim.Optimizer,
        factors: dict[str, float],
        *,
        micro_batch: int,
        measure: bool,
        check: Check,
    ) -> tuple[dict[str, Share], Tensor]:
        """Train on one batch; what each task contributed, and the norm of the gradient.

        Args:
            batch: on the host.
            factors: task -> weight, of the tasks that the step trains.
            micro_batch: windows at once on the device.
            measure: also the norms of the tasks' gradients.
            check: called with the shares and the norm before any weight is changed; False leaves all as they are.
        """
        shares = self.gradient(batch, factors, micro_batch=micro_batch, measure=measure)
        self.join(shares)
        return shares, self.update(optimizer, shares, check)

    def gradient(self, batch: Batch, factors: dict[str, float], *, micro_batch: int, measure: bool) -> dict[str, Share]:
        """Add the gradient of a batch to the weights; what each task contributed, on this rank."""
        return accumulate(
            self.model,
            batch,
            factors=factors,
            micro_batch=micro_batch,
            device=self.device,
            autocast=partial(autocast, self.precision, self.device),
            scale=self._scale,
            measure=measure,
        )

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        shares: dict[str, Share],
        check: Check,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Tensor:
        """Change the weights by their gradients, which are freed at once; the norm of the gradient.

        Args:
            check: see :meth:`__call__`. In fp16 a norm may be infinite: the scaler then leaves the weights as they are.
            around: context of the change of the weights.
        """
        if self.weighing.log_variance:
            told = {name: share.loss for name, share in shares.items() if share.samples}
            if (objective := self.weighing.objective(told)) is not None:
                self.scaler.scale(objective).backward()
        self.scaler.unscale_(optimizer)
        weights = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in weights])  # also where it is not clipped: it may not be finite
        if check(shares, norm.full_tensor() if self.sharded else norm):
            if self.config.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(weights, self.config.clip_norm, norm)
            with around():
                self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)  # at once: old gradients need not live through the next forward pass
        return norm.full_tensor() if self.sharded else norm

    def _scale(self, loss: Tensor) -> Tensor:
        """Against underflow, and against the mean that sharding takes over the ranks: the parts are to be summed."""
        return self.scaler.scale(loss * ranks() if self.sharded else loss)

    def join(self, shares: dict[str, Share]) -> None:
        """What the ranks found of their shares of the batch, together; sharded gradients are summed already."""
        if ranks() == 1:
            return
        numbers = [share.loss for share in shares.values()]
        numbers += [share.squared_norm for share in shares.values() if share.squared_norm is not None]
        sum_over_ranks(numbers)
        if self.sharded:
            for share in shares.values():
                if share.squared_norm is not None:
                    share.squared_norm /= ranks() ** 2
        else:
            sum_over_ranks([p.grad for p in self.model.parameters() if p.grad is not None])
