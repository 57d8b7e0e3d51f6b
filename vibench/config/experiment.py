"""The root schema: one run."""

from dataclasses import dataclass

from vibench.config.backbone import BackboneConfig
from vibench.config.data import DataConfig
from vibench.config.embedding import EmbeddingConfig
from vibench.config.hardware import HardwareConfig
from vibench.config.logger import LoggerConfig
from vibench.config.setting import setting
from vibench.config.task import TaskConfig
from vibench.config.training import TrainingConfig


@dataclass(kw_only=True, slots=True)
class ExperimentConfig:
    """What one run is: composed by Hydra, checked by ``resolve``, free of OmegaConf after it."""

    seed: int = setting("seed of weights, data order and dropout", low=0, high=2**32 - 1)
    d_model: int = setting("token width D of embedding, backbone and heads", low=1)
    backbone: BackboneConfig
    embedding: EmbeddingConfig
    task: dict[str, TaskConfig]
    data: DataConfig
    hardware: HardwareConfig
    training: TrainingConfig
    logger: LoggerConfig

    @property
    def future(self) -> int:
        """Samples after the window that the tasks need, the longest of them."""
        return max((task.future for task in self.task.values()), default=0)
