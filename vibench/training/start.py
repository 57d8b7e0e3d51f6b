"""Weights to start from: those of another run."""

import logging
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from vibench.config.experiment import ExperimentConfig
from vibench.config.task import TaskConfig
from vibench.config.training import checkpoint_of
from vibench.errors import ConfigError
from vibench.model import Model
from vibench.training.checkpoints import CheckpointError, read_checkpoint, weights_of

log = logging.getLogger("vibench")


FREE = {  # may differ: what a weight means stays
    *("dropout", "chunk", "slice", "scan", "label_smoothing", "threshold", "mask_ratio", "alpha", "gamma"),
    *("max_fa_per_24h", "off_ratio", "opening", "closing", "min_duration_s", "merge_gap_s"),
}


def start_from(model: Model, config: ExperimentConfig, classes: list[str]) -> dict[str, Any] | None:
    """Put the weights of ``training.init_from`` into the parts that ``training.init_parts`` names.

    Of the heads, those of tasks that both have. Nothing is changed where anything does not fit.

    Returns:
        what was taken, in plain types, with the entities that those weights have ``seen`` (None if they do not say);
        None where nothing was asked.

    Raises:
        ConfigError: with every weight that is missing, too many or of another shape.
        CheckpointError: the file cannot be read.
    """
    source, chosen = config.training.init_from, config.training.init_parts
    if source is None:
        return None
    path = checkpoint_of(source)
    checkpoint = read_checkpoint(path)
    there, own = weights_of(checkpoint), model.state_dict()
    parts = [f"{part}." for part in chosen if part != "tasks"]
    if "tasks" in chosen:
        parts += [f"tasks.{name}." for name in model.tasks if any(key.startswith(f"tasks.{name}.") for key in there)]
    if not parts:
        heads = sorted({name.split(".")[1] for name in there if name.startswith("tasks.")})
        raise ConfigError(
            [
                f"training.init_from={source} has no head of {', '.join(model.tasks)}, only of "
                f"{', '.join(heads)}; use training.init_parts=[embedding,backbone]"
            ]
        )
    wanted = {name for name in {*there, *own} if name.startswith(tuple(parts))}
    complaints = [
        f"training.init_from={source}: {name} is {_shape(there, name)} there, {_shape(own, name)} here"
        for name in sorted(wanted)
        if name not in there or name not in own or there[name].shape != own[name].shape
    ]
    known = checkpoint.get("vibench", {})
    if not isinstance(known, dict):
        raise CheckpointError(f"{path} is no checkpoint of vibench: what it says of itself cannot be read")
    if not complaints:
        complaints = [f"training.init_from={source}: {text}" for text in _other_settings(parts, config, known)]
    if "tasks.classification." in parts and known.get("classes", classes) != classes:
        complaints.append(
            f"training.init_from={source}: its classes are {', '.join(known['classes'])}, here they are "
            f"{', '.join(classes)}; leave tasks out of training.init_parts"
        )
    if complaints:
        raise ConfigError(complaints)
    before, now = known.get("config", {}).get("data", {}).get("normalisation"), config.data.normalisation.value
    if before not in (None, now):
        log.warning(f"{path} was trained with data.normalisation={before}, this is {now}: its weights see other scales")
    model.load_state_dict({name: there[name] for name in wanted}, strict=False)
    taken = [part.rstrip(".") for part in parts]
    log.info(f"started from {path}: {len(wanted)} weights of {', '.join(taken)}")
    return {"checkpoint": str(path.resolve()), "parts": taken, "seen": known.get("seen")}


def _other_settings(parts: list[str], config: ExperimentConfig, known: dict[str, Any]) -> Iterator[str]:
    """Settings that fit the shapes and change what the weights mean, as the number of heads does."""
    for part in (part.rstrip(".") for part in parts):
        group, _, task = part.partition(".")
        own = config.task[task] if task else getattr(config, group)
        there = known.get("config", {}).get("task" if task else group, {})
        there = there.get(task, {}) if task else there
        common = {f.name for f in fields(TaskConfig)} if task else set()
        for name in (f.name for f in fields(own) if f.name in there and f.name not in FREE | common):
            if there[name] != getattr(own, name):
                key = f"task.{task}.{name}" if task else f"{group}.{name}"
                yield f"{key} is {there[name]} there, {getattr(own, name)} here; use {key}={there[name]}"


def _shape(weights: dict[str, Any], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "absent"
