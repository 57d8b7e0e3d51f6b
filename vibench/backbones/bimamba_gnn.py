"""State-space layers over electrodes and over their pairs, and a graph network on what the pairs give.

Shapes: S sequences, N tokens, D model width, V electrodes of W features, E = V (V - 1) / 2 pairs.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from vibench.config.backbone import EdgeFeature, Encoding, Scan
from vibench.layers.bimamba import BiMamba2
from vibench.layers.graph import GraphBlock, adjacency, edge_features
from vibench.layers.laplacian import PositionalEncoding


class BiMambaGNN(nn.Module):
    """A token is spread over electrodes. Each electrode is a sequence of its own, and so is the likeness of each pair;
    from that follows a graph at every token.

    Args:
        n_tokens: N; taken for the contract.
        d_model: D.
        n_nodes: V.
        node_width: W.
        node_layers: bidirectional layers over each electrode.
        d_state, head_dim: of an electrode's state-space layers, as of :class:`vibench.layers.ssd.Mamba2`.
        d_conv, expand, chunk: of all of them.
        edge_width: features of a pair.
        edge_layers: bidirectional layers over each pair.
        edge_d_state, edge_head_dim: of a pair's state-space layers.
        scan: torch, or mamba_ssm for its kernels on a GPU.
        edge_feature: cosine or correlation.
        top_k, edge_threshold: what remains of the graph, as of :func:`vibench.layers.graph.adjacency`.
        encoding, encoding_dim, encoding_every: kind, k and every of
            :class:`vibench.layers.laplacian.PositionalEncoding`; added to the electrodes before the graph network.
        gnn_layers: graph convolutions.
        gnn_alpha, gnn_hops: of :class:`vibench.layers.graph.SSGConv`.
        dropout: probability, in the graph network.
        slice: sequences of a window that a plan may have a layer run at a time.
    """

    def __init__(
        self,
        *,
        n_tokens: int,
        d_model: int,
        n_nodes: int,
        node_width: int,
        node_layers: int,
        d_state: int,
        d_conv: int,
        expand: int,
        head_dim: int,
        edge_width: int,
        edge_layers: int,
        edge_d_state: int,
        edge_head_dim: int,
        chunk: int,
        scan: Scan,
        edge_feature: EdgeFeature,
        top_k: int,
        edge_threshold: float,
        encoding: Encoding,
        encoding_dim: int,
        encoding_every: int,
        gnn_layers: int,
        gnn_alpha: float,
        gnn_hops: int,
        dropout: float,
        slice: int,
    ) -> None:
        super().__init__()
        self.n_nodes, self.edge_feature, self.top_k, self.edge_threshold = n_nodes, edge_feature, top_k, edge_threshold

        def layers(count: int, sequences: int, width: int, states: int, head: int) -> nn.ModuleList:
            sizes = {"d_model": width, "d_state": states, "d_conv": d_conv, "expand": expand, "head_dim": head}
            kept = {"chunk": chunk, "fused": scan is Scan.mamba_ssm, "slices": math.ceil(sequences / slice)}
            return nn.ModuleList(BiMamba2(**sizes, **kept) for _ in range(count))

        self.spread = nn.Linear(d_model, n_nodes * node_width)
        self.nodes = layers(node_layers, n_nodes, node_width, d_state, head_dim)
        self.lift = nn.Linear(1, edge_width)
        self.edges = layers(edge_layers, math.comb(n_nodes, 2), edge_width, edge_d_state, edge_head_dim)
        self.lower = nn.Linear(edge_width, 1)
        self.position = PositionalEncoding(
            kind=encoding, n_nodes=n_nodes, k=encoding_dim, every=encoding_every, d_out=node_width
        )
        self.graph = nn.ModuleList(
            GraphBlock(d_model=node_width, alpha=gnn_alpha, hops=gnn_hops, dropout=dropout) for _ in range(gnn_layers)
        )
        self.collect = nn.Linear(n_nodes * node_width, d_model)

    @property
    def blocks(self) -> list[nn.Module]:
        """Units of activation checkpointing."""
        return [*self.nodes, *self.edges, *self.graph]

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        nodes = self.spread(tokens).unflatten(-1, (self.n_nodes, -1)).transpose(1, 2)  # (S, V, N, W)
        graph = self._graph(nodes)
        nodes = _each(self.nodes, nodes).transpose(1, 2)  # (S, N, V, W)
        position = self.position(graph)
        nodes = nodes if position is None else nodes + position
        for block in self.graph:
            nodes = block(nodes, graph)
        return self.collect(nodes.flatten(2))

    def _graph(self, nodes: Tensor) -> Tensor:
        """(S, V, N, W) -> (S, N, V, V)."""
        pairs = _each(self.edges, self.lift(edge_features(nodes, self.edge_feature)))
        strength = F.softplus(self.lower(pairs)).squeeze(-1)  # (S, E, N)
        return adjacency(strength, n_nodes=self.n_nodes, top_k=self.top_k, threshold=self.edge_threshold)


def _each(layers: nn.ModuleList, sequences: Tensor) -> Tensor:
    """(S, V, N, W) -> (S, V, N, W), every sequence on its own."""
    flat = sequences.flatten(0, 1)
    for layer in layers:
        flat = layer(flat)
    return flat.view(sequences.shape)
