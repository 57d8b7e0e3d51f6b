"""All that is wrong with a command line, when Hydra would name only its first mistake."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from vibench.config.describe import GROUPS, describe, sweep_without_m
from vibench.config.resolve import examine


def complaints_about(overrides: list[str], config_dir: str | None = None) -> list[str]:
    """Everything that is wrong with one run."""
    cfg, complaints = compose_all(overrides, config_dir)
    return complaints + (examine(cfg)[0] if cfg is not None else [])


def complaints_about_sweep(overrides: list[str], config_dir: str | None = None) -> list[str]:
    """Everything that is wrong with the runs of a sweep, each complaint once, with the first job it concerns."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return complaints_about(overrides, config_dir)  # says which one cannot be read
    if endless := [o for o in parsed if o.is_interval_sweep() or isinstance(o.value(), Glob)]:
        return [f"{o.input_line} does not name its values; name them, e.g. {o.key_or_group}=A,B" for o in endless]
    jobs = jobs_of(overrides)
    found: dict[str, str] = {}
    for place, job in jobs.items():
        for complaint in complaints_about(job, config_dir):
            found.setdefault(complaint, f"{place}: {complaint}" if place else complaint)
    return list(found.values())


def jobs_of(overrides: list[str]) -> dict[str, list[str]]:
    """What a job of a sweep varies -> all of its overrides, in the order in which Hydra runs them."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    swept = tuple(f"{o.get_key_element()}=" for o in parsed if o.is_sweep_override())
    jobs = [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    named: dict[str, list[str]] = {}
    for job in jobs:
        place = " ".join(text for text in job if text.startswith(swept))
        alike = sum(other == job for other in named.values())
        named[f"{place} ({alike + 1})" if alike else place] = job
    return named


def compose_all(overrides: list[str], config_dir: str | None = None) -> tuple[DictConfig | None, list[str]]:
    """Compose the experiment, with every override that Hydra refuses left out and complained about.

    Hydra stops at the first mistake. Here the choices of groups are composed once, then each value is set by
    Hydra's own function on its own, so that one mistake does not hide the next.

    Args:
        overrides: as typed, e.g. ``backbone=patchtst`` or ``training.lr=0.1``.
        config_dir: a folder with more files to choose from.

    Returns:
        the config (None where even the groups cannot be composed) and the complaints.
    """
    parsed, complaints = _parsed(overrides)
    cfg = _compose_choices([o for o in parsed if o.key_or_group in GROUPS], config_dir, complaints)
    if cfg is not None:
        complaints += _set(cfg, [o for o in parsed if o.key_or_group not in GROUPS or o.is_delete()])
    return cfg, complaints


def apply(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Set values in a config that is composed already; everything that is wrong with the overrides."""
    parsed, complaints = _parsed(overrides)
    chosen = [override for override in parsed if override.key_or_group in GROUPS]
    complaints += [
        f"{o.input_line} cannot be chosen anew: the run has begun; change values, or begin another" for o in chosen
    ]
    return complaints + _set(cfg, [override for override in parsed if override not in chosen])


def _parsed(overrides: list[str]) -> tuple[list[Override], list[str]]:
    """Those that can be read and are ours, and what is wrong with the others."""
    parsed: list[Override] = []
    complaints: list[str] = []
    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            complaints.append(describe(error, text))
            continue
        if override.is_sweep_override():
            complaints.append(sweep_without_m(override))
        elif not override.key_or_group.startswith("hydra"):
            parsed.append(override)
    return parsed, complaints


def _set(cfg: DictConfig, overrides: list[Override]) -> list[str]:
    """Set one value after the other, by Hydra's own function; what is wrong with them."""
    complaints = []
    for override in overrides:
        try:
            ConfigLoaderImpl._apply_overrides_to_config([override], cfg)
        except (HydraException, OmegaConfBaseException) as error:
            complaints.append(describe(error, override.input_line))
    return complaints


def _compose_choices(choices: list[Override], config_dir: str | None, complaints: list[str]) -> DictConfig | None:
    """Compose the groups, without the choices that do not exist."""
    choices = [override for override in choices if not override.is_delete()]
    cfg, found = _composed(tuple(override.input_line for override in choices), config_dir)
    complaints += found
    return copy.deepcopy(cfg)


@cache  # of a sweep's jobs, most make the same choices
def _composed(lines: tuple[str, ...], config_dir: str | None) -> tuple[DictConfig | None, tuple[str, ...]]:
    choices = OverridesParser.create().parse_overrides(list(lines))
    complaints: list[str] = []
    search = [f"hydra.searchpath=['file://{Path(config_dir).resolve()}']"] if config_dir else []
    while True:
        try:
            with _no_other_hydra(), initialize_config_module("vibench.conf", version_base="1.3"):
                cfg = compose("train", [*search, *(override.input_line for override in choices)])
                return cfg, tuple(complaints)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            guilty = next((o for o in choices if _is_about(error, o)), None)
            complaints.append(describe(error, guilty.input_line if guilty else ""))
            if guilty is None:
                return None, tuple(complaints)
            choices.remove(guilty)


@contextmanager
def _no_other_hydra() -> Iterator[None]:
    """Also within an application of Hydra, which is set aside."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().clear()
        GlobalHydra.instance().hydra = outer


def _is_about(error: Exception, choice: Override) -> bool:
    text, group = str(error), choice.key_or_group
    return (
        f"'{group}/" in text
        or f"specify '{group}'" in text
        or f"values for {group}." in text
        or (type(error) is ValueError and not isinstance(choice.value(), str))
    )
