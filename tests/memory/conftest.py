"""What the tests of the planner share: small experiments on the hardware of ``conf/hardware``, composed once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from vibench.config.experiment import ExperimentConfig

SMALL = ("data.window=256", "d_model=16", "task=classification")


@pytest.fixture(scope="session")
def small(resolved: Callable[..., ExperimentConfig]) -> Callable[..., ExperimentConfig]:
    """One task and a narrow model on a hardware: a trace in half a second, on the CPU in one. Not to be changed."""
    return cache(lambda hardware, *overrides: resolved(f"hardware={hardware}", *SMALL, *overrides))


@pytest.fixture(scope="session")
def light(small: Callable[..., ExperimentConfig]) -> Callable[..., ExperimentConfig]:
    """The fastest backbone there is."""
    return lambda hardware, *overrides: small(
        hardware, "backbone=dlinear", "backbone.moving_average=3", "data.window=1024", *overrides
    )


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user's cache in which no run has left a line."""
    monkeypatch.setenv("VIBENCH_CACHE", str(tmp_path))
    return tmp_path
