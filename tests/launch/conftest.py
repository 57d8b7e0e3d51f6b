"""What tests of sweeps share: jobs that are composed, places for them, and a cache of one's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from tests.conftest import TINY
from vibench.launch.here import Here, _cards
from vibench.launch.preflight import Checked
from vibench.launch.preflight import composed as checked
from vibench.launch.sweep import Job, Sweep

QUICK = (  # a task on two linear layers, two steps: little to trace and to train
    *(text for text in TINY if not text.startswith(("task.", "training.warmup"))),
    "training.warmup_steps=0",
    "training.max_steps=2",
    "task=classification",
    "backbone=dlinear",
    "backbone.moving_average=3",
)
LOCAL = {"name": "local", "jobs": None, "skip_refused": False, "on_duplicate": "allow"}


@pytest.fixture
def jobs(composed: Callable[..., DictConfig]) -> Callable[..., list[Checked]]:
    """The jobs of a sweep, each by what it varies: ``jobs("seed=0", "seed=1 d_model=32")``."""

    def call(*lines: str, base: tuple[str, ...] = QUICK, config_dir: str | None = None) -> list[Checked]:
        every = [
            Job(number=n, name=line, overrides=[*base, *line.split()], folder=str(n)) for n, line in enumerate(lines)
        ]
        return [checked(job, config_dir) for job in every]

    return call


@pytest.fixture
def no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    _cards.cache_clear()


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Sweep]:
    """A sweep of jobs that are checked, written down."""

    def call(jobs: list[Checked], name: str = "sweep", **launcher: Any) -> Sweep:
        (tmp_path / name).mkdir(exist_ok=True)
        made = Sweep(folder=tmp_path / name, launcher=LOCAL | launcher, jobs=[one.job for one in jobs])
        made.write()
        return made

    return call


@pytest.fixture
def here() -> Iterator[Callable[..., Here]]:
    """This machine as a place; what still runs there at the end is ended."""
    places: list[Here] = []

    def call(jobs: int | None = None) -> Here:
        places.append(Here(jobs))
        return places[-1]

    yield call
    _cards.cache_clear()
    for place in places:
        for process, _, _ in place._running.values():
            process.kill()
            process.wait()
