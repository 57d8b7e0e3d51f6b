"""PatchTST encoder: Transformer blocks over the tokens of one sequence.

Shapes: S sequences (batch times channels), N tokens, D model width.
"""

import torch
from torch import Tensor, nn

from vibench.layers.encoder import EncoderBlock


class PatchTST(nn.Module):
    """Encode patch tokens, each sequence on its own (Nie et al. 2023, https://arxiv.org/abs/2211.14730).

    The patches are cut by ``embedding=patch``. Two departures: no instance normalisation here, since the amplitude
    of a vibration carries the fault and scaling belongs to the data; layer instead of batch normalisation, since
    only then is a batch cut into micro-batches the same batch.

    Args:
        n_tokens: N, tokens per sequence.
        d_model: D, width of the tokens.
        e_layers: encoder blocks.
        n_heads: attention heads; divides ``d_model``.
        d_ff: hidden width of the feed-forward layer.
        dropout: probability.
    """

    def __init__(self, *, n_tokens: int, d_model: int, e_layers: int, n_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(n_tokens, d_model).uniform_(-0.02, 0.02))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(d_model, n_heads, d_ff, dropout, nn.GELU()) for _ in range(e_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        tokens = self.dropout(tokens + self.position)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens
