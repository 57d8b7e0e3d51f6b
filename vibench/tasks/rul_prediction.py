"""Remaining useful life.

Shapes: B windows, G sequences per window, N tokens, D model width.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, MetricCollection, R2Score

from vibench.config.task import RULPredictionConfig
from vibench.data.batch import Batch, Target
from vibench.data.store import Recording
from vibench.tasks.task import Sizes, Task, check_present, check_shape, pooled

UNITS = 125  # of the PHM08 score in the cap: C-MAPSS caps the life at 125 cycles


class RULPrediction(Task):
    """Regression of the remaining life as a share of its cap, from the mean token, with the squared error.

    The output is linear: it can leave [0, 1], but it cannot die as a ReLU does.

    Args:
        sizes: of the model and the data.
        max_rul_s: the cap in seconds, which is 1.
    """

    gaussian = True

    def __init__(self, *, sizes: Sizes, max_rul_s: float) -> None:
        super().__init__()
        self.max_rul_s = max_rul_s
        self.head = nn.Sequential(nn.Linear(sizes.d_model, sizes.d_model), nn.GELU(), nn.Linear(sizes.d_model, 1))

    @staticmethod
    def target(config: RULPredictionConfig, window: int) -> Target:
        def of(recording: Recording, future: np.ndarray, end: int) -> float | None:
            if recording.rul_s is None:
                return None
            left_s = max(recording.rul_s - end / recording.rate_hz, 0.0)
            return min(left_s, config.max_rul_s) / config.max_rul_s

        return Target(of=of, shape=(), dtype=torch.float32, distinct=2)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, G, N, D) -> share of the cap (B,)."""
        return self.head(pooled(tokens, real)).squeeze(-1)

    def loss(self, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        check_shape("rul_prediction", prediction, target)
        check_present("rul_prediction", present, target.shape)
        return ((prediction.float() - target).square() * present).sum()

    def naive(self, batch: Batch, known: Tensor) -> Tensor:
        """The mean remaining life of the training, whatever the window."""
        return known.mean().expand(len(batch))

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "mse": MeanSquaredError(),
                "mae": MeanAbsoluteError(),
                "r2": R2Score(),
                "mae_s": MeanAbsoluteError(),
                "phm08_sum": PHM08(mean=False),
                "phm08_mean": PHM08(mean=True),
            },
            compute_groups=False,  # one of them sees seconds
        ).set_dtype(torch.float64)

    def update(
        self, metrics: MetricCollection, prediction: Tensor, target: Tensor, present: Tensor, batch: Batch
    ) -> None:
        if not present.any():
            return
        prediction, target = prediction[present].double(), target[present].double()
        for name, metric in metrics.items():
            factor = self.max_rul_s if name == "mae_s" else 1.0
            metric.update(prediction * factor, target * factor)


class PHM08(Metric):
    """Score of the PHM 2008 challenge (Saxena et al. 2008, 10.1109/PHM.2008.4711414): late costs more than early.

    exp(-d/13) - 1 for d < 0, else exp(d/10) - 1, where d is the error in 1/125 of the cap.

    Args:
        mean: per window instead of the sum.
    """

    full_state_update = False

    def __init__(self, *, mean: bool) -> None:
        super().__init__()
        self.mean = mean
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Both (B,), as shares of the cap."""
        late = (prediction.double() - target.double()) * UNITS
        self.total += torch.where(late < 0, (-late / 13).exp(), (late / 10).exp()).sub(1).sum()
        self.n += len(late)

    def compute(self) -> Tensor:
        return self.total / self.n if self.mean else self.total
