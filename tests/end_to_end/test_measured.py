"""What runs took is remembered, and the next plan is as long as they were."""

import json
import sys

import pytest

from tests.conftest import TINY
from vibench.cli.plan import main
from vibench.run import run_experiment

FAST = (  # 26 steps, on a processor with made up rates
    "backbone=dlinear",
    "backbone.moving_average=3",
    "training.global_batch_size=4",
    "hardware.fp32_tflops=0.05",
    "hardware.bandwidth_gbs=5",
)


@pytest.fixture(scope="module")
def memory(cache, tmp_path_factory):
    """A cache without any run; the simulated data stay where they are."""
    folder = tmp_path_factory.mktemp("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIBENCH_CACHE", str(folder))
        yield folder


def lines_of(memory):
    return [json.loads(line) for line in (memory / "measured.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(memory, cache, tiny, tmp_path_factory):
    """Statuses of two runs of the same experiment, one after the other."""
    config = tiny(*FAST, f"data.cache_dir={cache}")
    return [run_experiment(config, tmp_path_factory.mktemp("run")) for _ in range(2)]


def planned(cache, monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["vibench-plan", *TINY, *FAST, f"data.cache_dir={cache}", *options, "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    (plan,) = json.loads(capsys.readouterr().out).values()
    return plan


def test_the_status_holds_the_seconds_of_a_step(runs):
    for status in runs:
        assert 0 < status["step_seconds"] < status["seconds"] / 10


def test_a_first_plan_is_an_estimate_and_the_next_one_knows_better(runs):
    first, second = (status["plan"] for status in runs)
    assert first["pace"] is None
    assert second["pace"] == pytest.approx(runs[0]["step_seconds"] / first["step_seconds"])
    assert second["step_seconds"] == pytest.approx(runs[0]["step_seconds"])


def test_every_run_is_a_line_of_what_it_took_over_its_first_estimate(runs, memory):
    """Not over the estimate that was corrected: that would come to 1."""
    first = runs[0]["plan"]["step_seconds"]
    assert lines_of(memory)[:2] == [
        {
            "hardware": "cpu",
            "backbone": "DLinear",
            "precision": "fp32",
            "peak": None,
            "step": pytest.approx(status["step_seconds"] / first),
        }
        for status in runs
    ]


def test_the_next_plan_takes_as_long_as_the_runs_did(runs, cache, monkeypatch, capsys):
    plan = planned(cache, monkeypatch, capsys)
    middle = sum(status["step_seconds"] for status in runs) / 2  # of two, the median
    assert plan["step_seconds"] == pytest.approx(middle)
    assert 1 / 3 < plan["step_seconds"] / runs[1]["step_seconds"] < 3
    assert plan["run_seconds"] > 26 * middle
    assert plan["pace"] == pytest.approx(middle / runs[0]["plan"]["step_seconds"])


def test_a_run_of_more_work_is_predicted_to_take_longer_by_the_same_pace(runs, cache, monkeypatch, capsys):
    plan, longer = (planned(cache, monkeypatch, capsys, f"d_model={width}") for width in (16, 512))
    assert longer["pace"] == plan["pace"]
    assert longer["step_seconds"] > plan["step_seconds"]


def test_what_ran_elsewhere_than_planned_is_not_remembered(runs, memory, cache, tiny, tmp_path):
    before = lines_of(memory)
    run_experiment(tiny(*FAST[:3], f"data.cache_dir={cache}", "hardware=rtx3090"), tmp_path)
    assert lines_of(memory) == before


def test_without_rates_there_is_nothing_to_compare(runs, memory, cache, tiny, tmp_path):
    before = lines_of(memory)
    status = run_experiment(tiny(*FAST[:3], f"data.cache_dir={cache}"), tmp_path)
    assert status["step_seconds"] > 0
    assert lines_of(memory) == before


def test_a_run_that_is_too_short_to_be_timed_is_not_remembered(runs, memory, cache, tiny, tmp_path):
    before = lines_of(memory)
    status = run_experiment(tiny(*FAST, f"data.cache_dir={cache}", "training.max_steps=3"), tmp_path)
    assert status["step_seconds"] is None
    assert lines_of(memory) == before


def test_a_run_that_cannot_end_at_the_measured_pace_is_refused(runs, memory, cache, monkeypatch, capsys, tmp_path):
    """The data sheet alone lets it pass."""
    options = (f"data.cache_dir={cache}", "hardware.fp32_tflops=50", "hardware.bandwidth_gbs=5000")
    limit = ("hardware.slurm.time=00:00:02", "training.epochs=1000")
    monkeypatch.setattr(sys, "argv", ["vibench-plan", *TINY, *FAST[:3], *options, *limit])
    monkeypatch.setenv("VIBENCH_CACHE", str(tmp_path / "three"))
    (tmp_path / "three").mkdir()
    line = (memory / "measured.jsonl").read_text().splitlines()[0]  # of a real run, three of which are enough
    (tmp_path / "three" / "measured.jsonl").write_text(f"{line}\n" * 3)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "at the pace of the runs measured there" in capsys.readouterr().out
    monkeypatch.setenv("VIBENCH_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match="0"):
        main()
