"""Graphs from features, and convolutions over them, against loops and torch_geometric.

Shapes: B windows, V nodes, E pairs, N tokens, D features of a node.
"""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vibench.config.backbone import EdgeFeature
from vibench.layers.graph import GraphBlock, SSGConv, adjacency, edge_features

B, V, N, D = 2, 5, 3, 4
PAIRS = list(combinations(range(V), 2))
KINDS = list(EdgeFeature)
ORDER = torch.tensor([3, 0, 4, 2, 1])  # of nodes, another


def nodes(b=B, v=V, n=N, d=D):
    return torch.randn(b, v, n, d, generator=torch.Generator().manual_seed(0))


def edges(v=V, b=B, n=N):
    return torch.rand(b, v * (v - 1) // 2, n, generator=torch.Generator().manual_seed(0))


def graphs(v=V, top_k=2, **changed):
    """(B, N, V, V) with an isolated node and an existing loop."""
    given = edges(v)
    given[0, :, 0] = 0
    return adjacency(given, **{"n_nodes": v, "top_k": top_k, "threshold": 0.1} | changed)


def test_the_cosine_of_each_pair_of_nodes_at_each_token_in_the_order_of_the_pairs():
    given = nodes()
    found = edge_features(given, EdgeFeature.cosine)
    assert found.shape == (B, len(PAIRS), N, 1)
    expected = torch.stack([F.cosine_similarity(given[:, i], given[:, j], dim=-1) for i, j in PAIRS], dim=1)
    torch.testing.assert_close(found[..., 0], expected, rtol=1e-5, atol=1e-6)


def test_the_correlation_of_each_pair_is_that_of_numpy():
    given = nodes() + 3
    found = edge_features(given, EdgeFeature.correlation)[..., 0]
    for b in range(B):
        for t in range(N):
            expected = np.corrcoef(given[b, :, t].numpy())
            np.testing.assert_allclose(found[b, :, t], [expected[pair] for pair in PAIRS], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_alikeness_does_not_depend_on_the_scale_of_a_node(kind):
    given, scale = nodes(), torch.tensor([0.5, 2.0, 7.0, 1.0, 30.0])[:, None, None]
    torch.testing.assert_close(edge_features(given * scale, kind), edge_features(given, kind), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0, 3.7])
@pytest.mark.parametrize("kind", KINDS)
def test_silent_and_constant_nodes_have_finite_features_and_gradients(kind, value):
    given = nodes()
    given[:, :2] = value
    given.requires_grad_()
    found = edge_features(given, kind)
    assert (found.abs() <= 1 + 1e-5).all()
    found.sum().backward()
    assert given.grad.isfinite().all()
    assert given.grad.abs().max() < 1e5


def test_nodes_without_direction_are_like_nothing():
    given = nodes()
    given[:, 0] = 0
    assert not edge_features(given, EdgeFeature.cosine)[:, : V - 1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_alikeness_is_in_single_precision_under_autocast(kind):
    given = nodes(d=64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = edge_features(given, kind)
    assert torch.equal(found, edge_features(given, kind))
    assert edge_features(given.bfloat16(), kind).dtype is torch.float32


def looped(given, top_k, threshold):
    """One window and token of an adjacency (V, V), node by node."""
    full = torch.zeros(V, V)
    for (i, j), weight in zip(PAIRS, given, strict=True):
        full[i, j] = full[j, i] = weight
    kept = torch.zeros(V, V)
    for i in range(V):
        for j in full[i].topk(top_k).indices:
            kept[i, j] = full[i, j] if full[i, j] >= threshold else 0
    weights = (kept + kept.T) / 2
    return weights + torch.diag(torch.tensor([float(not weights[i].any()) for i in range(V)]))


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9, 2.0])  # the last leaves nothing
def test_a_graph_is_the_one_made_node_by_node(top_k, threshold):
    given = edges()
    found = adjacency(given, n_nodes=V, top_k=top_k, threshold=threshold)
    expected = torch.stack(
        [torch.stack([looped(given[b, :, t], top_k, threshold) for t in range(N)]) for b in range(B)]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_graph_is_symmetric_and_what_one_of_two_nodes_keeps_counts_half():
    given = torch.tensor([0.9, 0.8, 0.1])[None, :, None]  # 0-1, 0-2, 1-2
    found = adjacency(given, n_nodes=3, top_k=1, threshold=0.0)[0, 0]
    torch.testing.assert_close(found, torch.tensor([[0, 0.9, 0.4], [0.9, 0, 0], [0.4, 0, 0]]))


def test_a_node_alone_has_a_loop_of_weight_one_and_no_other_has_one():
    given = edges()
    given[:, [i for i, pair in enumerate(PAIRS) if 0 in pair]] = 0.01
    loops = adjacency(given, n_nodes=V, top_k=2, threshold=0.02).diagonal(dim1=-2, dim2=-1)
    assert (loops[..., 0] == 1).all()
    assert not loops[..., 1:].any()


def test_pairs_as_strong_as_the_last_that_is_kept_are_kept_too():
    """Else which of them would depend on the device, and on the order of the nodes."""
    found = adjacency(torch.full((1, len(PAIRS), 1), 0.5), n_nodes=V, top_k=2, threshold=0.0)[0, 0]
    torch.testing.assert_close(found, 0.5 * (1 - torch.eye(V)))


def permuted(given):
    """Pairs of the nodes in another order, (B, E, N)."""
    number = {pair: index for index, pair in enumerate(PAIRS)}
    return given[:, [number[tuple(sorted((int(ORDER[i]), int(ORDER[j]))))] for i, j in PAIRS]]


def test_the_order_of_the_nodes_orders_the_graph_and_changes_nothing_else():
    sizes = {"n_nodes": V, "top_k": 2, "threshold": 0.1}
    found = adjacency(permuted(edges()), **sizes)
    assert torch.equal(found, adjacency(edges(), **sizes)[..., ORDER, :][..., ORDER])
    alike = edge_features(nodes()[:, ORDER], EdgeFeature.cosine)[..., 0]
    torch.testing.assert_close(alike, permuted(edge_features(nodes(), EdgeFeature.cosine)[..., 0]))


def test_only_what_is_kept_has_a_gradient_and_that_is_finite():
    given = edges().requires_grad_()
    found = adjacency(given, n_nodes=V, top_k=1, threshold=0.3)
    found.sum().backward()
    assert given.grad.isfinite().all()
    first, second = zip(*PAIRS, strict=True)
    assert torch.equal(given.grad != 0, found[..., first, second].mT != 0)


def test_a_number_that_is_none_shows_in_the_graph():
    given = edges()
    given[1, 3, 2] = torch.nan
    found = adjacency(given, n_nodes=V, top_k=2, threshold=0.1)
    assert found[1, 2].isnan().any()
    assert found[0].isfinite().all()
    assert found[1, :2].isfinite().all()


def convolution(**changed):
    torch.manual_seed(0)
    return SSGConv(**{"d_model": D, "alpha": 0.05, "hops": 2} | changed)


@pytest.fixture(scope="module")
def published():
    return pytest.importorskip("torch_geometric.nn").SSGConv


@pytest.mark.parametrize(("alpha", "hops"), [(0.05, 2), (0.0, 1), (0.3, 4), (1.0, 2)])
@pytest.mark.parametrize("loops", [False, True])
def test_a_convolution_is_that_of_torch_geometric_on_every_graph_of_a_batch(published, alpha, hops, loops):
    """A node alone has a loop already, all others get one; with loops, the third has one of another weight."""
    ours, theirs = convolution(alpha=alpha, hops=hops), published(D, D, alpha=alpha, K=hops)
    theirs.lin.load_state_dict(ours.theta.state_dict())
    features, weights = nodes().transpose(1, 2), graphs()  # (B, N, V, D), (B, N, V, V)
    if loops:
        weights[..., 2, 2] = 0.7
    found = ours(features, weights)
    for b in range(B):
        for t in range(N):
            where = weights[b, t].nonzero().T
            expected = theirs(features[b, t], where, weights[b, t][tuple(where)])
            torch.testing.assert_close(found[b, t], expected, rtol=1e-5, atol=1e-5)


def test_a_convolution_is_the_mean_of_its_powers():
    layer, features, weights = convolution(alpha=0.2, hops=3), nodes().transpose(1, 2), graphs()
    looped = weights + torch.diag_embed((weights.diagonal(dim1=-2, dim2=-1) == 0).float())
    degree = torch.diag_embed(looped.sum(-1) ** -0.5)
    normalised = degree @ looped @ degree
    powers = [torch.linalg.matrix_power(normalised, k) @ features for k in (1, 2, 3)]
    expected = layer.theta(sum(0.8 * power + 0.2 * features for power in powers) / 3)
    torch.testing.assert_close(layer(features, weights), expected, rtol=1e-5, atol=1e-5)


def test_a_convolution_follows_the_order_of_the_nodes():
    layer, features, weights = convolution(), nodes().transpose(1, 2), graphs()
    found = layer(features[:, :, ORDER], weights[..., ORDER, :][..., ORDER])
    torch.testing.assert_close(found, layer(features, weights)[:, :, ORDER], rtol=1e-5, atol=1e-6)


def test_the_normalisation_is_in_single_precision_under_autocast():
    """Of features that are one, with the identity as map, the products alone are rounded."""
    layer, weights = convolution(alpha=0.0, hops=1), graphs()
    layer.theta = nn.Identity()
    features = torch.ones(B, N, V, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(features, weights.bfloat16().float())
    exact = layer(features, weights.bfloat16().float())
    torch.testing.assert_close(rough.float(), exact, rtol=2**-7, atol=0)


def test_the_weights_of_a_graph_have_a_finite_gradient_with_nodes_alone_and_without():
    weights = graphs().requires_grad_()
    convolution()(nodes().transpose(1, 2), weights).square().sum().backward()
    assert weights.grad.isfinite().all()
    assert weights.grad.any()


def test_a_block_adds_the_convolution_to_its_input_and_normalises():
    torch.manual_seed(0)
    block = GraphBlock(d_model=D, alpha=0.05, hops=2, dropout=0.5).eval()
    features, weights = nodes().transpose(1, 2), graphs()
    expected = block.norm(features + F.gelu(block.convolution(features, weights)))
    torch.testing.assert_close(block(features, weights), expected)
    assert not torch.equal(block.train()(features, weights), expected)
    block(features, weights).square().sum().backward()
    assert [name for name, p in block.named_parameters() if not p.grad.any()] == []
