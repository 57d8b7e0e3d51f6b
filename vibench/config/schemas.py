"""Registers the schemas with Hydra, in a group of their own so that they are never offered as options."""

from hydra.core.config_store import ConfigStore

from vibench.config import backbone, data, embedding, launcher, sweeper, task
from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import HardwareConfig
from vibench.config.logger import LoggerConfig
from vibench.config.training import TrainingConfig

GROUPS = {"backbone": backbone.SCHEMAS, "embedding": embedding.SCHEMAS, "task": task.SCHEMAS, "data": data.SCHEMAS}
SINGLE = {
    "experiment": ExperimentConfig,
    "hardware": HardwareConfig,
    "training": TrainingConfig,
    "logger": LoggerConfig,
}


def register() -> None:
    """Make every schema available as ``/schema/...`` to the files in ``conf``."""
    store = ConfigStore.instance()
    for name, schema in SINGLE.items():
        store.store(group="schema", name=name, node=schema)
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
    for group, found in (("launcher", launcher.SCHEMAS), ("sweeper", sweeper.SCHEMAS)):
        for name, schema in found.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
