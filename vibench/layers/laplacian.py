"""Where a node stands in its graph, from the graph's Laplacian or from walks on it.

Shapes: B windows, N tokens, V nodes, K numbers of an encoding, m graphs.

The gradient of an eigendecomposition is not finite where eigenvalues are equal, as in graphs with isolated nodes or
equal weights. So none is taken: what learns here is the linear map after it, and the graph learns by other ways.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from vibench.config.backbone import ELECTRODES, Encoding
from vibench.layers.precision import single_precision

AT_ONCE = 4096  # graphs in one decomposition
ROWS = ("Fp1 Fp2", "F7 F3 Fz F4 F8", "T7 C3 Cz C4 T8", "P7 P3 Pz P4 P8", "O1 O2")  # neighbours from ear to ear
COLUMNS = (  # and from front to back
    "Fp1 F7 T7 P7 O1",
    "Fp1 F3 C3 P3 O1",
    "Fz Cz Pz",
    "Fp2 F4 C4 P4 O2",
    "Fp2 F8 T8 P8 O2",
)


class PositionalEncoding(nn.Module):
    """An encoding of every node of every graph.

    Args:
        kind: none; static: heat of the neighbourhoods of the 10-20 system, whatever the graph; heat: what stays at a
            node of the heat that it had, at K times (free of the sign and the basis of eigenvectors); random_walk: the
            probability of a walk to be back after 1, 2, ... K steps (Dwivedi et al. 2022,
            https://arxiv.org/abs/2110.07875); eigenvectors: of the K least eigenvalues but the first, each of the sign
            that makes its largest entry positive.
        n_nodes: V.
        k: K.
        every: tokens from one graph that is encoded to the next; its encoding holds in between.
        d_out: features of the learned map of the K numbers.
    """

    def __init__(self, *, kind: Encoding, n_nodes: int, k: int, every: int, d_out: int) -> None:
        super().__init__()
        self.kind, self.k, self.every = Encoding(kind), k, every
        if self.kind is Encoding.none:
            return
        assert self.kind is not Encoding.eigenvectors or k < n_nodes, f"{k} eigenvectors of {n_nodes} nodes"
        self.lift = nn.Linear(k, d_out)
        if self.kind is Encoding.static:
            assert n_nodes == len(ELECTRODES), f"static is of {len(ELECTRODES)} electrodes, not of {n_nodes}"
            self.register_buffer("fixed", _heat(_ten_twenty()[None], k)[0], persistent=False)  # (V, K)

    def forward(self, adjacency: Tensor) -> Tensor | None:
        """(B, N, V, V) -> (B, N, V, d_out), or nothing where there is no encoding."""
        if self.kind is Encoding.none:
            return None
        b, n, v, _ = adjacency.shape
        if self.kind is Encoding.static:
            return self.lift(self.fixed).expand(b, n, v, -1)
        encoded = self.lift(self._numbers(adjacency[:, :: self.every]))
        return encoded[:, :, None].expand(-1, -1, self.every, -1, -1).flatten(1, 2)[:, :n]

    @torch.no_grad()
    def _numbers(self, adjacency: Tensor) -> Tensor:
        """(B, n, V, V) -> (B, n, V, K) in single precision; NaN where a graph is not finite, which eigh refuses."""
        with single_precision(adjacency):
            graphs = adjacency.flatten(0, 1).float()
            broken = ~graphs.flatten(1).isfinite().all(1)[:, None, None]
            graphs, numbers = graphs.masked_fill(broken, 0.0), NUMBERS[self.kind]
            at_once = len(graphs) if isinstance(graphs, FakeTensor) else AT_ONCE  # a trace takes the same way for any B
            encoded = torch.cat([numbers(some, self.k) for some in graphs.split(at_once)])
            return encoded.masked_fill(broken, torch.nan).unflatten(0, adjacency.shape[:2])


def _heat(graphs: Tensor, k: int) -> Tensor:
    """Diagonals of ``exp(-t L)`` at K times from 0.1 to 10, each longer by the same factor: (m, V, V) -> (m, V, K)."""
    times = torch.logspace(-1, 1, k, device=graphs.device)
    values, vectors = torch.linalg.eigh(_laplacian(graphs))
    return vectors.square() @ (-values[..., None] * times).exp()


def _random_walk(graphs: Tensor, k: int) -> Tensor:
    """Diagonals of ``P, P^2, ... P^K``: (m, V, V) -> (m, V, K). A walk ends at a node without edges."""
    degree = graphs.sum(-1, keepdim=True)
    walk = graphs / degree.where(degree > 0, 1.0)
    reached, back = walk, [walk.diagonal(dim1=-2, dim2=-1)]
    for _ in range(k - 1):
        reached = reached @ walk
        back.append(reached.diagonal(dim1=-2, dim2=-1))
    return torch.stack(back, dim=-1)


def _eigenvectors(graphs: Tensor, k: int) -> Tensor:
    """(m, V, V) -> (m, V, K)."""
    vectors = torch.linalg.eigh(_laplacian(graphs)).eigenvectors[..., 1 : k + 1]
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    return vectors * largest.sign()


NUMBERS = {Encoding.heat: _heat, Encoding.random_walk: _random_walk, Encoding.eigenvectors: _eigenvectors}


def _laplacian(graphs: Tensor) -> Tensor:
    """``D^-1/2 (D - A) D^-1/2`` with degrees D; zero for a node without edges, whose heat has nowhere to go."""
    degree = graphs.sum(-1)
    scale = degree.rsqrt().where(degree > 0, 0.0)
    return torch.diag_embed((degree > 0).float()) - scale[:, :, None] * graphs * scale[:, None, :]


def _ten_twenty() -> Tensor:
    """Neighbourhoods of the electrodes of the 10-20 system (V, V)."""
    graph = torch.zeros(len(ELECTRODES), len(ELECTRODES))
    for line in (*ROWS, *COLUMNS):
        names = [ELECTRODES.index(name) for name in line.split()]
        for one, other in pairwise(names):
            graph[one, other] = graph[other, one] = 1
    return graph
