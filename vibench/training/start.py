"""Weights to start from: those of another run."""

import logging
from typing import Any

from vibench.config.training import TrainingConfig, checkpoint_of
from vibench.errors import ConfigError
from vibench.model import Model
from vibench.training.checkpoints import read_checkpoint, weights_of

log = logging.getLogger("vibench")


def start_from(model: Model, config: TrainingConfig, classes: list[str]) -> dict[str, Any] | None:
    """Put the weights of ``training.init_from`` into the parts that ``training.init_parts`` names.

    Of the heads, those of tasks that both have. Nothing is changed where anything does not fit.

    Returns:
        what was taken, in plain types, with the entities that those weights have seen; None where nothing was asked.

    Raises:
        ConfigError: with every weight that is missing, too many or of another shape.
        CheckpointError: the file cannot be read.
    """
    if config.init_from is None:
        return None
    path = checkpoint_of(config.init_from)
    checkpoint = read_checkpoint(path)
    there, own = weights_of(checkpoint), model.state_dict()
    parts = [f"{part}." for part in config.init_parts if part != "tasks"]
    if "tasks" in config.init_parts:
        parts += [f"tasks.{name}." for name in model.tasks if any(key.startswith(f"tasks.{name}.") for key in there)]
    wanted = {name for name in {*there, *own} if name.startswith(tuple(parts))}
    complaints = [
        f"training.init_from={config.init_from}: {name} is {_shape(there, name)} there, {_shape(own, name)} here"
        for name in sorted(wanted)
        if name not in there or name not in own or there[name].shape != own[name].shape
    ]
    known = checkpoint.get("vibench", {})
    if "tasks.classification." in parts and known.get("classes", classes) != classes:
        complaints.append(
            f"training.init_from={config.init_from}: its classes are {', '.join(known['classes'])}, here they are "
            f"{', '.join(classes)}; leave tasks out of training.init_parts"
        )
    if complaints:
        raise ConfigError(complaints)
    model.load_state_dict({name: there[name] for name in wanted}, strict=False)
    log.info(f"started from {path}: {len(wanted)} weights of {', '.join(part.rstrip('.') for part in parts)}")
    return {"checkpoint": str(path), "parts": [part.rstrip(".") for part in parts], "seen": known.get("seen", [])}


def _shape(weights: dict[str, Any], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "absent"
