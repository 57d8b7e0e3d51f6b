"""Task schemas: what is predicted, with which weight, and which metrics prove it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from vibench.config.setting import setting

CLASSIFICATION_METRICS = dict.fromkeys(("accuracy", "macro_f1", "precision", "recall", "auroc", "aupr"), "max")


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """Fields that every task has.

    ``METRICS`` names what the task reports and whether more or less of it is better, so that a monitored
    metric that nobody produces is refused before torch is imported.
    """

    METRICS: ClassVar[dict[str, str]] = {}

    _target_: str
    weight: float = setting("factor of this task's mean loss in the total loss", above=0)

    @property
    def future(self) -> int:
        """Samples after the window that the target needs."""
        return 0

    def complaints(self, *, name: str) -> Iterator[str]:
        """Broken rules between fields."""
        yield from ()


@dataclass(kw_only=True, slots=True)
class ClassificationConfig(TaskConfig):
    """Which fault. The classes are the values of the column ``data.label``."""

    METRICS: ClassVar[dict[str, str]] = CLASSIFICATION_METRICS

    _target_: str = "vibench.tasks.classification.Classification"
    label_smoothing: float = setting("probability spread evenly over all classes", low=0, high=0.99)


@dataclass(kw_only=True, slots=True)
class AnomalyDetectionConfig(TaskConfig):
    """Healthy or not."""

    METRICS: ClassVar[dict[str, str]] = CLASSIFICATION_METRICS

    _target_: str = "vibench.tasks.anomaly_detection.AnomalyDetection"
    threshold: float = setting("anomaly probability from which a window is called faulty", above=0, high=0.99)


@dataclass(kw_only=True, slots=True)
class SignalPredictionConfig(TaskConfig):
    """The samples that follow the window."""

    METRICS: ClassVar[dict[str, str]] = {"mse": "min", "mae": "min", "r2": "max", "raw_mse": "min", "raw_mae": "min"}

    _target_: str = "vibench.tasks.signal_prediction.SignalPrediction"
    horizon: int = setting("samples to forecast", low=1)
    patch_len: int = setting("samples that one forecast token becomes; divides horizon", low=1)

    @property
    def future(self) -> int:
        return self.horizon

    def complaints(self, *, name: str) -> Iterator[str]:
        if self.horizon % self.patch_len:
            yield (
                f"task.{name}.horizon={self.horizon} is not divisible by task.{name}.patch_len={self.patch_len}; "
                f"use a horizon of {max(self.horizon - self.horizon % self.patch_len, self.patch_len)}"
            )


@dataclass(kw_only=True, slots=True)
class RULPredictionConfig(TaskConfig):
    """Remaining useful life, capped (the piecewise target of Heimes 2008, https://doi.org/10.1109/PHM.2008.4711422)."""

    METRICS: ClassVar[dict[str, str]] = {
        "mse": "min",
        "mae": "min",
        "r2": "max",
        "mae_s": "min",
        "phm08_sum": "min",
        "phm08_mean": "min",
    }

    _target_: str = "vibench.tasks.rul_prediction.RULPrediction"
    max_rul_s: float = setting("seconds of life at which the target is capped, and the unit of the loss", above=0)


SCHEMAS = {
    "classification": ClassificationConfig,
    "anomaly_detection": AnomalyDetectionConfig,
    "signal_prediction": SignalPredictionConfig,
    "rul_prediction": RULPredictionConfig,
}
