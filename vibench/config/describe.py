"""What Hydra or OmegaConf refused, in the words of vibench: key, value, limit, remedy, in one line."""

import difflib
import re
from dataclasses import fields, is_dataclass
from importlib.resources import files
from pathlib import Path

from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from vibench.config.data import PreprocessingConfig, SplitConfig
from vibench.config.hardware import SlurmConfig
from vibench.config.schemas import GROUPS as SCHEMAS
from vibench.config.schemas import SINGLE

GROUPS = ("backbone", "embedding", "task", "data", "hardware", "training", "logger", "experiment")
KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
BY_NAME = {
    s.__name__: s
    for s in (
        SplitConfig,
        PreprocessingConfig,
        SlurmConfig,
        *SINGLE.values(),
        *(s for group in SCHEMAS.values() for s in group.values()),
    )
}


def options() -> dict[str, list[str]]:
    """The files to choose from in every group of ``conf``."""
    conf = Path(str(files("vibench.conf")))
    return {
        group: sorted(str(path.relative_to(conf / group).with_suffix("")) for path in (conf / group).rglob("*.yaml"))
        for group in GROUPS
    }


def describe(error: Exception, override: str = "") -> str:
    """One line about an error.

    Args:
        override: the one that was being applied, as typed; empty where that is not known.
    """
    text = str(error)
    if isinstance(error, OverrideParseException):
        reason = next((line for line in text.splitlines() if not line.startswith("Error parsing")), text)
        return (
            f"{override} cannot be read ({reason}); write KEY=VALUE, with quotes where VALUE holds , = [ ] {{ }} or ~"
        )
    if found := re.search(r"Could not find '([^']+)/([^']+)'", text):
        group, choice = found.groups()
        if group.split("/")[0] in GROUPS:  # a file in a folder of its group, as experiment/foundation/patchtst
            group, choice = f"{group}/{choice}".split("/", 1)
        return _no_such_file(group, choice, re.findall(r"^\t([^\s=]+)$", text, re.M))
    if "You must specify" in text or type(error) is ValueError:
        key = override.split("=")[0]
        return f"{override}: {key} takes the name of one file in conf/{key}: {', '.join(options().get(key, []))}"
    if "Multiple values for" in text:
        key = override.lstrip("+").split("=")[0]
        return f"{key} has a choice already; use {key}=OPTION without the +"
    return _about_key(error, override)


def sweep_without_m(override: Override) -> str:
    """Several values, but one run."""
    text = override.input_line
    return f"{text} names several values, which is a sweep; use vibench-train -m {text}, or brackets for one list"


def _about_key(error: Exception, override: str) -> str:
    """An error that OmegaConf raised at a key, on the command line or in a YAML file."""
    text, cause = str(error), error.__cause__
    inside = re.match(r"In '([^']+)': \w+ raised while composing config:\n", text)
    place = f" (in {inside[1]}.yaml)" if inside else ""
    whole = str(cause) if isinstance(cause, OmegaConfBaseException) else text[inside.end() if inside else 0 :]
    detail = whole.splitlines()[0] if whole else type(error).__name__
    found = re.search(r"full_key: (\S+)", whole)
    key = (found[1] if found else "") or override.lstrip("+~").split("=")[0]
    where = key if inside else override or key
    if missing := re.search(r"Key '(.+)' (?:is )?not in", detail):
        owner = re.search(r"object_type=(\w+)", whole)
        return _unknown(key, missing[1], BY_NAME.get(owner[1]) if owner else None) + place
    if wrong := re.search(r"could not be converted to (\w+)", detail):
        return f"{where} has the wrong type: {detail}; give {KINDS.get(wrong[1], 'such a value')}{place}"
    if "is not Optional" in detail:
        return f"{where}: {key} is not Optional, so it cannot be null; set {key}=VALUE{place}"
    if "does not support deletion" in detail:
        return f"{where} cannot be left out: {key} is mandatory; set {key}=VALUE"
    if "is not a subclass of TaskConfig" in detail:
        return f"{where}: {key} is no task; there are {', '.join(SCHEMAS['task'])}, chosen by task=NAME"
    return f"{where}: {detail}{place}" if where else detail + place


def _no_such_file(group: str, choice: str, offered: list[str]) -> str:
    names = sorted({*offered, *options().get(group, [])})  # Hydra names no folders where there are files
    near = difflib.get_close_matches(choice, names, 1)
    near = near or [name for name in names if choice in name][:1]
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{group}={choice} does not exist; {hint}there are {', '.join(names)}"


def _unknown(key: str, last: str, owner: type | None) -> str:
    known = [f.name for f in fields(owner)] if is_dataclass(owner) else []
    if key.startswith("data.only."):
        return f"{key} does not exist yet; add it with +{key}=[VALUE]"
    if key.startswith("task.") and owner is None:
        return f"{key} does not exist here; tasks are chosen by task=NAME: {', '.join(SCHEMAS['task'])}, multitask"
    near = difflib.get_close_matches(last, known, 1)
    hint = f"; did you mean {key[: len(key) - len(last)]}{near[0]}?" if near else ""
    return f"{key} does not exist{hint}" + (f"; there are {', '.join(known)}" if known and not near else "")
