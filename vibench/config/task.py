"""Task schemas: what is predicted, with which weight, and which metrics prove it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from vibench.config.setting import missing_packages, setting

CLASSIFICATION_METRICS = dict.fromkeys(("accuracy", "macro_f1", "precision", "recall", "auroc", "aupr"), "max")


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """Fields that every task has.

    ``METRICS`` names what the task reports and whether more or less of it is better, so that a monitored
    metric that nobody produces is refused before torch is imported; ``HEADLINE`` is the one that stands for it where
    there is room for one. ``of_class``: learned from the labels that ``data.labels_per_class`` limits.
    """

    METRICS: ClassVar[dict[str, str]] = {}
    HEADLINE: ClassVar[str] = ""
    of_class: ClassVar[bool] = False

    _target_: str
    weight: float = setting("factor of this task's mean loss in the total loss", above=0)
    first_epoch: int = setting("first epoch that trains this task, counted from 1", low=1)
    last_epoch: int | None = setting("last epoch that trains this task; null: the last of all", low=1)

    @property
    def future(self) -> int:
        """Samples after the window that the target needs."""
        return 0

    def trains_in(self, epoch: int) -> bool:
        """Whether this task is on in an epoch, counted from 1."""
        return self.first_epoch <= epoch and (self.last_epoch is None or epoch <= self.last_epoch)

    def complaints(self, *, name: str, window: int) -> Iterator[str]:
        """Broken rules between fields."""
        yield from ()


@dataclass(kw_only=True, slots=True)
class ClassificationConfig(TaskConfig):
    """Which fault. The classes are the values of the column ``data.label``."""

    METRICS: ClassVar[dict[str, str]] = CLASSIFICATION_METRICS
    HEADLINE: ClassVar[str] = "macro_f1"
    of_class: ClassVar[bool] = True

    _target_: str = "vibench.tasks.classification.Classification"
    label_smoothing: float = setting("probability spread evenly over all classes", low=0, high=0.99)


@dataclass(kw_only=True, slots=True)
class AnomalyDetectionConfig(TaskConfig):
    """Healthy or not."""

    METRICS: ClassVar[dict[str, str]] = CLASSIFICATION_METRICS
    HEADLINE: ClassVar[str] = "auroc"
    of_class: ClassVar[bool] = True

    _target_: str = "vibench.tasks.anomaly_detection.AnomalyDetection"
    threshold: float = setting("anomaly probability from which a window is called faulty", above=0, high=0.99)


@dataclass(kw_only=True, slots=True)
class SignalPredictionConfig(TaskConfig):
    """The samples that follow the window."""

    METRICS: ClassVar[dict[str, str]] = {"mse": "min", "mae": "min", "r2": "max", "raw_mse": "min", "raw_mae": "min"}
    HEADLINE: ClassVar[str] = "mse"

    _target_: str = "vibench.tasks.signal_prediction.SignalPrediction"
    horizon: int = setting("samples to forecast", low=1)
    patch_len: int = setting("samples that one forecast token becomes; divides horizon", low=1)

    @property
    def future(self) -> int:
        return self.horizon

    def complaints(self, *, name: str, window: int) -> Iterator[str]:
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
    HEADLINE: ClassVar[str] = "mae"

    _target_: str = "vibench.tasks.rul_prediction.RULPrediction"
    max_rul_s: float = setting("seconds of life at which the target is capped, and the unit of the loss", above=0)


@dataclass(kw_only=True, slots=True)
class MaskedReconstructionConfig(TaskConfig):
    """The samples that were hidden from the model: pre-training without a label (Nie et al. 2023, section 3.2)."""

    METRICS: ClassVar[dict[str, str]] = {"mse": "min", "mae": "min", "r2": "max"}
    HEADLINE: ClassVar[str] = "mse"

    _target_: str = "vibench.tasks.masked_reconstruction.MaskedReconstruction"
    mask_ratio: float = setting("share of a window that is hidden", above=0, high=0.99)
    mask_len: int = setting("samples that are hidden together; divides data.window", low=1)

    def masked(self, window: int) -> int:
        """Stretches of ``mask_len`` samples that are hidden in a window."""
        return self._hidden(window // self.mask_len)

    def complaints(self, *, name: str, window: int) -> Iterator[str]:
        if self.mask_len < 1 or window < 1:
            return
        stretches = window // self.mask_len
        if window % self.mask_len == 0 and self._hides_some(stretches):
            return
        near = [n for n in range(min(self.mask_len, window // 2), 0, -1) if window % n == 0]
        near = [n for n in near if self._hides_some(window // n)][:1]
        whole = next((n for n in range(max(stretches, 2), 1000) if self._hides_some(n)), None)
        remedies = [f"task.{name}.mask_len={n}" for n in near]
        if window % self.mask_len:
            remedies += [f"a window of {whole * self.mask_len}"] if whole else []
            said = f"task.{name}.mask_len={self.mask_len} does not divide data.window={window}"
        else:
            hidden = "none" if self.masked(window) == 0 else "all"
            remedies += ["another ratio"]
            said = (
                f"task.{name}.mask_ratio={self.mask_ratio} hides {hidden} of the {stretches} stretches of "
                f"task.{name}.mask_len={self.mask_len} samples"
            )
        yield f"{said}; use {' or '.join(remedies or ['another mask_len and mask_ratio'])}"

    def _hidden(self, stretches: int) -> int:
        """How many of the stretches are hidden."""
        return round(self.mask_ratio * stretches)

    def _hides_some(self, stretches: int) -> bool:
        """Neither none nor all of the stretches."""
        return 0 < self._hidden(stretches) < stretches


@dataclass(kw_only=True, slots=True)
class SeizureDetectionConfig(TaskConfig):
    """When a seizure begins and ends, scored record by record (SzCORE, Dan et al. 2024,
    https://doi.org/10.1111/epi.18113)."""

    METRICS: ClassVar[dict[str, str]] = {
        "event_f1": "max",
        "event_sensitivity": "max",
        "fa_per_24h": "min",
        "sample_f1": "max",
        "sample_sensitivity": "max",
        "sensitivity_10fa": "max",
        "sensitivity_5fa": "max",
        "sensitivity_2_5fa": "max",
        "sensitivity_1fa": "max",
        "auroc": "max",
        "auprc": "max",
        "taes_sensitivity": "max",
        "taes_f1": "max",
    }
    HEADLINE: ClassVar[str] = "event_f1"

    _target_: str = "vibench.tasks.seizure_detection.SeizureDetection"
    hidden: int = setting("features from which each sample is read", low=1)
    alpha: float = setting(
        "share of the loss that is of seizures, before the imbalance of the windows", above=0, high=0.99
    )
    gamma: float = setting("how much less a sample counts that is told well already; 0: cross-entropy", low=0)
    threshold: float = setting(
        "probability that begins a seizure, before a validation has found one", above=0, high=0.99
    )
    max_fa_per_24h: float = setting("false alarms a day that a validation may choose a threshold with", above=0)
    off_ratio: float = setting("probability that ends a seizure, as a share of the one that begins it", above=0, high=1)
    opening: int = setting("samples: shorter bursts are no seizure", low=1)
    closing: int = setting("samples: shorter gaps are none", low=1)
    min_duration_s: float = setting("seconds that a seizure lasts at least", low=0)
    merge_gap_s: float = setting("seconds: seizures closer than that are one", low=0)

    def complaints(self, *, name: str, window: int) -> Iterator[str]:
        yield from missing_packages(f"task.{name}", "eeg", "timescoring")


SCHEMAS = {
    "classification": ClassificationConfig,
    "anomaly_detection": AnomalyDetectionConfig,
    "signal_prediction": SignalPredictionConfig,
    "rul_prediction": RULPredictionConfig,
    "masked_reconstruction": MaskedReconstructionConfig,
    "seizure_detection": SeizureDetectionConfig,
}
