"""One embedding, one backbone, several heads.

Shapes: B windows, C channels, L samples, G sequences per window (C or 1), N tokens, D model width.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn

from vibench.config.backbone import BackboneConfig
from vibench.config.embedding import EmbeddingConfig
from vibench.config.experiment import ExperimentConfig
from vibench.config.task import TaskConfig
from vibench.data.batch import Batch, Target
from vibench.tasks.task import Sizes, Task


class Model(nn.Module):
    """Plain PyTorch, usable without Hydra.

    Args:
        embedding: (B, C, L) -> (B * G, N, D).
        backbone: (S, N, D) -> (S, N, D).
        tasks: name -> task with its head.
    """

    def __init__(self, embedding: nn.Module, backbone: nn.Module, tasks: dict[str, Task]) -> None:
        super().__init__()
        self.embedding, self.backbone, self.tasks = embedding, backbone, nn.ModuleDict(tasks)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Task -> prediction."""
        predictions = {}
        for seen, names in self.views(batch, list(self.tasks)):
            tokens, real = self.encode(seen)
            predictions |= {name: self.tasks[name](tokens, real) for name in names}
        return predictions

    def views(self, batch: Batch, names: list[str]) -> Iterator[tuple[Batch, list[str]]]:
        """What the tasks of those names see, and which of them see it: the batch, or a part of it hidden."""
        views = {name: self.tasks[name].view(batch, name) for name in names}
        if together := [name for name, seen in views.items() if seen is batch]:
            yield batch, together
        yield from ((seen, [name]) for name, seen in views.items() if seen is not batch)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens (B, G, N, D), and which of their sequences are of channels that exist (B, G)."""
        b, c, _ = batch.signal.shape
        tokens = self.backbone(self.embedding(batch.signal, batch.channels, batch.rate_hz))
        tokens = tokens.view(b, -1, *tokens.shape[1:])
        if tokens.shape[1] == 1:
            return tokens, torch.ones(b, 1, dtype=torch.bool, device=tokens.device)
        return tokens, torch.arange(c, device=tokens.device) < batch.channels[:, None]


def build_model(config: ExperimentConfig, *, n_channels: int, n_classes: int) -> Model:
    """The model of an experiment, with fresh weights drawn from torch's random numbers."""
    window = config.data.window
    n_tokens = config.embedding.n_tokens(window)
    embedding = _made(config.embedding, EmbeddingConfig, d_model=config.d_model, n_channels=n_channels, window=window)
    backbone = _made(config.backbone, BackboneConfig, n_tokens=n_tokens, d_model=config.d_model)
    sizes = Sizes(
        d_model=config.d_model,
        n_tokens=n_tokens,
        window=window,
        n_channels=n_channels,
        channel_independent=embedding.channel_independent,
        n_classes=n_classes,
    )
    tasks = {name: _made(task, TaskConfig, sizes=sizes) for name, task in config.task.items()}
    return Model(embedding, backbone, tasks)


def _made(config: Any, schema: type, **given: Any) -> Any:
    """An object of the class that the config names, from its own fields and what the model hands over.

    The fields that every ``schema`` of its kind has are not the module's: what a task weighs is the training's affair.

    Not ``hydra.utils.instantiate``: it hides what a constructor raises, out of memory for one, in an error of Hydra's.
    """
    common = {f.name for f in fields(schema)}
    arguments = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in common}
    return get_class(config._target_)(**arguments, **given)


def freeze(model: Model, parts: list[str]) -> None:
    """Leave parts of a model as they are: no gradient, no dropout, nothing drawn."""
    for name in parts:
        getattr(model, name).eval().requires_grad_(False)


def targets(config: ExperimentConfig) -> dict[str, Target]:
    """Task -> how its target is read from a recording; needs no model."""
    return {name: get_class(task._target_).target(task, config.data.window) for name, task in config.task.items()}
