"""What every task is: a head, a target, a loss that can be split, and metrics with bounded state.

Shapes: B windows, G sequences per window (its channels, or one), N tokens, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from vibench.config.task import TaskConfig
from vibench.data.batch import Batch, Target
from vibench.data.loader import Data
from vibench.errors import ShapeError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What a head must know of the model and the data.

    Attributes:
        d_model: D.
        n_tokens: N.
        window: L, samples of a window.
        n_channels: C, of the widest system.
        channel_independent: whether G is C, else it is 1.
        n_classes: classes of the data.
    """

    d_model: int
    n_tokens: int
    window: int
    n_channels: int
    channel_independent: bool
    n_classes: int


class Task(nn.Module):
    """One thing to predict. Subclasses are one file each.

    ``target`` is asked before there is a model, so it is static. ``gaussian`` says whether the loss is a squared error,
    which a learned uncertainty divides by twice its variance, or a negative log-likelihood of classes.
    """

    gaussian = False

    @staticmethod
    def target(config: TaskConfig, window: int) -> Target:
        """How the target is read from a recording, of windows of that many samples."""
        raise NotImplementedError

    def meet(self, data: Data) -> None:
        """Take from the training split what the loss must know of it, before the first step."""

    def settle(self, metrics: MetricCollection) -> None:
        """Choose by a validation what is no weight, a threshold for one; never by a test."""

    def view(self, batch: Batch, name: str) -> Batch:
        """What this task, of that name, lets the model see of a batch, with its target there.

        The batch itself where nothing is hidden.
        """
        return batch

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Prediction from tokens (B, G, N, D); ``real`` (B, G) marks the sequences of channels that exist."""
        raise NotImplementedError

    def count(self, present: Tensor) -> Tensor:
        """What the loss of a batch is divided by; known from the labels alone, before any forward pass."""
        return present.sum()

    def loss(self, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """Sum of the losses of all present labels; zero, with a gradient of zero, where there is none."""
        raise NotImplementedError

    def naive(self, batch: Batch, known: Tensor) -> Tensor:
        """What is predicted without a model: from the labels of the training split (n, ...), or the window alone."""
        raise NotImplementedError

    def metrics(self) -> MetricCollection:
        """Metrics under the names of the schema's ``METRICS``, their state bounded."""
        raise NotImplementedError

    def update(
        self, metrics: MetricCollection, prediction: Tensor, target: Tensor, present: Tensor, batch: Batch
    ) -> None:
        """Count the present labels of a batch, of which ``batch`` tells the unit of the signal and where it was cut."""
        raise NotImplementedError


def pooled(tokens: Tensor, real: Tensor) -> Tensor:
    """(B, G, N, D) -> (B, D): mean over the tokens of the channels that exist."""
    share = real / real.sum(1, keepdim=True)
    return torch.einsum("bgd,bg->bd", tokens.mean(2), share.to(tokens.dtype))


def check_shape(task: str, prediction: Tensor, target: Tensor) -> None:
    """Refuse what would broadcast.

    Raises:
        ShapeError: the shapes differ.
    """
    if prediction.shape != target.shape:
        raise ShapeError(f"{task}: prediction {tuple(prediction.shape)} against target {tuple(target.shape)}")


def check_present(task: str, present: Tensor, shape: torch.Size) -> None:
    """Refuse a mask of labels that would broadcast.

    Raises:
        ShapeError: the mask is not of that shape.
    """
    if present.shape != shape:
        raise ShapeError(f"{task}: present {tuple(present.shape)} against one label each of {tuple(shape)}")
