"""Electrodes, their pairs and their graph as one backbone.

Shapes: S sequences, N tokens, D model width, V electrodes of W features, E pairs.
"""

import copy
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vibench.backbones.bimamba_gnn import BiMambaGNN
from vibench.config.backbone import EdgeFeature, Encoding, Scan
from vibench.layers.bimamba import BiMamba2
from vibench.layers.graph import adjacency

S, N, D, V, W = 2, 7, 10, 4, 6
PAIRS = list(combinations(range(V), 2))
SIZES = {
    "n_tokens": N,
    "d_model": D,
    "n_nodes": V,
    "node_width": W,
    "node_layers": 2,
    "d_state": 3,
    "d_conv": 3,
    "expand": 2,
    "head_dim": 4,
    "edge_width": 4,
    "edge_layers": 1,
    "edge_d_state": 2,
    "edge_head_dim": 2,
    "chunk": 4,
    "scan": Scan.torch,
    "edge_feature": EdgeFeature.cosine,
    "top_k": 2,
    "edge_threshold": 1e-4,
    "encoding": Encoding.heat,
    "encoding_dim": 3,
    "encoding_every": 1,
    "gnn_layers": 2,
    "gnn_alpha": 0.05,
    "gnn_hops": 2,
    "dropout": 0.2,
    "slice": 2,
}


def made(**changed):
    torch.manual_seed(0)
    return BiMambaGNN(**SIZES | changed)


def tokens():
    return torch.randn(S, N, D, generator=torch.Generator().manual_seed(1))


def nodes_of(encoding):
    return 19 if encoding is Encoding.static else V


