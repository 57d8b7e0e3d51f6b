"""Mamba-2 over the tokens.

Shapes: S sequences, N tokens, D model width.
"""

from torch import Tensor, nn

from vibench.layers.ssd import Mamba2


class Mamba2Backbone(nn.Module):
    """Selective state-space layers, each normalised before and added after (Dao and Gu 2024,
    https://arxiv.org/abs/2405.21060).

    Causal: a token sees itself and those before it.

    Args:
        n_tokens: N; taken for the contract, the scan does not depend on it.
        d_model: D, width of the tokens.
        e_layers: layers.
        d_state: states per feature.
        d_conv: tokens under the convolution before the scan.
        expand: inner width as a multiple of D.
        head_dim: features that share a decay; divides the inner width.
        chunk: tokens whose pairs are multiplied out at once; changes time and memory, not the result.
    """

    def __init__(
        self,
        *,
        n_tokens: int,
        d_model: int,
        e_layers: int,
        d_state: int,
        d_conv: int,
        expand: int,
        head_dim: int,
        chunk: int,
    ) -> None:
        super().__init__()
        sizes = {"d_state": d_state, "d_conv": d_conv, "expand": expand, "head_dim": head_dim, "chunk": chunk}
        self.blocks = nn.ModuleList(Mamba2Block(d_model, sizes) for _ in range(e_layers))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class Mamba2Block(nn.Module):
    """One layer, normalised before and added after.

    Args:
        d_model: D.
        sizes: the other arguments of the layer.
    """

    def __init__(self, d_model: int, sizes: dict[str, int]) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.layer = Mamba2(d_model=d_model, fused=False, **sizes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        return tokens + self.layer(self.norm(tokens))
