"""Trend and remainder of a sequence.

Shapes: S sequences, N tokens, D model width.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Decomposition(nn.Module):
    """Moving average and what is left of it (Wu et al. 2021, Autoformer, https://arxiv.org/abs/2106.13008).

    Args:
        width: tokens under the average, odd; the first and last token are repeated at the edges.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(S, N, D) -> trend (S, N, D), remainder (S, N, D)."""
        edge = self.width // 2
        padded = F.pad(tokens.transpose(1, 2), (edge, edge), mode="replicate")  # (S, D, N + 2 edge)
        trend = F.avg_pool1d(padded, self.width, stride=1).transpose(1, 2)
        return trend, tokens - trend