@pytest.mark.parametrize("encoding", [Encoding.heat, Encoding.none])
def test_electrodes_and_pairs_go_their_ways_one_by_one_and_meet_in_the_graph(encoding):
    backbone, given = made(encoding=encoding).eval(), tokens()
    spread = backbone.spread(given)
    before = [spread[..., W * v : W * v + W] for v in range(V)]
    strengths = []
    for i, j in PAIRS:
        pair = backbone.lift(F.cosine_similarity(before[i], before[j], dim=-1)[..., None])
        for layer in backbone.edges:
            pair = layer(pair)
        strengths.append(F.softplus(backbone.lower(pair))[..., 0])
    graph = adjacency(torch.stack(strengths, 1), n_nodes=V, top_k=2, threshold=1e-4)
    after = []
    for one in before:
        for layer in backbone.nodes:
            one = layer(one)
        after.append(one)
    nodes = torch.stack(after, 2)
    if encoding is not Encoding.none:
        nodes = nodes + backbone.position(graph)
    for block in backbone.graph:
        nodes = block(nodes, graph)
    expected = torch.cat(nodes.unbind(2), -1) @ backbone.collect.weight.T + backbone.collect.bias
    torch.testing.assert_close(backbone(given), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("edge_feature", list(EdgeFeature))
@pytest.mark.parametrize("encoding", list(Encoding))
def test_every_parameter_takes_part(encoding, edge_feature):
    backbone = made(encoding=encoding, edge_feature=edge_feature, n_nodes=nodes_of(encoding))
    backbone(tokens()).square().sum().backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    assert [name for name, grad in gradients.items() if not grad.any()] == []


@pytest.mark.parametrize(
    "changed", [{"encoding": kind} for kind in Encoding] + [{"edge_feature": EdgeFeature.correlation}]
)
def test_what_is_chosen_changes_the_result_of_the_same_weights(changed):
    n_nodes = nodes_of(changed.get("encoding"))
    plain = made(n_nodes=n_nodes, encoding=Encoding.heat).eval()
    other = made(n_nodes=n_nodes, **changed).eval()
    other.load_state_dict(plain.state_dict(), strict=False)
    same = changed == {"encoding": Encoding.heat}
    assert torch.allclose(plain(tokens()), other(tokens()), atol=1e-5) == same


@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_checkpoint_loads_into_a_fresh_backbone_after_any_batch(encoding):
    used, fresh = (made(encoding=encoding, n_nodes=nodes_of(encoding)).eval() for _ in range(2))
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    used(tokens())
    used(tokens()[:1])
    fresh.load_state_dict(used.state_dict())
    assert torch.equal(fresh(tokens()), used(tokens()))


@pytest.mark.parametrize(("every", "graphs"), [(1, 7), (3, 3), (7, 1)])
def test_only_every_so_many_tokens_is_a_graph_decomposed(every, graphs, monkeypatch):
    counts, eigh = [], torch.linalg.eigh

    def count(matrices):
        counts.append(len(matrices))
        return eigh(matrices)

    monkeypatch.setattr(torch.linalg, "eigh", count)
    made(encoding_every=every)(tokens()).sum().backward()
    assert sum(counts) == S * graphs


def test_the_blocks_are_every_layer_and_take_tensors_alone():
    backbone = made()
    assert backbone.blocks == [*backbone.nodes, *backbone.edges, *backbone.graph]
    assert "blocks" not in dict(backbone.named_children())
    seen = []
    for block in backbone.blocks:
        block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    backbone(tokens())
    assert len(seen) == len(backbone.blocks)
    assert all(isinstance(argument, torch.Tensor) for arguments in seen for argument in arguments)


@pytest.mark.parametrize(("slice", "nodes", "edges"), [(1, 4, 6), (2, 2, 3), (4, 1, 2), (19, 1, 1)])
def test_a_layer_can_be_run_in_slices_of_so_many_sequences_of_a_window(slice, nodes, edges):
    backbone = made(slice=slice)
    assert {layer.slices for layer in backbone.nodes} == {nodes}
    assert {layer.slices for layer in backbone.edges} == {edges}


def recomputing(backbone):
    """The same backbone with every block checkpointed, in its slices."""
    other = copy.deepcopy(backbone)

    def call(block):
        def forward(*tensors):
            parts = zip(*(t.tensor_split(getattr(block, "slices", 1)) for t in tensors), strict=True)
            return torch.cat([checkpoint(type(block).forward, block, *part, use_reentrant=False) for part in parts])

        return forward

    for block in other.blocks:
        block.forward = call(block)
    return other


def gradients(backbone):
    torch.manual_seed(2)
    loss = backbone(tokens()).square().mean()
    return loss, torch.autograd.grad(loss, list(backbone.parameters()))


def test_checkpointed_and_in_slices_loss_and_gradients_are_the_same():
    backbone = made()
    (loss, expected), (again, found) = gradients(backbone), gradients(recomputing(backbone))
    torch.testing.assert_close(again, loss, rtol=1e-6, atol=0)
    for (name, _), one, other in zip(backbone.named_parameters(), found, expected, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm(), name


@pytest.mark.parametrize("scan", list(Scan))
def test_the_scan_is_fused_where_it_is_asked_for(scan):
    layers = [module for module in made(scan=scan).modules() if isinstance(module, BiMamba2)]
    assert {part.fused for layer in layers for part in (layer.onward, layer.back)} == {scan is Scan.mamba_ssm}


def test_a_token_that_is_no_number_shows_in_its_sequence_alone():
    backbone, given = made().eval(), tokens()
    given[0, 3, 2] = torch.nan
    found = backbone(given)
    assert found[0].isnan().any()
    assert found[1].isfinite().all()


def test_silence_has_finite_results_and_gradients():
    """All electrodes alike at all tokens: no direction, equal edges."""
    backbone, given = made(), torch.zeros(S, N, D, requires_grad=True)
    with torch.no_grad():
        backbone.spread.bias.zero_()
    backbone(given).square().sum().backward()
    assert given.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


def test_autocast_changes_the_result_by_no_more_than_its_rounding():
    """All pairs kept, else one that is chosen otherwise would change it by as much as it weighs."""
    backbone = made(top_k=V - 1, encoding=Encoding.none).eval()
    exact = backbone(tokens())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = backbone(tokens()).float()
    assert 0 < (rough - exact).norm() < 0.05 * exact.norm()


def test_the_number_of_parameters_follows_from_the_sizes():
    def state_space(d, states, head):
        inner, mixed = 2 * d, 2 * d + 2 * states
        heads = inner // head
        return (
            d * (inner + mixed + heads) + mixed * 4 + 3 * heads + inner + inner * d
        )  # taps and bias of the convolution

    def both_ways(d, states, head):
        return 2 * state_space(d, states, head) + (2 * d * d + d) + 2 * d

    expected = (D * V * W + V * W) + 2 * both_ways(W, 3, 4) + 8 + both_ways(4, 2, 2) + 5
    expected += (3 * W + W) + 2 * (W * W + W + 2 * W) + (V * W * D + D)
    assert sum(p.numel() for p in made().parameters()) == expected
