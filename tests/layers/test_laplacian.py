"""Where a node stands in its graph, against matrix exponentials and loops.

Shapes: B windows, N tokens, V nodes, K numbers of an encoding.
"""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch import nn

from vibench.config.backbone import Encoding
from vibench.data.eeg.montage import NEIGHBOURS
from vibench.layers import laplacian
from vibench.layers.graph import adjacency
from vibench.layers.laplacian import ELECTRODES, PositionalEncoding

B, V, N, K = 2, 6, 5, 4
DYNAMIC = [Encoding.heat, Encoding.random_walk, Encoding.eigenvectors]  # of the graph of each token
FREE = [Encoding.heat, Encoding.random_walk]  # of signs and bases
ORDER = torch.tensor([3, 0, 5, 4, 2, 1])  # of nodes, another


def made(kind, **changed):
    torch.manual_seed(0)
    return PositionalEncoding(**{"kind": kind, "n_nodes": V, "k": K, "every": 1, "d_out": 3} | changed)


def numbers(kind, graphs, **changed):
    """(B, N, V, K): the encoding before the learned map."""
    encoding = made(kind, **{"d_out": K} | changed)
    encoding.lift = nn.Identity()
    return encoding(graphs)


def random_graphs(n=N, v=V, b=B):
    """(B, N, V, V), dense and symmetric, no two eigenvalues alike."""
    weights = torch.rand(b, n, v, v, generator=torch.Generator().manual_seed(0))
    return (weights + weights.mT) * (1 - torch.eye(v))


def every_pair(weight):
    return weight * (1 - torch.eye(V)).expand(B, N, V, V)


