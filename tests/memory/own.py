"""Backbones of one's own, named by ``own(config, "Wide")``, and experiments with other values."""

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vibench.config.backbone import BackboneConfig
from vibench.config.experiment import ExperimentConfig

NEEDS_TORCHAO = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="without torchao there is no optimizer in 8 bits"
)


def own(config: ExperimentConfig, name: str) -> ExperimentConfig:
    """The experiment with a backbone of this file."""
    return replace(config, backbone=BackboneConfig(_target_=f"{__name__}.{name}"))


def training(config: ExperimentConfig, **values: Any) -> ExperimentConfig:
    """The experiment with other values of its training."""
    return replace(config, training=replace(config.training, **values))


def hardware(config: ExperimentConfig, **values: Any) -> ExperimentConfig:
    """The experiment with other values of its hardware."""
    return replace(config, hardware=replace(config.hardware, **values))


class Wide(nn.Module):
    """One square layer, which is most of a model of many features."""

    def __init__(self, *, n_tokens: int, d_model: int) -> None:
        super().__init__()
        self.layer = nn.Linear(d_model, d_model, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


class Bare(nn.Module):
    """Nothing at all."""

    def __init__(self, *, n_tokens: int, d_model: int) -> None:
        super().__init__()

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens


class Stack(nn.Module):
    """Pairs of square layers, each a block of activation checkpointing and of sharding."""

    def __init__(self, *, n_tokens: int, d_model: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(*(nn.Linear(d_model, d_model, bias=False) for _ in range(2))) for _ in range(3)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class Asks(nn.Module):
    """A layer that branches on a number, which no fake tensor has."""

    def __init__(self, *, n_tokens: int, d_model: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(d_model))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.scale if float(tokens.detach().sum()) > 0 else -tokens


class Spectral(nn.Module):
    """A Fourier transform of what a product gave: there is none in bf16."""

    def __init__(self, *, n_tokens: int, d_model: int) -> None:
        super().__init__()
        self.n_tokens, self.layer = n_tokens, nn.Linear(d_model, d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(self.layer(tokens), dim=1), n=self.n_tokens, dim=1)
