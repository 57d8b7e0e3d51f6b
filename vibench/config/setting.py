"""One field of a schema: what it means and which values it may take. The value itself stands in YAML."""

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import field
from typing import Any


def setting(meaning: str, *, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A mandatory dataclass field.

    Args:
        meaning: one line, with units; shown where the field is missing and in the config reference.
        low, high: smallest and largest legal number, inclusive.
        above: exclusive lower bound, for rates and durations.
    """
    return field(metadata={"meaning": meaning, "low": low, "high": high, "above": above})


def missing_packages(asked: str, extra: str, *packages: str) -> Iterator[str]:
    """What is not installed of what a value needs.

    Args:
        asked: the key and its value.
        extra: of vibench, which brings the packages.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        told = f"the package{'s' * (len(missing) > 1)} {' and '.join(missing)}"
        yield f"{asked} needs {told}; run `pip install vibench[{extra}]`"


def interval(metadata: Any) -> str:
    """The legal numbers in words, e.g. ``at least 1``; empty where every number is legal."""
    words = {"low": "at least {:.10g}", "above": "above {:.10g}", "high": "at most {:.10g}"}
    return " and ".join(text.format(metadata[key]) for key, text in words.items() if metadata.get(key) is not None)


def complaints_about(key: str, value: Any, metadata: Any) -> Iterator[str]:
    """What is wrong with one number, or with the numbers in a list."""
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        yield f"{key}={value} has a list within the list; {metadata['meaning']}; use one list of plain values"
        return
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        legal = interval(metadata)
        if not math.isfinite(number):
            yield f"{key}={number} is not a finite number; {metadata['meaning']}" + (f"; use {legal}" if legal else "")
        elif (
            (metadata["low"] is not None and number < metadata["low"])
            or (metadata["above"] is not None and number <= metadata["above"])
            or (metadata["high"] is not None and number > metadata["high"])
        ):
            yield f"{key}={number} is out of range: {metadata['meaning']}; use a value {legal}"
