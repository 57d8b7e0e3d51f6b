"""Graphs that follow from what their nodes have in common, token by token, and convolutions over them.

Shapes: B windows, V nodes, E = V (V - 1) / 2 pairs i < j of nodes, N tokens, D features of a node.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vibench.config.backbone import EdgeFeature
from vibench.layers.precision import single_precision

TINY = 1e-8  # of a squared length; what is shorter has no direction, and no gradient beyond all bounds


def edge_features(nodes: Tensor, kind: EdgeFeature) -> Tensor:
    """How alike two nodes are at a token, from -1 to 1: (B, V, N, D) -> (B, E, N, 1).

    Args:
        kind: cosine, or correlation: the cosine of what differs from the mean over the features.
    """
    with single_precision(nodes):
        features = nodes.float().transpose(1, 2)  # (B, N, V, D)
        if EdgeFeature(kind) is EdgeFeature.correlation:
            features = features - features.mean(-1, keepdim=True)
        directions = features * (features.square().sum(-1, keepdim=True) + TINY).rsqrt()
        alike = (directions @ directions.mT).flatten(2).mT  # (B, V V, N)
    first, second = torch.triu_indices(nodes.shape[1], nodes.shape[1], 1, device=nodes.device)
    return alike[:, first * nodes.shape[1] + second, :, None]


def adjacency(edges: Tensor, *, n_nodes: int, top_k: int, threshold: float) -> Tensor:
    """Symmetric weights of a graph at each token: (B, E, N) -> (B, N, V, V).

    A node keeps its strongest pairs; what only one of two nodes keeps counts half. A node that keeps nothing, and that
    nothing keeps, has a loop of weight one.

    Args:
        n_nodes: V.
        top_k: pairs that a node keeps, and those as strong as the last of them; fewer than V.
        threshold: pairs below this are no edge.
    """
    first, second = torch.triu_indices(n_nodes, n_nodes, 1, device=edges.device)
    number = torch.full(
        (n_nodes, n_nodes), len(first), device=edges.device
    )  # of a pair; on the diagonal of a pair of zero
    number[first, second] = number[second, first] = torch.arange(len(first), device=edges.device)
    every = F.pad(edges.mT, (0, 1))[..., number]  # (B, N, V, V)
    weak = (every < every.topk(top_k).values[..., -1:]) | (every < threshold)
    kept = every.masked_fill(weak, 0.0)
    weights = (kept + kept.mT) / 2
    return weights + torch.diag_embed((weights.sum(-1) == 0).to(weights.dtype))


class SSGConv(nn.Module):
    """Simple spectral graph convolution (Zhu and Koniusz 2021, https://openreview.net/forum?id=CYO5T-YjWZV), dense:
    ``1/K sum_k ((1 - alpha) A^k X + alpha X) Theta`` with the normalised adjacency A, k from 1 to K.

    Args:
        d_model: D.
        alpha: share of a node itself.
        hops: K, neighbourhoods that are reached.
    """

    def __init__(self, *, d_model: int, alpha: float, hops: int) -> None:
        super().__init__()
        self.alpha, self.hops = alpha, hops
        self.theta = nn.Linear(d_model, d_model)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """(B, N, V, D), (B, N, V, V) -> (B, N, V, D)."""
        normalised, reached, mixed = _normalised(adjacency), nodes, self.alpha * nodes
        for _ in range(self.hops):
            reached = normalised @ reached
            mixed = torch.add(mixed, reached, alpha=(1 - self.alpha) / self.hops)
        return self.theta(mixed)


def _normalised(adjacency: Tensor) -> Tensor:
    """``D^-1/2 A D^-1/2`` with degrees D, after every node without a loop was given one of weight one."""
    with single_precision(adjacency):
        weights, loops = adjacency.float(), adjacency.diagonal(dim1=-2, dim2=-1)
        weights = weights + torch.diag_embed((loops == 0).float())
        scale = weights.sum(-1).rsqrt()
        return scale[..., :, None] * weights * scale[..., None, :]


class GraphBlock(nn.Module):
    """A graph convolution with GELU and dropout, added to its input and normalised.

    Args:
        d_model: D.
        alpha, hops: of :class:`SSGConv`.
        dropout: probability.
    """

    def __init__(self, *, d_model: int, alpha: float, hops: int, dropout: float) -> None:
        super().__init__()
        self.convolution = SSGConv(d_model=d_model, alpha=alpha, hops=hops)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(d_model)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """(B, N, V, D), (B, N, V, V) -> (B, N, V, D)."""
        return self.norm(nodes + self.dropout(F.gelu(self.convolution(nodes, adjacency))))
