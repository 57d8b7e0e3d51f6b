"""The optimizer of a step, and where it keeps its state."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vibench.config.training import Optimizer, TrainingConfig
from vibench.errors import ConfigError
from vibench.step.task_weights import Weighing

VARIANCE_RATE = 0.02  # of the log variances of the tasks, after the warm-up
Groups = list[dict[str, Any]]


def build_optimizer(
    model: nn.Module, weighing: Weighing, config: TrainingConfig, precision: str, state: str
) -> torch.optim.Optimizer:
    """The optimizer of what is trained.

    Adam and AdamW are fused: faster on any device, and without the temporary copy of all weights that the unfused ones
    make on a GPU. Not in fp16, where the scaler leaves a step out itself; and not SGD, whose fused form takes no
    weights without momentum beside others with it.

    Args:
        state: device, int8 or host, see :class:`vibench.config.training.OptimizerState`.

    Raises:
        ConfigError: int8, and torchao is not installed.
    """
    groups: Groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    if variances := list(weighing.parameters()):
        # no decay: a variance of 1 is not where it should go; a rate of its own: it has far to go, in units of its own
        groups.append({"params": variances, "weight_decay": 0.0, "peak": VARIANCE_RATE})
    common = {"lr": config.lr, "weight_decay": config.weight_decay}
    if state == "int8":
        return _eight_bit()(groups, **common)

    def exact(groups: Groups) -> torch.optim.Optimizer:
        if config.optimizer is Optimizer.sgd:
            return torch.optim.SGD(groups, momentum=0.9, **common)
        kind = torch.optim.AdamW if config.optimizer is Optimizer.adamw else torch.optim.Adam
        return kind(groups, **common, fused=precision != "fp16")

    return OnHost(groups, exact) if state == "host" else exact(groups)


def set_rates(optimizer: torch.optim.Optimizer, rate: float, factor: float) -> None:
    """Set the learning rate of every group.

    Args:
        rate: after the warm-up, of the groups without a ``peak`` of their own.
        factor: of the schedule.
    """
    for group in optimizer.param_groups:
        wanted = group.get("peak", rate) * factor
        if isinstance(group["lr"], Tensor):  # where a compiled step would be compiled anew for every number
            group["lr"].fill_(wanted)
        else:
            group["lr"] = wanted


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put back the state of an optimizer, whole tensors; of weights that the ranks share, each takes its part.

    Decay, betas and the like are those of the optimizer, not of the one that was saved: a resumed run may change them.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def own_part(weight: Tensor, value: Any) -> Any:
        if not isinstance(weight, DTensor) or not isinstance(value, Tensor) or value.shape != weight.shape:
            return value
        return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)

    kept = {
        number: {name: own_part(weights[number], value) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})


def _eight_bit() -> type[torch.optim.Optimizer]:
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            [f"training.optimizer_state=int8 needs torchao ({error}); pip install 'vibench[int8]', or use host"]
        ) from error
    return AdamW8bit


class OnHost(torch.optim.Optimizer):
    """Makes the step in the host's memory, where a copy of the weights and the state are kept in fp32.

    The device holds weights and gradients alone, and each gradient only until it is copied (Ren et al. 2021,
    ZeRO-Offload, https://arxiv.org/abs/2101.06840). The result is that of the same optimizer on a CPU.

    Args:
        groups: of parameters on the device.
        make: the optimizer of the same groups of host tensors.
    """

    def __init__(self, groups: Groups, make: Callable[[Groups], torch.optim.Optimizer]) -> None:
        self.inner = make([group | {"params": [_host_like(p) for p in group["params"]]} for group in groups])
        self._seen: dict[Tensor, int] = {}  # weight -> its version when the copy on the host was the same
        super().__init__(groups, self.inner.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for ours, theirs in zip(self.param_groups, self.inner.param_groups, strict=True):
            theirs.update({key: value for key, value in ours.items() if key != "params"})
        for weight, copy in self._pairs():
            if self._seen.get(weight) != weight._version:  # somebody has loaded other weights
                copy.copy_(weight)
            copy.grad = None if weight.grad is None else _host_like(weight).copy_(weight.grad)
            weight.grad = None
        self.inner.step()
        for weight, copy in self._pairs():
            if copy.grad is not None:
                weight.copy_(copy, non_blocking=True)
                copy.grad = None
            self._seen[weight] = weight._version
        return loss

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.inner.load_state_dict(state_dict)
        for ours, theirs in zip(self.param_groups, self.inner.param_groups, strict=True):
            ours.update({key: value for key, value in theirs.items() if key != "params"})

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for ours, theirs in zip(self.param_groups, self.inner.param_groups, strict=True):
            yield from zip(ours["params"], theirs["params"], strict=True)


def _host_like(weight: Tensor) -> Tensor:
    """Room for it in the host's memory, from which a GPU reads without another copy."""
    return torch.empty(weight.shape, dtype=weight.dtype, device="cpu", pin_memory=weight.is_cuda)
