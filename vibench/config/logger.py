"""Logger schema: where the numbers of a run go while it runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vibench.config.setting import missing_packages, setting


class Writer(Enum):
    """What is written beside ``metrics.csv``, which every run has."""

    csv = "csv"
    tensorboard = "tensorboard"


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """What is logged, and how often."""

    writer: Writer = setting("csv alone, or tensorboard beside it")
    every_n_steps: int = setting("optimizer steps between two logged training losses", low=1)

    def complaints(self) -> Iterator[str]:
        if self.writer is Writer.tensorboard:
            yield from missing_packages("logger.writer=tensorboard", "tensorboard", "tensorboard")
