"""Healthy or not.

Shapes: B windows, G sequences per window, N tokens, D model width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryPrecision, BinaryRecall

from vibench.config.task import TaskConfig
from vibench.data.batch import Batch, Target
from vibench.tasks.macro import MacroF1
from vibench.tasks.ranking import AUROC, AveragePrecision, Ranking
from vibench.tasks.task import Sizes, Task, check_present, check_shape, pooled


class AnomalyDetection(Task):
    """Logistic regression on the mean token. Precision and recall are of the faulty class; no point adjustment.

    Args:
        sizes: of the model and the data.
        threshold: probability from which a window is called faulty; fixed beforehand, never fitted to the test.
    """

    def __init__(self, *, sizes: Sizes, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.head = nn.Linear(sizes.d_model, 1)

    @staticmethod
    def target(config: TaskConfig, window: int) -> Target:
        return Target(
            of=lambda recording, future, end: recording.anomaly,
            shape=(),
            dtype=torch.float32,
            distinct=2,
            of_class=True,
        )

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, G, N, D) -> logit (B,)."""
        return self.head(pooled(tokens, real)).squeeze(-1)

    def loss(self, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        check_shape("anomaly_detection", prediction, target)
        check_present("anomaly_detection", present, target.shape)
        losses = F.binary_cross_entropy_with_logits(prediction.float(), target, reduction="none")
        return (losses * present).sum()

    def naive(self, batch: Batch, known: Tensor) -> Tensor:
        """The share of faulty windows in the training, whatever the window."""
        return known.mean().clamp(1e-6, 1 - 1e-6).logit().expand(len(batch))

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "accuracy": BinaryAccuracy(),
                "macro_f1": MacroF1(2),
                "precision": BinaryPrecision(),
                "recall": BinaryRecall(),
                "auroc": AUROC(1),
                "aupr": AveragePrecision(1),
            },
            compute_groups=False,  # two of them see scores, the others what is called
        )

    def update(
        self, metrics: MetricCollection, prediction: Tensor, target: Tensor, present: Tensor, batch: Batch
    ) -> None:
        if not present.any():
            return
        logit, truth = prediction[present].double(), target[present] > 0.5
        called = (logit.sigmoid() > self.threshold).long()
        for metric in metrics.values():
            if isinstance(metric, Ranking):
                metric.update(logit[:, None], truth[:, None])
            else:
                metric.update(called, truth.long())
