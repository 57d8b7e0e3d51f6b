"""The samples that were hidden from the model: pre-training without a label.

Shapes: B windows, G sequences per window, C channels, N tokens, D model width, L samples of a window, P samples that
are hidden together, K = L / P stretches of a window.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from vibench.config.task import MaskedReconstructionConfig
from vibench.data.batch import Batch, Target
from vibench.tasks.samples import Samples
from vibench.tasks.task import Sizes, Task, check_present, check_shape


class MaskedReconstruction(Task):
    """Tell hidden stretches of the signal from what is around them (after Nie et al. 2023,
    https://arxiv.org/abs/2211.14730, section 3.2).

    The signal itself is hidden, before any embedding, in all channels at once: neither overlapping patches nor a
    second sensor can show what is asked for. In training every window has stretches of its own hidden; in evaluation
    all have the same. The squared error is over the hidden samples alone.

    Args:
        sizes: of the model and the data.
        mask_ratio: share of the stretches that is hidden.
        mask_len: P; divides L.
    """

    gaussian = True

    def __init__(self, *, sizes: Sizes, mask_ratio: float, mask_len: int) -> None:
        super().__init__()
        self.mask_len, self.stretches = mask_len, sizes.window // mask_len
        self.hidden = round(mask_ratio * self.stretches)
        self.head = Samples(sizes, self.stretches, mask_len)
        order = np.random.default_rng(0).permutation(self.stretches)  # of evaluation
        self.register_buffer("fixed", torch.tensor(order.tolist()), persistent=False)

    @staticmethod
    def target(config: MaskedReconstructionConfig, window: int) -> Target:
        """Every channel that exists has one; its values are the signal's own, which :meth:`view` puts in place."""
        return Target(of=lambda recording, future, end: 0.0, shape=(), dtype=torch.float32, per_channel=True)

    def view(self, batch: Batch, name: str) -> Batch:
        """The batch with stretches of its signal at zero; target (B, C, L), present (B, C, L) where it is hidden."""
        if self.training:
            rank = torch.rand(len(batch), self.stretches, device=batch.signal.device).argsort(1)
        else:
            rank = self.fixed.expand(len(batch), -1)
        hidden = (rank < self.hidden).repeat_interleave(self.mask_len, dim=1)[:, None]  # (B, 1, L)
        return dataclasses.replace(
            batch,
            signal=batch.signal.masked_fill(hidden, 0),
            targets=batch.targets | {name: batch.signal},
            present=batch.present | {name: batch.present[name][..., None] & hidden},
        )

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, G, N, D) -> (B, C, L)."""
        return self.head(tokens)

    def count(self, present: Tensor) -> Tensor:
        """Hidden samples, from the channels that exist (B, C) or from the samples that are hidden (B, C, L)."""
        return present.sum() * (1 if present.ndim == 3 else self.hidden * self.mask_len)

    def loss(self, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        check_shape("masked_reconstruction", prediction, target)
        check_present("masked_reconstruction", present, target.shape)
        return ((prediction.float() - target).square() * present).sum()

    def naive(self, batch: Batch, known: Tensor) -> Tensor:
        """The mean of what can be seen of the channel."""
        seen = batch.signal.shape[-1] - self.hidden * self.mask_len
        return (batch.signal.sum(-1, keepdim=True) / seen).expand_as(batch.signal)

    def metrics(self) -> MetricCollection:
        metrics = {"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), "r2": R2Score()}
        return MetricCollection(metrics, compute_groups=False).set_dtype(torch.float64)

    def update(
        self, metrics: MetricCollection, prediction: Tensor, target: Tensor, present: Tensor, batch: Batch
    ) -> None:
        if present.any():
            metrics.update(prediction[present].double(), target[present].double())
