"""The Transformer encoder.

Shapes: S sequences, N tokens, D model width.
"""

import math

from torch import Tensor, nn

from vibench.layers.encoder import EncoderBlock, sinusoids


class Transformer(nn.Module):
    """Encoder blocks over tokens with sinusoidal positions (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    Tokens are scaled by the root of D before the positions are added, as published.

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
        self.scale = math.sqrt(d_model)
        self.register_buffer("position", sinusoids(n_tokens, d_model), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(d_model, n_heads, d_ff, dropout, nn.ReLU()) for _ in range(e_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        tokens = self.dropout(tokens * self.scale + self.position)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens
