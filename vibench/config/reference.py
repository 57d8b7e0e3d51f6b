"""The config reference, written from the schemas: ``python -m vibench.config.reference > docs/config.md``."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import EnumMeta
from typing import Any, get_type_hints

from vibench.config import launcher, schemas, sweeper
from vibench.config.data import PreprocessingConfig, SplitConfig
from vibench.config.hardware import SlurmConfig
from vibench.config.setting import interval
from vibench.config.task import TaskConfig

HEAD = """# Configuration reference

Every key there is, from the schemas in `vibench/config` (`make docs` writes this page). Values stand in `conf/`; a key
is set on the command line as `GROUP.KEY=VALUE`, a file of a group is chosen as `GROUP=FILE`.
"""


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD, *_section("the experiment", "", schemas.SINGLE["experiment"])]
    for group, variants in schemas.GROUPS.items():
        for name, schema in variants.items():
            prefix = f"task.{name}." if group == "task" else f"{group}."
            parts += _section(f"{group}: {name}", prefix, schema)
    parts += _section("data.split", "data.split.", SplitConfig)
    parts += _section("data.preprocessing, of EEG", "data.preprocessing.", PreprocessingConfig)
    parts += _section("hardware.slurm", "hardware.slurm.", SlurmConfig)
    for group in ("hardware", "training", "logger"):
        parts += _section(group, f"{group}.", schemas.SINGLE[group])
    for name, schema in launcher.SCHEMAS.items():
        parts += _section(f"hydra/launcher: {name}, for -m", "hydra.launcher.", schema)
    for name, schema in sweeper.SCHEMAS.items():
        parts += _section(f"hydra/sweeper: {name}, for -m", "hydra.sweeper.", schema)
    return "\n".join(parts)


def _section(title: str, prefix: str, schema: type) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield " ".join(line.strip() for line in (schema.__doc__ or "").strip().split("\n\n")[0].splitlines())
    yield "\n| key | type | meaning | legal |\n|---|---|---|---|"
    hints = get_type_hints(schema)
    for f in fields(schema):
        if f.metadata:
            meaning, legal = f.metadata["meaning"], interval(f.metadata)
            yield f"| `{prefix}{f.name}` | {_kind(hints[f.name])} | {meaning} | {legal} |"
    if issubclass(schema, TaskConfig):
        arrows = {"max": "more is better", "min": "less is better"}
        yield "\nMetrics: " + ", ".join(f"`{name}` ({arrows[mode]})" for name, mode in schema.METRICS.items())


def _kind(hint: Any) -> str:
    if isinstance(hint, EnumMeta):
        return ", ".join(member.name for member in hint)
    if isinstance(hint, type) and not is_dataclass(hint) and not hasattr(hint, "__args__"):
        return {"int": "whole number", "float": "number", "str": "text", "bool": "true, false"}[hint.__name__]
    return (
        str(hint).replace("dict[str, list[str]]", "text: list of text").replace(" | None", ", null").replace("|", ",")
    )


if __name__ == "__main__":
    print(page(), end="")
