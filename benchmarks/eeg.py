"""What the seizure model costs: one window of 60 s at 256 Hz from 19 electrodes, forward and backward, in fp32.

    python -m benchmarks.eeg

The bill of ``experiment=seizure_v3`` by part, from the plan, and what planning takes. Live bytes and CPU seconds of the
encoder and the backbone at their published sizes: with the scan as textbooks have it
(``textbook.py``), plain, checkpointed, and checkpointed in slices, with loss and gradients against the plain ones; the
scan against the recurrence; the graph convolution against a loop over graphs; the encoding of positions as a share of
the step. One thread; seconds are the least of some rounds, taken in turns. Live bytes are those of all tensors at once,
weights and gradients included. Bars: 800 MiB in slices and no slower than plain; the same to 1e-5; scan and graphs 5x;
encoding 3 %, of every tenth token a fifth of that.
"""

import importlib.util
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.textbook import textbook_scan
from vibench.config import schemas
from vibench.config.backbone import Encoding
from vibench.config.resolve import examine
from vibench.layers import ssd
from vibench.layers.graph import SSGConv, adjacency
from vibench.layers.laplacian import PositionalEncoding
from vibench.layers.scan import scan
from vibench.memory import bill
from vibench.memory.plan import fit
from vibench.memory.trace import live_peak
from vibench.memory.tracker import Tracker, bias_in_place
from vibench.model import Model
from vibench.step.checkpointing import checkpoint_blocks

MIB = 2**20
ELECTRODES, WINDOW, WIDTH = 19, 15_360, 512
TOKENS, PAIRS = WINDOW // 16, ELECTRODES * (ELECTRODES - 1) // 2
ROUNDS = 3
PLAIN = ("training.checkpointing=none", "training.micro_batch=8", "training.precision=fp32")
BILLS = (("hardware=h200", *PLAIN), ("hardware=rtx4090",))
PATHS = {"textbook": "none", "plain": "none", "checkpointed": "full", "in slices": "sliced"}  # how it is checkpointed


def build(path: str, **changed: object) -> Model:
    """Encoder and backbone at the sizes of conf, the same weights every time."""
    with initialize_config_module("vibench.conf", version_base="1.3"):
        config = compose("train", ["hardware=cpu", "embedding=tcn", "backbone=bimamba_gnn"])
    parts = [OmegaConf.to_object(part) for part in (config.embedding, config.backbone)]
    torch.manual_seed(0)
    embedding = instantiate(parts[0], d_model=WIDTH, n_channels=ELECTRODES, window=WINDOW)
    backbone = instantiate(parts[1], d_model=WIDTH, n_tokens=TOKENS, **changed)
    model = Model(embedding, backbone, {})
    checkpoint_blocks(model, PATHS[path])
    return model


def step(model: Model) -> Tensor:
    """Loss of one window; the gradients are in the parameters. What is dropped out is the same every time."""
    torch.manual_seed(1)
    signal = torch.randn(1, ELECTRODES, WINDOW)
    tokens = model.embedding(signal, torch.tensor([ELECTRODES]), torch.tensor([256.0]))
    loss = model.backbone(tokens).square().mean()
    loss.backward()
    return loss.detach()


@contextmanager
def scanned(path: str) -> Iterator[None]:
    """By the textbook's scan, or ours."""
    ssd.scan = textbook_scan if path == "textbook" else scan
    try:
        yield
    finally:
        ssd.scan = scan


def live_mib(path: str, **changed: object) -> float:
    """Most bytes of tensors alive at once, of the model and one step of it."""
    with scanned(path), bias_in_place(), Tracker() as tracker:
        step(build(path, **changed))
        tracker.finish()
    return live_peak(tracker.timeline.blocks, tracker.timeline.events)[0] / MIB


def in_turns(codes: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Least CPU seconds of each, over some rounds after one that warms up."""
    took = dict.fromkeys(codes, math.inf)
    for number in range(rounds + 1):
        for name, code in codes.items():
            start = time.process_time()
            code()
            if number:
                took[name] = min(took[name], time.process_time() - start)
    return took


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest relative difference of tensors."""
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True))


def paths() -> tuple[float, float]:
    """Prints the table of the ways through the model; seconds and MiB of the one in slices."""
    models = {path: build(path) for path in PATHS}
    losses, gradients = {}, {}
    for path, model in models.items():
        with scanned(path):
            losses[path] = step(model)
        gradients[path] = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()

    def timed(path: str) -> None:
        models[path].zero_grad()
        with scanned(path):
            step(models[path])

    took = in_turns({path: partial(timed, path) for path in PATHS})
    count = sum(p.numel() for p in models["plain"].parameters())
    mib = {path: live_mib(path) for path in PATHS}
    print(f"{count / 1e6:.2f} M parameters")
    print(f"{'one window':<26}{'MiB':>8}{'CPU s':>8}{'ratio':>7}{'loss':>9}{'gradients':>11}")
    for path in PATHS:
        loss = apart([losses[path]], [losses["plain"]])
        difference = apart(gradients[path], gradients["plain"])
        times = f"{took[path]:>8.2f}{took[path] / took['plain']:>7.2f}"
        print(f"{path:<26}{mib[path]:>8.0f}{times}{loss:>9.0e}{difference:>11.1e}", flush=True)
    return took["in slices"], mib["in slices"]