def sparse_graphs():
    random = torch.rand(B, V * (V - 1) // 2, N, generator=torch.Generator().manual_seed(0))
    return adjacency(random, n_nodes=V, top_k=1, threshold=0.6)  # in parts, with loops at nodes alone


DEGENERATE = {
    "no edges": torch.zeros(B, N, V, V),
    "loops alone": torch.eye(V).expand(B, N, V, V).clone(),
    "every pair alike": every_pair(1.0),
    "tiny weights": every_pair(1e-30),
    "huge weights": every_pair(1e30),
    "in parts": sparse_graphs(),
    "two parts alike": torch.block_diag(*[1 - torch.eye(V // 2)] * 2).expand(B, N, V, V).clone(),
}


def normalised(graph):
    """The symmetric Laplacian (V, V) in double precision, zero for a node without edges."""
    graph = graph.double().numpy()
    degree = graph.sum(1)
    scale = np.array([d**-0.5 if d else 0 for d in degree])
    return scale[:, None] * (np.diag(degree) - graph) * scale


@pytest.mark.parametrize("graphs", [random_graphs(), sparse_graphs(), torch.zeros(B, N, V, V)])
def test_heat_is_the_diagonal_of_the_matrix_exponential_at_times_of_one_ratio(graphs):
    found = numbers(Encoding.heat, graphs)
    for b in range(B):
        for t in range(N):
            heat = [expm(-time * normalised(graphs[b, t])).diagonal() for time in 10 ** np.linspace(-1, 1, K)]
            np.testing.assert_allclose(found[b, t].numpy(), np.stack(heat, -1), rtol=0, atol=1e-5)


def test_heat_stays_where_there_is_no_way_out():
    found = numbers(Encoding.heat, DEGENERATE["loops alone"])
    torch.testing.assert_close(found, torch.ones(B, N, V, K), rtol=0, atol=1e-6)


def test_a_random_walk_is_back_as_often_as_counted_step_by_step():
    graphs = sparse_graphs()
    found = numbers(Encoding.random_walk, graphs)
    for b in range(B):
        for t in range(N):
            weights = graphs[b, t].double().numpy()
            for start in range(V):
                there = np.eye(V)[start]
                for steps in range(K):
                    there = sum(there[i] * weights[i] / weights[i].sum() for i in range(V))
                    assert found[b, t, start, steps] == pytest.approx(there[start], abs=1e-5)


def test_eigenvectors_solve_the_laplacian_in_the_order_of_their_eigenvalues_and_point_up():
    graphs = random_graphs()
    found = numbers(Encoding.eigenvectors, graphs)
    for b in range(B):
        for t in range(N):
            matrix = normalised(graphs[b, t])
            values = np.linalg.eigvalsh(matrix)[1 : K + 1]
            vectors = found[b, t].double().numpy()
            np.testing.assert_allclose(matrix @ vectors, vectors * values, rtol=0, atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, rtol=1e-5)
            assert all(column[np.abs(column).argmax()] > 0 for column in vectors.T)


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("name", ["two parts alike", "every pair alike", "in parts"])
def test_nodes_that_cannot_be_told_apart_are_encoded_alike(kind, name):
    """Eigenvectors of equal eigenvalues are of any basis, which differs from node to node."""
    graphs = DEGENERATE[name]
    found = numbers(kind, graphs)
    for one, other in combinations(range(V), 2):
        swapped = list(range(V))
        swapped[one], swapped[other] = other, one
        alike = (graphs[..., swapped, :][..., swapped] == graphs).all(-1).all(-1)  # (B, N)
        torch.testing.assert_close(found[alike][:, one], found[alike][:, other], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", FREE)
@pytest.mark.parametrize("signs", ["turned", "mixed"])
def test_signs_and_bases_of_eigenvectors_do_not_show(kind, signs, monkeypatch):
    """Two parts alike have every eigenvalue at least twice."""
    expected = numbers(kind, DEGENERATE["two parts alike"])
    eigh = torch.linalg.eigh

    def other(matrices):
        values, vectors = eigh(matrices)
        if signs == "turned":
            return values, vectors * torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, -1.0])
        turn = torch.linalg.qr(torch.randn(2, 2)).Q
        return values, torch.cat([vectors[..., :2] @ turn, vectors[..., 2:]], -1)

    monkeypatch.setattr(torch.linalg, "eigh", other)
    torch.testing.assert_close(numbers(kind, DEGENERATE["two parts alike"]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", DYNAMIC)
def test_the_order_of_the_nodes_orders_the_encoding_and_changes_nothing_else(kind):
    graphs = random_graphs()
    found = numbers(kind, graphs[..., ORDER, :][..., ORDER])
    torch.testing.assert_close(found, numbers(kind, graphs)[:, :, ORDER], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("kind", DYNAMIC)
def test_degenerate_graphs_have_finite_encodings_and_gradients(kind, name):
    encoding, graphs = made(kind), DEGENERATE[name].clone().requires_grad_()
    found = encoding(graphs)
    assert found.isfinite().all()
    (found.square().sum() + graphs.sum()).backward()  # the graph learns by another way
    assert torch.equal(graphs.grad, torch.ones_like(graphs))
    assert all(p.grad.isfinite().all() for p in encoding.parameters())
    assert encoding.lift.weight.grad.any() or not numbers(kind, DEGENERATE[name]).any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", DYNAMIC)
def test_a_graph_that_is_not_finite_gives_none_and_its_neighbours_what_they_would(kind, value):
    encoding, graphs = made(kind), random_graphs()
    expected = encoding(graphs)
    graphs[1, 3, 0, 2] = value
    found = encoding(graphs)
    assert found[1, 3].isnan().all()
    found[1, 3] = expected[1, 3]
    torch.testing.assert_close(found, expected)


def decomposed(monkeypatch):
    """Numbers of the matrices that reach an eigendecomposition, call by call."""
    counts, eigh = [], torch.linalg.eigh

    def count(matrices):
        counts.append(len(matrices))
        return eigh(matrices)

    monkeypatch.setattr(torch.linalg, "eigh", count)
    return counts


@pytest.mark.parametrize(("every", "graphs"), [(1, 25), (2, 13), (10, 3), (25, 1), (40, 1)])
@pytest.mark.parametrize("kind", [Encoding.heat, Encoding.eigenvectors])
def test_only_every_so_many_tokens_is_a_graph_decomposed(kind, every, graphs, monkeypatch):
    encoding, counts = made(kind, every=every), decomposed(monkeypatch)
    encoding(random_graphs(25))
    assert sum(counts) == B * graphs


@pytest.mark.parametrize("kind", DYNAMIC)
def test_an_encoding_holds_until_the_next(kind):
    graphs = random_graphs(7)
    held, each = made(kind, every=3)(graphs), made(kind)(graphs)
    torch.testing.assert_close(held, each[:, [0, 0, 0, 3, 3, 3, 6]])


def test_many_graphs_are_decomposed_some_thousand_at_a_time(monkeypatch):
    expected = numbers(Encoding.heat, random_graphs(10))
    monkeypatch.setattr(laplacian, "AT_ONCE", 7)
    counts = decomposed(monkeypatch)
    torch.testing.assert_close(numbers(Encoding.heat, random_graphs(10)), expected)
    assert counts == [7, 7, 6]


@pytest.mark.parametrize("kind", DYNAMIC)
def test_autocast_reaches_the_learned_map_alone(kind):
    graphs = random_graphs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = numbers(kind, graphs)
        assert made(kind)(graphs).dtype is torch.bfloat16
    assert torch.equal(found, numbers(kind, graphs))
    assert numbers(kind, graphs.bfloat16()).dtype is torch.float32


@pytest.mark.parametrize("kind", list(Encoding))
def test_a_checkpoint_loads_into_a_fresh_module_after_any_batch(kind):
    graphs = torch.ones(B, N, 19, 19)
    used, fresh = made(kind, n_nodes=19), made(kind, n_nodes=19)
    used(graphs)
    used(graphs[:1, :3])
    assert set(used.state_dict()) == (set() if kind is Encoding.none else {"lift.weight", "lift.bias"})
    fresh.load_state_dict(used.state_dict())


def test_without_an_encoding_there_is_none_and_nothing_to_learn():
    encoding = made(Encoding.none)
    assert encoding(random_graphs()) is None
    assert list(encoding.parameters()) == []


def test_the_static_encoding_is_heat_on_the_electrodes_whatever_the_graph():
    found = numbers(Encoding.static, torch.full((B, N, 19, 19), torch.nan), n_nodes=19)
    expected = numbers(Encoding.heat, laplacian._ten_twenty().expand(1, 1, 19, 19), n_nodes=19)
    torch.testing.assert_close(found, expected.expand(B, N, 19, K))
    assert made(Encoding.static, n_nodes=19)(torch.zeros(B, N, 19, 19)).shape == (B, N, 19, 3)


def test_the_static_encoding_decomposes_no_graph_of_a_batch(monkeypatch):
    encoding, counts = made(Encoding.static, n_nodes=19), decomposed(monkeypatch)
    encoding(torch.zeros(B, N, 19, 19))
    assert counts == []


def test_the_neighbourhoods_of_the_electrodes_are_those_of_the_head():
    """Symmetric left and right; each electrode has those next to it, of which a file's missing one is made."""
    graph = laplacian._ten_twenty()
    near = {name: {ELECTRODES[i] for i in graph[ELECTRODES.index(name)].nonzero().flatten()} for name in ELECTRODES}
    assert torch.equal(graph, graph.T)
    assert not graph.diagonal().any()
    assert near["Cz"] == {"C3", "C4", "Fz", "Pz"}
    assert near["O1"] == {"O2", "P3", "P7"}
    left = {name: f"{name[:-1]}{int(name[-1]) + 1}" for name in near if name[-1] in "1357"}  # of odd numbers
    other = left | {right: name for name, right in left.items()}
    for name, neighbours in near.items():
        assert near[other.get(name, name)] == {other.get(one, one) for one in neighbours}
        assert set(NEIGHBOURS[name]) <= neighbours


def test_the_static_encoding_of_other_than_the_electrodes_is_refused():
    with pytest.raises(AssertionError, match="static is of 19 electrodes, not of 6"):
        made(Encoding.static)


def test_as_many_eigenvectors_as_nodes_are_refused():
    with pytest.raises(AssertionError, match="6 eigenvectors of 6 nodes"):
        made(Encoding.eigenvectors, k=V)


def test_heat_changes_less_than_eigenvectors_where_the_graph_changes_a_little():
    """Why it is the default: eigenvectors turn by whole signs."""
    first = random_graphs(200)
    second = first * (1 + 0.05 * torch.randn(first.shape, generator=torch.Generator().manual_seed(1)))
    change = {}
    for kind in (Encoding.heat, Encoding.eigenvectors):
        before, after = numbers(kind, first), numbers(kind, (second + second.mT) / 2)
        change[kind] = ((after - before).norm() / (before - before.mean()).norm()).item()
    assert change[Encoding.heat] < 0.1
    assert change[Encoding.eigenvectors] > 5 * change[Encoding.heat]
