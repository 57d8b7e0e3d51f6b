"""State-space layers that read a sequence from both ends.

Shapes: S sequences, N tokens, D model width.
"""

import torch
from torch import Tensor, nn

from vibench.layers.ssd import Mamba2


class BiMamba2(nn.Module):
    """A layer from the first token on and one from the last, merged, added to the tokens and normalised.

    Args:
        d_model: D.
        d_state: states per feature.
        d_conv: tokens under the causal convolution before a scan.
        expand: inner width as a multiple of D.
        head_dim: features that share a decay; divides the inner width.
        chunk: tokens whose pairs are multiplied out at once.
        fused: on a GPU, scan by the kernels of mamba_ssm.
        slices: parts in which a plan may have the sequences run, one after another, so that only one is in work.
    """

    def __init__(
        self,
        *,
        d_model: int,
        d_state: int,
        d_conv: int,
        expand: int,
        head_dim: int,
        chunk: int,
        fused: bool,
        slices: int,
    ) -> None:
        super().__init__()
        sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand, "head_dim": head_dim, "chunk": chunk}
        self.slices = slices
        self.onward, self.back = (Mamba2(d_model=d_model, fused=fused, **sizes) for _ in range(2))
        self.merge = nn.Linear(2 * d_model, d_model)
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        both = torch.cat([self.onward(tokens), self.back(tokens.flip(1)).flip(1)], dim=-1)  # (S, N, 2D)
        return self.norm(tokens + self.merge(both))
