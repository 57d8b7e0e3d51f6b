"""From Hydra's DictConfig to plain dataclasses: the only place that sees both."""

import difflib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vibench.config.experiment import ExperimentConfig
from vibench.config.rules import parts
from vibench.config.setting import complaints_about, interval
from vibench.config.task import SCHEMAS as TASKS
from vibench.config.task import TaskConfig
from vibench.errors import ConfigError


def resolve(cfg: DictConfig) -> ExperimentConfig:
    """Check a composed config and return it as dataclasses, free of OmegaConf.

    Hydra composes happily with mandatory values unset and with keys that were added by ``+``, so both are
    asked for here; every complaint is collected before any is raised.

    Raises:
        ConfigError: with all complaints.
    """
    complaints, config = examine(cfg)
    if complaints:
        raise ConfigError(complaints)
    return config


def examine(cfg: DictConfig) -> tuple[list[str], ExperimentConfig]:
    """All complaints about a composed config, and the config (with None where a value is missing)."""
    complaints = list(_structure(cfg, ""))
    config = _object(cfg)
    for part in parts(config):
        try:
            complaints.extend(part())
        except (TypeError, AttributeError, ArithmeticError, ValueError, IndexError):
            if not complaints:  # only a value already complained about may keep a rule from being asked
                raise
    return complaints, config


def _structure(node: DictConfig, prefix: str) -> Iterator[str]:
    """Missing fields, unknown keys and values out of range, in a node and below it."""
    schema = OmegaConf.get_type(node)
    known = {f.name: f for f in fields(schema)} if is_dataclass(schema) else {}
    there = list(node.keys())  # "in node" would not see a key whose value is missing
    for key in dict.fromkeys([*known, *there]):
        name = f"{prefix}{key}"
        if known and key not in known:
            yield _unknown(name, str(key), list(known), schema.__name__)
        elif key not in there or OmegaConf.is_missing(node, key):
            yield _missing(name, known[key].metadata if key in known else {})
        elif key == "_target_" and known and node[key] != known[key].default:
            yield f"{name}={node[key]} is not {known[key].default}, which {schema.__name__} describes; leave it out"
        else:
            yield from _value(node, key, name, known[key].metadata if key in known else {})


def _value(node: DictConfig, key: str, name: str, metadata: Any) -> Iterator[str]:
    try:
        value = node[key]
    except OmegaConfBaseException as error:
        yield f"{name}: {str(error).splitlines()[0]}; set {name}=VALUE"
        return
    if isinstance(value, DictConfig):
        if OmegaConf.get_type(value) is TaskConfig:  # no schema of its own: added by hand, or misspelt
            yield _unknown(name, str(key), list(TASKS), "the tasks")
        else:
            yield from _structure(value, f"{name}.")
    elif metadata:
        plain = OmegaConf.to_container(value) if OmegaConf.is_list(value) else value
        yield from complaints_about(name, plain, metadata)


def _unknown(name: str, key: str, known: list[str], owner: str) -> str:
    near = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {name[: len(name) - len(key)]}{near[0]}?" if near else f"it has {', '.join(known)}"
    return f"{name} is not a key of {owner}; {hint}"


def _missing(name: str, metadata: Any) -> str:
    if not metadata:
        return f"{name} is missing; set {name}=VALUE"
    legal = interval(metadata)
    return f"{name} is missing: {metadata['meaning']}{f' ({legal})' if legal else ''}; set {name}=VALUE"


def _object(node: Any) -> Any:
    """The node as dataclasses, dicts, lists and plain values; None where a value is missing or unreadable."""
    if OmegaConf.is_list(node):
        return OmegaConf.to_container(node, resolve=True)
    if not isinstance(node, DictConfig):
        return node
    schema = OmegaConf.get_type(node)
    names = [f.name for f in fields(schema)] if is_dataclass(schema) else list(node.keys())
    values = {name: _object(_read(node, name)) for name in names}
    return schema(**values) if is_dataclass(schema) else values


def _read(node: DictConfig, name: str) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException:  # missing, left out, or an interpolation that cannot be read
        return None
