"""DLinear: one linear map over time for the trend, one for the remainder.

Shapes: S sequences, N tokens, D model width.
"""

from torch import Tensor, nn

from vibench.layers.decomposition import Decomposition


class DLinear(nn.Module):
    """Mix tokens linearly over time, every feature alike (Zeng et al. 2023, https://arxiv.org/abs/2205.13504).

    As a backbone it maps N tokens to N tokens; the paper's map to the forecast is the head's.

    Args:
        n_tokens: N, tokens per sequence.
        d_model: D, width of the tokens; taken for the contract, the maps do not depend on it.
        moving_average: tokens in the moving average, odd.
    """

    def __init__(self, *, n_tokens: int, d_model: int, moving_average: int) -> None:
        super().__init__()
        self.decompose = Decomposition(moving_average)
        self.trend, self.remainder = nn.Linear(n_tokens, n_tokens), nn.Linear(n_tokens, n_tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        trend, remainder = self.decompose(tokens)
        mixed = self.trend(trend.transpose(1, 2)) + self.remainder(remainder.transpose(1, 2))  # (S, D, N)
        return mixed.transpose(1, 2)
