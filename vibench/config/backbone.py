"""Backbone schemas. Token sequences in, token sequences out: (S, N, D) -> (S, N, D)."""

from collections.abc import Iterator
from dataclasses import dataclass

from vibench.config.setting import setting


@dataclass(kw_only=True, slots=True)
class BackboneConfig:
    """Fields that every backbone has. The token width ``d_model`` is one key of the experiment, not of its parts."""

    _target_: str

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        """Broken rules between fields."""
        yield from ()


@dataclass(kw_only=True, slots=True)
class DLinearConfig(BackboneConfig):
    """Trend and remainder, one linear map over time each (Zeng et al. 2023, https://arxiv.org/abs/2205.13504)."""

    _target_: str = "vibench.backbones.dlinear.DLinear"
    moving_average: int = setting("tokens in the moving average that is the trend, odd", low=1)

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        if self.moving_average % 2 == 0:
            yield (
                f"backbone.moving_average={self.moving_average} is even, so its trend would lag by half a token; "
                f"use backbone.moving_average={self.moving_average + 1}"
            )
        if self.moving_average > 2 * n_tokens:
            yield (
                f"backbone.moving_average={self.moving_average} exceeds twice the {n_tokens} tokens of the embedding; "
                f"use an odd number up to {2 * n_tokens - 1}"
            )


@dataclass(kw_only=True, slots=True)
class PatchTSTConfig(BackboneConfig):
    """Patch Transformer (Nie et al. 2023, https://arxiv.org/abs/2211.14730)."""

    _target_: str = "vibench.backbones.patchtst.PatchTST"
    e_layers: int = setting("encoder blocks", low=1)
    n_heads: int = setting("attention heads; divides d_model", low=1)
    d_ff: int = setting("hidden width of the feed-forward layer", low=1)
    dropout: float = setting("dropout probability in the encoder", low=0, high=0.99)

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        if d_model % self.n_heads:
            smaller = d_model - d_model % self.n_heads
            remedy = f"use d_model={smaller} or another n_heads" if smaller else "use at most d_model heads"
            yield f"d_model={d_model} is not divisible by backbone.n_heads={self.n_heads}; {remedy}"


SCHEMAS = {"dlinear": DLinearConfig, "patchtst": PatchTSTConfig}
