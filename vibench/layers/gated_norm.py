"""Normalisation of what a gate lets through.

Shapes: S sequences, N tokens, F features.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class GatedNorm(nn.Module):
    """Root mean square normalisation of ``tokens * silu(gate)``, as in Mamba-2.

    Keeps what goes in and a length a token. All else is computed again in the backward pass, which takes no longer than
    to write and read it.

    Args:
        width: F.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor, gate: Tensor) -> Tensor:
        """(S, N, F), (S, N, F) -> (S, N, F)."""
        return _GatedNorm.apply(tokens, gate, self.weight, self.eps)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
        passed = tokens * F.silu(gate)
        square = torch.linalg.vector_norm(passed, dim=-1, keepdim=True).square() / passed.shape[-1]
        inverse = (square + eps).rsqrt()  # (S, N, 1)
        ctx.save_for_backward(tokens, gate, weight, inverse)
        return passed.mul_(inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        tokens, gate, weight, inverse = ctx.saved_tensors
        opened = F.silu(gate)
        normal = (tokens * opened).mul_(inverse)
        of_weight = (of_out * normal).sum((0, 1))
        of_passed = of_out * weight
        along = (of_passed * normal).mean(-1, keepdim=True)
        of_passed.addcmul_(normal, along, value=-1).mul_(inverse)
        of_gate = torch.ops.aten.silu_backward((of_passed * tokens).to(gate.dtype), gate)
        return of_passed.mul_(opened), of_gate, of_weight, None
