"""What a search draws values from, as it is typed, and what a trial reached, as its log says."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override

from vibench.errors import ConfigError

if TYPE_CHECKING:
    import optuna

SAMPLES = 30  # of a space, in which some experiment should be possible


def validations(run_dir: Path, metric: str) -> dict[int, float]:
    """Optimizer step -> value of a validation, of those that are finite."""
    try:
        with (run_dir / "metrics.csv").open(newline="") as file:
            rows = [(row.get("step"), row.get(f"val/{metric}")) for row in csv.DictReader(file)]
    except OSError:
        return {}
    found = {}
    for step, text in rows:
        try:
            value = float(text or "")
            if math.isfinite(value):
                found[int(step or "")] = value
        except ValueError:  # a row of something else, or one that is being written
            continue
    return found


def distribution(override: Override) -> "optuna.distributions.BaseDistribution":
    """What Optuna draws a key from. Numbers of a range or an interval are ordered, all else are categories.

    Raises:
        ConfigError: an interval that cannot be drawn from.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, logarithmic = value.start, value.end, "log" in value.tags
        if low is None or high is None or low > high or (logarithmic and low <= 0):
            raise ConfigError(
                [f"{override.input_line} is no interval; give two numbers, the smaller first, above 0 for log"]
            )
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=logarithmic)
        return FloatDistribution(float(low), float(high), log=logarithmic)
    texts = list(override.sweep_string_iterator())
    if getattr(value, "shuffle", False):
        texts.sort()  # it is drawn from anyway
    if override.is_range_sweep() and len(texts) > 1 and all(text.lstrip("-").isdigit() for text in texts):
        numbers = sorted(int(text) for text in texts)
        return IntDistribution(numbers[0], numbers[-1], step=numbers[1] - numbers[0])
    return CategoricalDistribution(texts)


def samples(space: dict[str, Any]) -> Iterator[list[str]]:
    """Overrides with the first values of a space, then with some others."""
    import optuna

    yield [typed(key, one.choices[0] if hasattr(one, "choices") else one.low) for key, one in space.items()]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(SAMPLES):
        yield [typed(key, value) for key, value in study.ask(space).params.items()]


def typed(key: str, value: Any) -> str:
    """An override with a value that was drawn: exactly that number, a category as it was typed."""
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def told(key: str, value: Any) -> str:
    """The same for a reader."""
    return f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
