"""The samples that follow the window.

Shapes: B windows, G sequences per window, C channels, N tokens, D model width, H samples to forecast, P samples of a
forecast token.
"""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from vibench.config.task import SignalPredictionConfig
from vibench.data.batch import Batch, Target
from vibench.data.store import Recording
from vibench.tasks.samples import Samples
from vibench.tasks.task import Sizes, Task, check_present, check_shape


class SignalPrediction(Task):
    """Forecast tokens, each mixed from all tokens of the window, each becoming P samples.

    Args:
        sizes: of the model and the data.
        horizon: H, samples to forecast.
        patch_len: P; divides ``horizon``.
    """

    gaussian = True

    def __init__(self, *, sizes: Sizes, horizon: int, patch_len: int) -> None:
        super().__init__()
        self.horizon = horizon
        self.head = Samples(sizes, horizon // patch_len, patch_len)

    @staticmethod
    def target(config: SignalPredictionConfig, window: int) -> Target:
        def of(recording: Recording, future: np.ndarray, end: int) -> np.ndarray:
            return future[:, : config.horizon]

        return Target(of=of, shape=(config.horizon,), dtype=torch.float32, per_channel=True, future=config.horizon)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, G, N, D) -> (B, C, H)."""
        return self.head(tokens)

    def count(self, present: Tensor) -> Tensor:
        return present.sum() * self.horizon

    def loss(self, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        check_shape("signal_prediction", prediction, target)
        check_present("signal_prediction", present, target.shape[:-1])
        return ((prediction.float() - target).square() * present[..., None]).sum()

    def naive(self, batch: Batch, known: Tensor) -> Tensor:
        """The last sample of the window, again and again."""
        return batch.signal[..., -1:].expand(-1, -1, self.horizon)

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "mse": MeanSquaredError(),
                "mae": MeanAbsoluteError(),
                "r2": R2Score(),
                "raw_mse": MeanSquaredError(),
                "raw_mae": MeanAbsoluteError(),
            },
            compute_groups=False,  # two of them see the signal in the unit of the recording
        ).set_dtype(torch.float64)  # sums of squares of a signal with an offset

    def update(
        self, metrics: MetricCollection, prediction: Tensor, target: Tensor, present: Tensor, batch: Batch
    ) -> None:
        if not present.any():
            return
        prediction, target, unit = (
            prediction[present].double(),
            target[present].double(),
            batch.scale[present][:, None].double(),
        )
        for name, metric in metrics.items():
            factor = unit if name.startswith("raw_") else 1
            metric.update((prediction * factor).flatten(), (target * factor).flatten())
