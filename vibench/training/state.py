"""Everything that another process needs to go on with a training: plain types and tensors."""

import logging
import random
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from vibench.config.training import Optimizer
from vibench.errors import ConfigError
from vibench.step.optimizer import load_state
from vibench.step.ranks import each_rank, rank, ranks, whole
from vibench.step.recovery import rng_state, set_rng_state
from vibench.training.training import Training

log = logging.getLogger("vibench")


def state_of(training: Training) -> dict[str, Any]:
    """Everything that another process needs to go on, as plain types and tensors. All ranks must ask."""
    modules = {"model": training.model, "weighing": training.weighing}
    weights = {f"{name}.{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}
    kind, keys, position, *gauss = np.random.get_state()
    drawn = {"numpy": [kind, keys.tolist(), position, *gauss], "python": _as_lists(random.getstate())}
    return {
        "state_dict": tree_map(whole, weights),
        "optimizer_states": [tree_map(whole, training.optimizer.state_dict())],
        "scaler": training.scaler.state_dict(),
        "rng": each_rank(rng_state(training.device) | drawn),
        "vibench": {
            "epoch": training.epoch,
            "steps_done": training.steps_done,
            "skipped_steps": training.skipped_steps,
            "labels_seen": dict(training.labels_seen),
            "epoch_sums": {name: list(pair) for name, pair in training.epoch_sums.items()},
            "last_losses": dict(training.last_losses),
            "turns": dict(training.turns),
            "best": dict(training.best),
            "nans": training.nans,
            "made_with": _made_with(training),
            "auto": {"precision": training.plan.precision, "optimizer_state": training.plan.optimizer_state},
        },
    }


def _made_with(training: Training) -> dict[str, Any]:
    """What must be the same where a state is loaded, in the words of the config."""
    return {
        "training.optimizer": "sgd" if training.config.optimizer is Optimizer.sgd else "adam or adamw",
        "training.task_weights": training.config.task_weights.name,
        "training.precision=fp16": training.plan.precision == "fp16",
        "training.optimizer_state=int8": training.plan.optimizer_state == "int8",
        "steps of an epoch": training.per_epoch,
    }


def load_into(training: Training, state: dict[str, Any]) -> None:
    """Go on where :func:`state_of` was asked; the weights of the model are loaded before it is shared out.

    Raises:
        ConfigError: it cannot, as it is another kind of training, or has fewer steps than are done.
    """
    told = state["vibench"]
    now = _made_with(training)
    complaints = [
        f"{name} was {before}, now it is {now[name]}: the run cannot go on so; leave it, or begin another"
        for name, before in told["made_with"].items()
        if now[name] != before
    ]
    if told["steps_done"] > training.total_steps:
        complaints.append(
            f"{told['steps_done']} steps are done, training.epochs={training.config.epochs} and training.max_steps="
            f"{training.config.max_steps} promise only {training.total_steps}; use more of them, or begin another run"
        )
    if complaints:
        raise ConfigError(complaints)
    weighing = {k.removeprefix("weighing."): v for k, v in state["state_dict"].items() if k.startswith("weighing.")}
    training.weighing.load_state_dict(weighing)
    load_state(training.optimizer, state["optimizer_states"][0])
    training.scaler.load_state_dict(state["scaler"])
    for name in ("epoch", "steps_done", "skipped_steps", "labels_seen", "last_losses", "turns", "best"):
        setattr(training, name, told[name])
    if training.epoch * training.per_epoch > training.steps_done and training.steps_done < training.total_steps:
        training.epoch -= 1  # it was ended by fewer steps than are promised now: the rest of it is to come
    training.epoch_sums = {name: tuple(pair) for name, pair in told["epoch_sums"].items()}
    training.last_loss = sum(training.tasks[name].weight * value for name, value in training.last_losses.items())
    training.nans = max(training.nans, told["nans"])
    if len(state["rng"]) != ranks():
        log.warning(f"the checkpoint has the random numbers of {len(state['rng'])} processes, this run {ranks()}")
        torch.manual_seed(torch.initial_seed() + training.steps_done)
        return
    drawn = state["rng"][rank()]
    set_rng_state(drawn, training.device)
    random.setstate(_as_tuples(drawn["python"]))
    kind, keys, *rest = drawn["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
