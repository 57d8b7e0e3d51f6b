"""Transformer encoder block with fused attention, and positions.

Shapes: S sequences, N tokens, D model width, H heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    Args:
        d_model: D.
        n_heads: H; divides ``d_model``.
        dropout: probability, on the attention weights.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        s, n, d = tokens.shape
        query, key, value = self.qkv(tokens).view(s, n, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # (S, H, N, D/H)
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(s, n, d))


class EncoderBlock(nn.Module):
    """Attention and a feed-forward layer, each added to its input and normalised after (post-norm, as published).

    Args:
        d_model: D.
        n_heads: attention heads; divides ``d_model``.
        d_ff: hidden width of the feed-forward layer.
        dropout: probability.
        activation: of the feed-forward layer.
    """

    def __init__(self, d_model: int, n_heads: int, d_ff: int, dropout: float, activation: nn.Module) -> None:
        super().__init__()
        self.attention = Attention(d_model, n_heads, dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, d_ff), activation, nn.Dropout(dropout), nn.Linear(d_ff, d_model)
        )
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        tokens = self.norm_attention(tokens + self.dropout(self.attention(tokens)))
        return self.norm_feed_forward(tokens + self.dropout(self.feed_forward(tokens)))


def sinusoids(n_tokens: int, d_model: int) -> Tensor:
    """(N, D) positions: sines and cosines of wavelengths from 2 pi to 20,000 pi tokens (Vaswani et al. 2017)."""
    rate = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000) / d_model))
    angle = torch.arange(n_tokens)[:, None] * rate  # (N, D/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d_model]
