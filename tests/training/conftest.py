"""Training a tiny experiment in process, with every part of it at hand."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from vibench.config.experiment import ExperimentConfig
from vibench.data.build import build
from vibench.memory.plan import fit as plan_memory
from vibench.model import Model, build_model, targets
from vibench.training.fit import Fitted, fit


class Trained(NamedTuple):
    """A model after its training, as it was before, and what the training says of itself."""

    model: Model
    before: dict[str, torch.Tensor]
    fitted: Fitted
    folder: Path


@pytest.fixture
def train(tiny: Callable[..., ExperimentConfig], tmp_path: Path) -> Callable[..., Trained]:
    """Train with overrides; ``watch`` is called with the model before it starts, to hang hooks on it."""
    runs = iter(range(100))

    def call(*overrides: str, watch: Callable[[nn.Module], None] = lambda model: None) -> Trained:
        config, folder = tiny(*overrides), tmp_path / str(next(runs))
        data = build(config.data, targets(config))
        sizes = {"n_channels": data.n_channels, "n_classes": len(data.classes)}
        torch.manual_seed(config.seed)
        model = build_model(config, **sizes)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        watch(model)
        plan = plan_memory(config, **sizes)
        fitted = fit(model, data, config, plan, device=torch.device("cpu"), run_dir=folder, identity=sizes)
        return Trained(model, before, fitted, folder)

    return call
