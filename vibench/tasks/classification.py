"""Which fault.

Shapes: B windows, G sequences per window, N tokens, D model width, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from vibench.config.task import TaskConfig
from vibench.data.batch import Target
from vibench.errors import ShapeError
from vibench.tasks.task import Sizes, Task, pooled


def score_thresholds() -> Tensor:
    """400 thresholds, even in the logit: scores squeezed near 0 and 1 keep their order in a bounded curve."""
    return torch.sigmoid(torch.linspace(-16, 16, 400, dtype=torch.float64)).float()


class Classification(Task):
    """Linear classifier on the mean token, with cross-entropy.

    Args:
        sizes: of the model and the data.
        weight: factor of this task in the total loss.
        label_smoothing: probability spread evenly over all classes.
    """

    def __init__(self, *, sizes: Sizes, weight: float, label_smoothing: float) -> None:
        super().__init__()
        self.weight, self.label_smoothing, self.n_classes = weight, label_smoothing, sizes.n_classes
        self.head = nn.Linear(sizes.d_model, sizes.n_classes)

    @staticmethod
    def target(config: TaskConfig) -> Target:
        return Target(of=lambda recording, future, end: recording.label, shape=(), dtype=torch.int64)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, G, N, D) -> logits (B, K)."""
        return self.head(pooled(tokens, real))

    def loss(self, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        if prediction.shape != (*target.shape, self.n_classes) or target.ndim != 1:
            raise ShapeError(
                f"classification: prediction {tuple(prediction.shape)} against target {tuple(target.shape)} "
                f"of {self.n_classes} classes"
            )
        losses = F.cross_entropy(prediction.float(), target, reduction="none", label_smoothing=self.label_smoothing)
        return (losses * present).sum()

    def metrics(self) -> MetricCollection:
        size, macro = {"num_classes": self.n_classes}, {"average": "macro"}
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(**size, average="micro"),
                "macro_f1": MulticlassF1Score(**size, **macro),
                "precision": MulticlassPrecision(**size, **macro),
                "recall": MulticlassRecall(**size, **macro),
                "auroc": MulticlassAUROC(**size, **macro, thresholds=score_thresholds()),
                "aupr": MulticlassAveragePrecision(**size, **macro, thresholds=score_thresholds()),
            }
        )

    def update(self, metrics: MetricCollection, prediction: Tensor, target: Tensor, present: Tensor, scale: Tensor) -> None:
        if present.any():
            metrics.update(prediction[present].float().softmax(-1), target[present])