def recurrence(values: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """The scan token by token, time unbound first."""
    state, out = torch.zeros(()), []
    for value, length, to, where in zip(*(tensor.unbind(1) for tensor in (values, step, write, read)), strict=True):
        added = (value * length[..., None])[..., None] * to[:, None, None]
        state = (length * rate).exp()[..., None, None] * state + added
        out.append((state * where[:, None, None]).sum(-1))
    return torch.stack(out, dim=1)


def scans() -> None:
    """Prints the scan of a slice against the recurrence, at the sizes of an electrode and of a pair."""
    print(f"\n{'scan of 19 x 960 tokens':<26}{'ms':>8}{'one by one':>12}{'ratio':>7}{'apart':>9}")
    for name, heads, features, states in (("electrodes", 16, 8, 16), ("pairs", 8, 4, 8)):
        values = torch.randn(ELECTRODES, TOKENS, heads, features)
        lengths, rate = torch.rand(ELECTRODES, TOKENS, heads) / 10, -1 - 15 * torch.rand(heads)
        write, read = torch.randn(2, ELECTRODES, TOKENS, states)
        given = [tensor.requires_grad_() for tensor in (values, lengths, rate, write, read)]
        ways = {"chunks": partial(scan, *given, 16), "one by one": partial(recurrence, *given)}
        _compare(name, ways, given)


def graphs() -> None:
    """Prints the convolution of all graphs of 8 windows at once against one graph after the other."""
    print(f"\n{'convolution of 8 x 960':<26}{'ms':>8}{'one by one':>12}{'ratio':>7}{'apart':>9}")
    layer = SSGConv(d_model=64, alpha=0.05, hops=2)
    nodes = torch.randn(8, TOKENS, ELECTRODES, 64, requires_grad=True)
    weights = adjacency(torch.rand(8, PAIRS, TOKENS), n_nodes=ELECTRODES, top_k=3, threshold=1e-4)
    alone = weights.flatten(0, 1).unbind()

    def loop(one: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        results = [one(*pair) for pair in zip(nodes.flatten(0, 1).unbind(), alone, strict=True)]
        return torch.stack(results).view_as(nodes)

    ways = {"at once": lambda: layer(nodes, weights), "loop": lambda: loop(layer)}
    _compare("our own code", ways, [nodes], rounds=1)
    if importlib.util.find_spec("torch_geometric"):
        from torch_geometric.nn import SSGConv as Published

        theirs = Published(64, 64, alpha=0.05, K=2)
        theirs.lin.load_state_dict(layer.theta.state_dict())

        def sparse(nodes: Tensor, graph: Tensor) -> Tensor:
            where = graph.nonzero().T
            return theirs(nodes, where, graph[tuple(where)])

        _compare("torch_geometric", ways | {"loop": lambda: loop(sparse)}, [nodes], rounds=1)


def _compare(name: str, ways: dict[str, Callable[[], Tensor]], given: list[Tensor], rounds: int = ROUNDS) -> None:
    """Forward and backward pass of the first way against the second."""
    first, second = (way().detach() for way in ways.values())
    codes = {key: lambda way=way: torch.autograd.grad(way().square().sum(), given) for key, way in ways.items()}
    ours, plain = in_turns(codes, rounds).values()
    difference = apart([first], [second])
    print(f"{name:<26}{ours * 1e3:>8.0f}{plain * 1e3:>12.0f}{plain / ours:>7.1f}{difference:>9.0e}", flush=True)


def encoding(seconds: float, mib: float) -> None:
    """Prints what the encoding of positions takes of a step in slices that takes so much."""
    more = mib - live_mib("in slices", encoding=Encoding.none)
    print(f"\nthe encoding of every token adds {more:.1f} MiB to the peak, {max(more, 0) / mib:.2%}")
    print(f"{'encoding':<26}{'ms':>8}{'of step':>9}{'of all':>9}")
    weights = adjacency(torch.rand(1, PAIRS, TOKENS), n_nodes=ELECTRODES, top_k=3, threshold=1e-4)
    direction = torch.randn(1, TOKENS, ELECTRODES, 64)

    def code(kind: Encoding, every: int) -> Callable[[], None]:
        layer = PositionalEncoding(kind=kind, n_nodes=ELECTRODES, k=16, every=every, d_out=64)
        return lambda: layer(weights).backward(direction)

    for kind in (Encoding.heat, Encoding.random_walk, Encoding.eigenvectors):
        took = in_turns({f"{kind.value}, every {every}": code(kind, every) for every in (1, 10)}, rounds=10)
        for name, taken in took.items():
            share = taken / next(iter(took.values()))
            print(f"{name:<26}{taken * 1e3:>8.1f}{taken / seconds:>9.2%}{share:>9.2f}", flush=True)


def bills() -> None:
    """Prints who holds the memory of ``experiment=seizure_v3`` at its peak, and what the plan takes."""
    bill.SHOWN = sys.maxsize  # every layer
    for settings in BILLS:
        with initialize_config_module("vibench.conf", version_base="1.3"):
            composed = compose("train", ["experiment=seizure_v3", "data.store=unused", *settings])
        config = examine(composed)[1]  # there need be no data for a plan
        start = time.process_time()
        plan = fit(config, n_channels=ELECTRODES, n_classes=2)
        took = time.process_time() - start
        parts: Counter[str] = Counter()
        for layer, _, gib in plan.layers:
            parts[".".join(layer.split(".")[: 2 if layer.startswith("backbone.") else 1])] += gib
        print(f"\n{' '.join(settings)}: {plan.in_words()}, {plan.checkpointing}; planned in {took:.0f} CPU s")
        for part, gib in parts.most_common():
            print(f"{part:<26}{gib:>8.3f} GiB")


def main() -> None:
    torch.set_num_threads(1)
    schemas.register()
    bills()
    seconds, mib = paths()
    scans()
    graphs()
    encoding(seconds, mib)


if __name__ == "__main__":
    main()
