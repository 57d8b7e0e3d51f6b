"""Backbone schemas. Token sequences in, token sequences out: (S, N, D) -> (S, N, D)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from vibench.config.setting import missing_packages, setting


@dataclass(kw_only=True, slots=True)
class BackboneConfig:
    """Fields that every backbone has. The token width ``d_model`` is one key of the experiment, not of its parts."""

    _target_: str

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        """Broken rules between fields."""
        yield from ()

    @property
    def has_known_shapes(self) -> bool:
        """Whether the work of a batch follows from its size; else a plan counts the most there can be."""
        return True


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
class AttentionConfig(BackboneConfig):
    """Fields of every stack of Transformer encoder blocks."""

    e_layers: int = setting("encoder blocks", low=1)
    n_heads: int = setting("attention heads; divides d_model", low=1)
    d_ff: int = setting("hidden width of the feed-forward layer", low=1)
    dropout: float = setting("dropout probability in the encoder", low=0, high=0.99)

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        if d_model % self.n_heads:
            smaller = d_model - d_model % self.n_heads
            remedy = f"{f'd_model={smaller} or ' if smaller else ''}backbone.n_heads={math.gcd(d_model, self.n_heads)}"
            yield f"d_model={d_model} is not divisible by backbone.n_heads={self.n_heads}; use {remedy}"


@dataclass(kw_only=True, slots=True)
class PatchTSTConfig(AttentionConfig):
    """Patch Transformer (Nie et al. 2023, https://arxiv.org/abs/2211.14730)."""

    _target_: str = "vibench.backbones.patchtst.PatchTST"


@dataclass(kw_only=True, slots=True)
class TransformerConfig(AttentionConfig):
    """Transformer encoder (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)."""

    _target_: str = "vibench.backbones.transformer.Transformer"


@dataclass(kw_only=True, slots=True)
class TimesNetConfig(BackboneConfig):
    """Planes of a sequence's own periods (Wu et al. 2023, https://arxiv.org/abs/2210.02186)."""

    _target_: str = "vibench.backbones.timesnet.TimesNet"
    e_layers: int = setting("blocks", low=1)
    d_ff: int = setting("features between the two convolutions of a block", low=1)
    top_k: int = setting("strongest frequencies whose periods fold a sequence; at most half its tokens", low=1)
    period: int | None = setting("tokens: the one period to fold by, top_k then counts for nothing; null: found", low=1)
    num_kernels: int = setting("sizes of convolution in an inception block: 1, 3, 5, ...", low=1)
    dropout: float = setting("dropout probability on the tokens", low=0, high=0.99)

    @property
    def has_known_shapes(self) -> bool:
        return self.period is not None

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        most = n_tokens // 2
        if self.period is None and most == 0:
            yield f"{n_tokens} token has no period to find; use backbone.period=1 or an embedding with more tokens"
        elif self.period is None and self.top_k > most:
            yield (
                f"backbone.top_k={self.top_k} exceeds the {most} frequencies of {n_tokens} tokens; "
                f"use backbone.top_k<={most} or an embedding with more tokens"
            )
        if self.period is not None and self.period > n_tokens:
            yield (
                f"backbone.period={self.period} exceeds the {n_tokens} tokens of the embedding; "
                f"use backbone.period<={n_tokens}" + (" or null" if self.top_k <= most else "")
            )


@dataclass(kw_only=True, slots=True)
class FNOConfig(BackboneConfig):
    """Fourier neural operator (Li et al. 2021, https://arxiv.org/abs/2010.08895)."""

    _target_: str = "vibench.backbones.fno.FNO"
    e_layers: int = setting("Fourier layers", low=1)
    modes: int = setting("lowest frequencies kept, the constant among them; at most half the tokens and 1", low=1)
    width: int = setting("features of a Fourier layer", low=1)

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        most = n_tokens // 2 + 1
        if self.modes > most:
            yield (
                f"backbone.modes={self.modes} exceeds the {most} frequencies of {n_tokens} tokens; "
                f"use backbone.modes<={most} or an embedding with more tokens"
            )


@dataclass(kw_only=True, slots=True)
class ResNet1DConfig(BackboneConfig):
    """Residual network (Wang et al. 2017, https://arxiv.org/abs/1611.06455)."""

    _target_: str = "vibench.backbones.resnet1d.ResNet1D"
    e_layers: int = setting("residual blocks", low=1)
    kernels: list[int] = setting("tokens under the convolutions of a block, odd", low=1)

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        if not self.kernels:
            yield "backbone.kernels is empty, so a block would do nothing; use e.g. [7,5,3]"
        for kernel in sorted(set(self.kernels)):
            if kernel > 0 and kernel % 2 == 0:
                yield (
                    f"backbone.kernels={self.kernels} holds {kernel}, which is even, so tokens would shift by half a "
                    f"token; use {kernel + 1}"
                )


@dataclass(kw_only=True, slots=True)
class TCNConfig(BackboneConfig):
    """Temporal convolutional network (Bai et al. 2018, https://arxiv.org/abs/1803.01271)."""

    _target_: str = "vibench.backbones.tcn.TCN"
    e_layers: int = setting("residual blocks; the dilation doubles from one to the next", low=1, high=20)
    kernel: int = setting("tokens under a convolution", low=2)
    dropout: float = setting("probability that a feature of a sequence is dropped", low=0, high=0.99)


@dataclass(kw_only=True, slots=True)
class Mamba2Config(BackboneConfig):
    """Mamba-2 (Dao and Gu 2024, https://arxiv.org/abs/2405.21060)."""

    _target_: str = "vibench.backbones.mamba2.Mamba2Backbone"
    e_layers: int = setting("layers", low=1)
    d_state: int = setting("states per feature", low=1)
    d_conv: int = setting("tokens under the causal convolution before the scan", low=1)
    expand: int = setting("inner width as a multiple of d_model", low=1)
    head_dim: int = setting("features that share a decay; divides expand * d_model", low=1)
    chunk: int = setting("tokens whose pairs are multiplied out at once; leaves the result as it is", low=1)

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        inner = self.expand * d_model
        if inner % self.head_dim:
            yield (
                f"backbone.expand={self.expand} x d_model={d_model} is not divisible by "
                f"backbone.head_dim={self.head_dim}; use backbone.head_dim={math.gcd(inner, self.head_dim)}"
            )


class Scan(Enum):
    """Who multiplies out the state-space layers."""

    torch = "torch"  # plain PyTorch, anywhere
    mamba_ssm = "mamba_ssm"  # the fused kernels of mamba-ssm on a GPU, plain PyTorch elsewhere


class EdgeFeature(Enum):
    """How alike two electrodes are at a token."""

    cosine = "cosine"
    correlation = "correlation"


class Encoding(Enum):
    """What tells a node of the graph where it stands."""

    none = "none"
    static = "static"  # heat of the fixed neighbourhoods of the 10-20 system
    heat = "heat"  # diagonal of the heat kernel: knows no sign and no basis
    random_walk = "random_walk"  # probabilities of return
    eigenvectors = "eigenvectors"  # of the Laplacian, with a rule for their sign


ELECTRODES = [  # of the 10-20 system: left, middle, right; conf/data/eeg.yaml has them in this order
    *("Fp1", "F3", "C3", "P3", "O1", "F7", "T7", "P7", "Fz", "Cz", "Pz"),
    *("Fp2", "F4", "C4", "P4", "O2", "F8", "T8", "P8"),
]


@dataclass(kw_only=True, slots=True)
class BiMambaGNNConfig(BackboneConfig):
    """State-space layers over electrodes and over their pairs, and a graph network on what the pairs give."""

    _target_: str = "vibench.backbones.bimamba_gnn.BiMambaGNN"
    n_nodes: int = setting("electrodes, which is V; V (V - 1) / 2 pairs", low=2)
    node_width: int = setting("features of an electrode", low=1)
    node_layers: int = setting("bidirectional layers over each electrode", low=1)
    d_state: int = setting("states per feature of an electrode", low=1)
    d_conv: int = setting("tokens under the causal convolution before a scan", low=1)
    expand: int = setting("inner width of a layer as a multiple of its width", low=1)
    head_dim: int = setting("features of an electrode that share a decay; divides expand * node_width", low=1)
    edge_width: int = setting("features of a pair", low=1)
    edge_layers: int = setting("bidirectional layers over each pair", low=1)
    edge_d_state: int = setting("states per feature of a pair", low=1)
    edge_head_dim: int = setting("features of a pair that share a decay; divides expand * edge_width", low=1)
    chunk: int = setting("tokens whose pairs are multiplied out at once; leaves the result as it is", low=1)
    scan: Scan = setting("torch, or mamba_ssm for its kernels on a GPU")
    edge_feature: EdgeFeature = setting("cosine or correlation: how alike two electrodes are at a token")
    top_k: int = setting("strongest pairs that an electrode keeps; fewer than n_nodes", low=1)
    edge_threshold: float = setting("pairs below this are no edge", low=0)
    encoding: Encoding = setting("none, static, heat, random_walk or eigenvectors: position in the graph")
    encoding_dim: int = setting("numbers of the encoding, K; fewer than n_nodes for eigenvectors", low=1)
    encoding_every: int = setting("tokens from one decomposition to the next; 1: the graph of every token", low=1)
    gnn_layers: int = setting("graph convolutions", low=1)
    gnn_alpha: float = setting("share of a node itself in a graph convolution", low=0, high=1)
    gnn_hops: int = setting("neighbourhoods that a graph convolution reaches", low=1)
    dropout: float = setting("dropout probability in the graph network", low=0, high=0.99)
    slice: int = setting("sequences of a window that a layer takes at a time where checkpointing=sliced", low=1)

    def complaints(self, *, d_model: int, n_tokens: int) -> Iterator[str]:
        if self.scan is Scan.mamba_ssm:
            yield from missing_packages("backbone.scan=mamba_ssm", "mamba", "mamba_ssm")
        for part in ("", "edge_"):
            width, own = ("edge_width", "edge_head_dim") if part else ("node_width", "head_dim")
            inner = self.expand * getattr(self, width)
            if inner % getattr(self, own):
                yield (
                    f"backbone.expand={self.expand} x backbone.{width}={getattr(self, width)} is not divisible by "
                    f"backbone.{own}={getattr(self, own)}; use backbone.{own}={math.gcd(inner, getattr(self, own))}"
                )
        if self.top_k >= self.n_nodes > 1:
            yield (
                f"backbone.top_k={self.top_k} exceeds the {self.n_nodes - 1} others of backbone.n_nodes={self.n_nodes}"
                f"; use backbone.top_k<={self.n_nodes - 1}"
            )
        if self.encoding is Encoding.eigenvectors and self.encoding_dim >= self.n_nodes:
            yield (
                f"backbone.encoding_dim={self.encoding_dim} exceeds the {self.n_nodes - 1} eigenvectors of "
                f"backbone.n_nodes={self.n_nodes} that are not constant; use backbone.encoding_dim<={self.n_nodes - 1}"
            )
        if self.encoding is Encoding.static and self.n_nodes != len(ELECTRODES):
            yield (
                f"backbone.encoding=static is of the {len(ELECTRODES)} electrodes of the 10-20 system, "
                f"backbone.n_nodes={self.n_nodes}; use backbone.n_nodes={len(ELECTRODES)} or backbone.encoding=heat"
            )
        if self.encoding_every > n_tokens > 0:
            yield (
                f"backbone.encoding_every={self.encoding_every} exceeds the {n_tokens} tokens of the embedding; "
                f"use backbone.encoding_every<={n_tokens}"
            )


SCHEMAS = {
    "dlinear": DLinearConfig,
    "patchtst": PatchTSTConfig,
    "timesnet": TimesNetConfig,
    "fno": FNOConfig,
    "transformer": TransformerConfig,
    "resnet1d": ResNet1DConfig,
    "tcn": TCNConfig,
    "mamba2": Mamba2Config,
    "bimamba_gnn": BiMambaGNNConfig,
}
