"""Batches of random numbers as the data would make them: zero padding, missing labels, several systems.

Shapes: B windows, C channels, L samples.
"""

import dataclasses

import torch
from torch import Generator, Tensor

from vibench.config.experiment import ExperimentConfig
from vibench.data.batch import Batch, Target, blank_batch
from vibench.model import targets

N_CHANNELS, N_CLASSES = 3, 4
LITTLE = {  # a backbone of many parts, with one of each
    "bimamba_gnn": (
        *("backbone.n_nodes=5", "backbone.node_width=8", "backbone.node_layers=1"),
        *("backbone.edge_width=4", "backbone.edge_layers=1", "backbone.encoding_dim=4"),
    )
}
SIZES = {"n_channels": N_CHANNELS, "n_classes": N_CLASSES}


def random_batch(config: ExperimentConfig, size: int = 13, missing: float = 0.3, seed: int = 0) -> Batch:
    """A batch for the tasks of an experiment; a share of the labels is missing, and zero as in the data."""
    random = torch.Generator().manual_seed(seed)
    channels = torch.arange(size) % N_CHANNELS + 1
    real = torch.arange(N_CHANNELS) < channels[:, None]  # (B, C)
    minutes = any(target.per_sample for target in targets(config).values())  # what happens in them takes seconds
    mixed = torch.where(torch.arange(size) % 2 == 0, 12_000.0, 25_600.0)
    values, present = {}, {}
    for name, target in targets(config).items():
        lead = target.lead(N_CHANNELS, config.data.window)
        there = real if target.per_channel else torch.ones(size, *lead, dtype=torch.bool)
        labelled = torch.rand(size, generator=random) >= missing
        present[name] = there & (labelled[:, None] if lead else labelled)
        values[name] = labels(target, size, random, config.data.window)
        values[name][~present[name]] = 0
    return Batch(
        signal=torch.randn(size, N_CHANNELS, config.data.window, generator=random) * real[..., None],
        channels=channels,
        rate_hz=torch.full((size,), config.data.window / 60) if minutes else mixed,
        system=torch.arange(size) % 2,
        entity=torch.arange(size) // 2,
        recording=torch.arange(size) // 4,
        start=torch.arange(size) % 4 * (config.data.window // 2),
        scale=0.5 + torch.rand(size, N_CHANNELS, generator=random),
        targets=values,
        present=present,
    )


def of_scale(scale: Tensor) -> Batch:
    """A batch that tells the unit of its signal (B, C), and nothing else."""
    return dataclasses.replace(blank_batch({}, len(scale), scale.shape[1], 1), scale=scale)


def labels(target: Target, size: int, random: Generator, window: int) -> Tensor:
    """Random labels: classes, values per channel, or 0 and 1, which every task of one number per window understands."""
    if target.dtype is torch.int64:
        return torch.randint(N_CLASSES, (size, *target.shape), generator=random)
    if target.per_channel:
        return torch.randn(size, N_CHANNELS, *target.shape, generator=random)
    if target.per_sample:  # a quarter of the window, somewhere
        begin = torch.randint(3 * window // 4, (size, 1), generator=random)
        return ((torch.arange(window) >= begin) & (torch.arange(window) < begin + window // 4)).float()
    return torch.randint(2, (size, *target.shape), generator=random).float()
