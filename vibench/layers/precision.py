"""Arithmetic of a part of a forward pass, under autocast or without it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def single_precision(tensor: Tensor) -> AbstractContextManager:
    """Context in which autocast does not reach what is in fp32: sums over many tokens, and the FFT."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def forward_dtype(tensor: Tensor) -> torch.dtype:
    """What autocast would turn a tensor into, or what it is."""
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype
