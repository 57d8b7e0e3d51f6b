"""What is allocated and freed while some code runs, and on whose account.

Works on fake tensors as on real ones: it looks at the storages that operators return, and at the moment they die.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


@contextmanager
def bias_in_place() -> Iterator[None]:
    """``linear`` adds its bias in place, as it does without a tracker; it makes a copy as soon as one is at work."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("linear", _linear, "AutogradCPU")
    try:
        yield
    finally:
        library._destroy()


def _linear(tensor: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if bias is None:
        return aten.matmul(tensor, weight.t())
    if tensor.dim() == 2:
        return aten.addmm(bias, tensor, weight.t())
    if tensor.dim() == 3 and tensor.is_contiguous():
        flat = aten.addmm(bias, tensor.reshape(-1, tensor.shape[-1]), weight.t())
        return flat.view(*tensor.shape[:-1], -1)
    return aten.matmul(tensor, weight.t()).add_(bias)


@dataclass(slots=True)
class Block:
    """One allocation.

    Attributes:
        nbytes: its size.
        phase: what was going on: weights, metrics, input, forward, backward, optimizer, score, or scratch of a kernel.
        layer: the module on whose account it is; empty where there is none.
        part: number of the micro-batch within its step, from 0.
        gradient: whether it became the gradient of a weight.
    """

    nbytes: int
    phase: str
    layer: str
    part: int
    gradient: bool = False


@dataclass(slots=True)
class Timeline:
    """Blocks, and the order in which they come and go: ``(number of the block, whether it comes)``."""

    blocks: list[Block] = field(default_factory=list)
    events: list[tuple[int, bool]] = field(default_factory=list)


def lasting(events: list[tuple[int, bool]]) -> set[int]:
    """Numbers of the blocks that are alive at the end: what the optimizer made and keeps is its state."""
    alive: set[int] = set()
    for number, comes in events:
        (alive.add if comes else alive.discard)(number)
    return alive


class Observer(TorchDispatchMode):
    """Watches operators, and is told what is going on.

    Attributes:
        phase: weights, metrics, input, forward, optimizer or score.
        part: number of the micro-batch within its step, from 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase, self.part = "weights", 0

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Put what happens on the account of a phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    @contextmanager
    def named(self, model: nn.Module) -> Iterator[None]:
        """Know the modules of a model by their names."""
        yield

    def ignore(self, tensors: list[Tensor]) -> None:
        """Leave out what these tensors hold: it lies on the host."""

    def name_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the state of an optimizer on the account of the layers whose weights it is of."""

    def finish(self) -> None:
        """Take no more note of anything."""


class Tracker(Observer):
    """Records a :class:`Timeline`. Keeps nothing alive: it holds weak references to storages alone.

    Args:
        scratch: bytes that an operator takes for as long as it runs; None for none.
    """

    def __init__(self, scratch: Callable[[Any, Any, Any], int] | None = None) -> None:
        super().__init__()
        self.timeline, self.scratch = Timeline(), scratch
        self._living: dict[int, tuple[int, Any]] = {}  # storage -> block, and the reference that tells of its death
        self._done = False
        self._ignored: list[Any] = []  # kept, so that no other storage gets its address
        self._names: dict[int, str] = {}
        self._stack: list[str] = []
        self._layer_of: dict[int, str] = {}  # number of an autograd node -> layer whose forward pass made it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        layer, phase = self._layer(), self.phase
        if phase == "forward" and torch._C._current_autograd_node() is not None:
            phase = "backward"
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf, layer, phase)
        if self.scratch is not None and not func.is_view:
            self._come_and_go(self.scratch(func, args, kwargs or {}), layer)
        return out

    @contextmanager
    def named(self, model: nn.Module) -> Iterator[None]:
        """Put what happens in a model's modules on their account, and mark the gradients of its weights."""
        self._names = {id(module): name for name, module in model.named_modules()}
        hooks = [
            register_module_forward_pre_hook(lambda module, _: self._stack.append(self._names.get(id(module), ""))),
            register_module_forward_hook(lambda *_: self._leave(), always_call=True),
        ]
        for name, parameter in model.named_parameters():
            self._block_of(parameter).layer = name.rpartition(".")[0]
            if parameter.requires_grad:
                hooks.append(parameter.register_post_accumulate_grad_hook(lambda p, name=name: self._mark(p, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self) -> None:
        self._stack.pop()

    def ignore(self, tensors: list[Tensor]) -> None:
        """Leave out what these tensors hold: it lies on the host."""
        for tensor in tensors:
            self._ignored.append(tensor.untyped_storage())
            self._living[self._ignored[-1]._cdata] = (-1, None)

    def name_state(self, optimizer: torch.optim.Optimizer) -> None:
        for weight, state in optimizer.state.items():
            for tensor in state.values():
                if isinstance(tensor, Tensor):
                    self._block_of(tensor).layer = self._block_of(weight).layer

    def finish(self) -> None:
        self._done = True

    def _layer(self) -> str:
        node = torch._C._current_autograd_node()
        if node is not None and not self._stack:  # else it is recomputed
            return self._layer_of.get(node._sequence_nr(), "")
        layer = next((name for name in reversed(self._stack) if name), "")
        self._layer_of.setdefault(torch._C._autograd._get_sequence_nr() - 1, layer)
        return layer

    def _see(self, tensor: Tensor, layer: str, phase: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._living or not size or self._done:
            return
        number = len(self.timeline.blocks)
        self.timeline.blocks.append(Block(size, phase, layer, self.part))
        self.timeline.events.append((number, True))
        self._living[key] = (number, weakref.ref(storage, lambda _: self._gone(key, number)))

    def _come_and_go(self, nbytes: int, layer: str) -> None:
        number = len(self.timeline.blocks)
        self.timeline.blocks.append(Block(nbytes, "scratch", layer, self.part))
        self.timeline.events += [(number, True), (number, False)]

    def _gone(self, key: int, number: int) -> None:
        del self._living[key]
        if not self._done:
            self.timeline.events.append((number, False))

    def _mark(self, parameter: Tensor, name: str) -> None:
        block = self._block_of(parameter.grad)
        block.gradient, block.layer = True, name.rpartition(".")[0]

    def _block_of(self, tensor: Tensor) -> Block:
        return self.timeline.blocks[self._living[tensor.untyped_storage()._cdata][0]]
