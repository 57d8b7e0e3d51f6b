"""Which fault.

Shapes: B windows, G sequences per window, N tokens, D model width, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from vibench.config.task import TaskConfig
from vibench.data.batch import Batch, Target
from vibench.errors import ShapeError
from vibench.tasks.macro import MacroF1, MacroPrecision, MacroRecall
from vibench.tasks.ranking import AUROC, AveragePrecision, Ranking
from vibench.tasks.task import Sizes, Task, check_present, pooled


class Classification(Task):
    """Linear classifier on the mean token, with cross-entropy.

    Args:
        sizes: of the model and the data.
        label_smoothing: probability spread evenly over all classes.
    """

    def __init__(self, *, sizes: Sizes, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing, self.n_classes = label_smoothing, sizes.n_classes
        self.head = nn.Linear(sizes.d_model, sizes.n_classes)

    @staticmethod
    def target(config: TaskConfig, window: int) -> Target:
        return Target(
            of=lambda recording, future, end: recording.label, shape=(), dtype=torch.int64, distinct=2, of_class=True
        )

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, G, N, D) -> logits (B, K)."""
        return self.head(pooled(tokens, real))

    def loss(self, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        if prediction.shape != (*target.shape, self.n_classes) or target.ndim != 1:
            raise ShapeError(
                f"classification: prediction {tuple(prediction.shape)} against target {tuple(target.shape)} "
                f"of {self.n_classes} classes"
            )
        check_present("classification", present, target.shape)
        losses = F.cross_entropy(prediction.float(), target, reduction="none", label_smoothing=self.label_smoothing)
        return (losses * present).sum()

    def naive(self, batch: Batch, known: Tensor) -> Tensor:
        """The majority class of the training, whatever the window."""
        shares = torch.bincount(known, minlength=self.n_classes) / len(known)
        return shares.expand(len(batch), -1)

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(self.n_classes, average="micro"),
                "macro_f1": MacroF1(self.n_classes),
                "precision": MacroPrecision(self.n_classes),
                "recall": MacroRecall(self.n_classes),
                "auroc": AUROC(self.n_classes),
                "aupr": AveragePrecision(self.n_classes),
            },
            compute_groups=False,  # two of them see scores, the others the class that is called
        )

    def update(
        self, metrics: MetricCollection, prediction: Tensor, target: Tensor, present: Tensor, batch: Batch
    ) -> None:
        if not present.any():
            return
        logits, truth = prediction[present].double(), target[present]
        called, is_class = logits.argmax(-1), F.one_hot(truth, self.n_classes).bool()
        odds = log_odds(logits)
        for metric in metrics.values():
            metric.update(odds, is_class) if isinstance(metric, Ranking) else metric.update(called, truth)


def log_odds(logits: Tensor) -> Tensor:
    """(n, K) of each class against all others: the order of the softmax without its rounding near 0 and 1."""
    others = logits[:, None, :].expand(-1, logits.shape[1], -1).clone()
    others.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    return logits - others.logsumexp(-1)
