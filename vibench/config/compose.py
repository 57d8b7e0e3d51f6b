"""All that is wrong with a command line, when Hydra would name only its first mistake."""

import difflib
import re
from dataclasses import fields, is_dataclass
from importlib.resources import files
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

GROUPS = ("backbone", "embedding", "task", "data", "hardware", "training", "logger", "experiment")
KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def compose_all(overrides: list[str]) -> tuple[DictConfig | None, list[str]]:
    """Compose the experiment, with every override that Hydra refuses left out and complained about.

    Hydra stops at the first mistake. Here the choices of groups are composed once, then each value is set by
    Hydra's own function on its own, so that one mistake does not hide the next.

    Args:
        overrides: as typed, e.g. ``backbone=patchtst`` or ``training.lr=0.1``.

    Returns:
        the config (None where even the groups cannot be composed) and the complaints.
    """
    parsed, complaints = [], []
    for text in overrides:
        try:
            parsed.append(OverridesParser.create().parse_override(text))
        except HydraException as error:
            complaints.append(describe(error, text))
    with initialize_config_module("vibench.conf", version_base="1.3"):
        choices = [o for o in parsed if o.key_or_group in GROUPS]
        cfg = _compose_choices(choices, complaints)
    for override in parsed if cfg is not None else []:
        if override.key_or_group not in GROUPS and not override.key_or_group.startswith("hydra"):
            try:
                ConfigLoaderImpl._apply_overrides_to_config([override], cfg)
            except (HydraException, OmegaConfBaseException) as error:
                complaints.append(describe(error, override.input_line))
    return cfg, complaints


def options() -> dict[str, list[str]]:
    """The files to choose from in every group of ``conf``."""
    conf = files("vibench.conf")
    return {
        group: sorted(
            str(path.relative_to(conf / group).with_suffix("")) for path in Path(str(conf / group)).rglob("*.yaml")
        )
        for group in GROUPS
    }


def _compose_choices(choices: list[Override], complaints: list[str]) -> DictConfig | None:
    while True:
        try:
            return compose("train", [override.input_line for override in choices])
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            guilty = next((o for o in choices if f"'{o.key_or_group}/" in str(error)), None)
            guilty = guilty or next((o for o in choices if not isinstance(o.value(), str)), None)
            complaints.append(describe(error, guilty.input_line if guilty else ""))
            if guilty is None:
                return None
            choices.remove(guilty)


def describe(error: Exception, override: str = "") -> str:
    """What Hydra or OmegaConf refused, in one line: key, value, limit, remedy."""
    text, cause = str(error), error.__cause__
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)/([^/']+)'", text)):
        group, choice = found.groups()
        options = re.findall(r"^\t(\S+)$", text, re.M)
        near = difflib.get_close_matches(choice, options, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{group}={choice} does not exist; {hint}there are {', '.join(options)}"
    detail = str(cause if isinstance(cause, OmegaConfBaseException) else error).splitlines()[0]
    key = getattr(cause, "full_key", None) or override.lstrip("+~").split("=")[0]
    if found := re.search(r"Key '(.+)' (?:is )?not in", detail):
        return _unknown(key, found[1], getattr(cause, "object_type", None))
    if found := re.search(r"could not be converted to (\w+)", detail):
        return f"{override or key} has the wrong type: {detail}; give {KINDS.get(found[1], 'such a value')}"
    if "does not support deletion" in detail:
        return f"{override} cannot be left out: {key} is mandatory; set {key}=VALUE"
    if isinstance(error, OverrideParseException):
        return f"{override} cannot be read ({detail}); write KEY=VALUE, quoted where it holds , [ ] {{ }} or spaces"
    if isinstance(error, ValueError):
        return f"{override}: a group takes the name of one file in conf/{key}"
    return f"{override or key}: {detail}"


def _unknown(key: str, last: str, owner: object) -> str:
    known = [f.name for f in fields(owner)] if is_dataclass(owner) else []
    near = difflib.get_close_matches(last, known, 1)
    hint = f"; did you mean {key[: len(key) - len(last)]}{near[0]}?" if near else ""
    return f"{key} does not exist{hint}" + (f"; there are {', '.join(known)}" if known and not near else "")
