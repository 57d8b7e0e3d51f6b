"""The config of a run, frozen when it began: written beside its results, and read again as it was."""

import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from vibench.config import schemas
from vibench.config.compose import apply
from vibench.config.experiment import ExperimentConfig
from vibench.config.resolve import examine, resolve
from vibench.errors import ConfigError

FILE = "config.yaml"


def freeze(config: dict[str, Any], run_dir: Path) -> None:
    """Write a config in plain types; the file appears whole or not at all."""
    temporary = run_dir / f".{FILE}.tmp"
    with temporary.open("w") as file:
        yaml.safe_dump(config, file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, run_dir / FILE)


def read(run_dir: Path) -> dict[str, Any]:
    """The frozen config in plain types.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = run_dir / FILE
    try:
        found = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError([f"{run_dir} holds no run: there is no {FILE}; name the directory of a run"]) from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} cannot be read: {str(error).splitlines()[0]}"]) from error
    if not isinstance(found, dict):
        raise ConfigError([f"{path} cannot be read: it is no config of a run"])
    return found


def thaw(run_dir: Path, overrides: list[str]) -> ExperimentConfig:
    """The config of a run, with some values changed, checked as if it had been composed.

    Args:
        overrides: as typed, e.g. ``training.lr=0.1``; groups cannot be chosen anew.

    Raises:
        ConfigError: with everything that is wrong.
    """
    cfg = _typed(read(run_dir), run_dir / FILE)
    if complaints := apply(cfg, overrides):
        raise ConfigError(complaints)
    return resolve(cfg)


def as_it_ran(run_dir: Path) -> ExperimentConfig:
    """The config of a run as it is: its data, for one, may be gone.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    return examine(_typed(read(run_dir), run_dir / FILE))[1]


def _typed(values: dict[str, Any], path: Path) -> DictConfig:
    """The values in the schemas they came from."""
    cfg = OmegaConf.structured(ExperimentConfig)
    try:
        for group, known in schemas.GROUPS.items():
            if group == "task":
                cfg.task = {name: _schema(known, task) for name, task in values["task"].items()}
            else:
                cfg[group] = _schema(known, values[group])
        return OmegaConf.merge(cfg, values)
    except Exception as error:  # of a file that was edited, or of another version: whatever OmegaConf says of it
        raise ConfigError([f"{path} cannot be read: {str(error).splitlines()[0]}"]) from error


def _schema(known: dict[str, type], values: dict[str, Any]) -> Any:
    """The schema that the values name, or the one with most of their keys."""
    if "_target_" in values:
        found = [s for s in known.values() if _target(s) == values["_target_"]]
        if not found:
            raise ValueError(f"{values['_target_']} is none of {', '.join(known)}")
        return OmegaConf.structured(found[0])
    return OmegaConf.structured(max(known.values(), key=lambda s: len(set(values) & {f.name for f in fields(s)})))


def _target(schema: type) -> Any:
    return next((f.default for f in fields(schema) if f.name == "_target_"), None)


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """``key: before -> now`` of every value that differs."""
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, "absent"), now.get(key, "absent")
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} -> {new}"
