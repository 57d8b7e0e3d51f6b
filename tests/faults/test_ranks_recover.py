"""Two processes of a run, of which one runs out of memory: both go on, and end where they would have."""

import pytest
import torch

from tests.end_to_end.test_ranks import ALIKE, TWO, checkpoint
from tests.faults.starved import starved
from vibench.run import run_experiment

OPTIONS = (*ALIKE, "training.global_batch_size=16")


@pytest.fixture
def told(tmp_path, monkeypatch):
    folder = tmp_path / "told"
    folder.mkdir()
    monkeypatch.setenv("VIBENCH_TOLD", str(folder))
    monkeypatch.setenv("VIBENCH_STARVED", "training")
    return folder


def assert_alike(folder, other):
    ours, theirs = checkpoint(folder)["state_dict"], checkpoint(other)["state_dict"]
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-4, atol=2e-5, msg=name)


def test_out_of_memory_on_one_rank_makes_the_micro_batch_of_both_smaller_and_their_weights_stay_equal(
    resolved, tmp_path, told
):
    status = run_experiment(starved(resolved(*OPTIONS, TWO, "training.sharding=none")), tmp_path / "two")
    memory = [event for event in status["events"] if event["kind"] == "memory"]
    assert memory[0]["step"] == 1
    assert "on rank 1: micro-batch 8 -> 4" in memory[0]["text"]
    assert "forward pass of backbone" in memory[0]["text"]
    seen = [(told / f"rank{rank}").read_text().split() for rank in (0, 1)]
    assert seen[0][-1] == seen[1][-1]  # of the last micro-batch
    assert len(set(seen[0])) == status["steps"]  # weights that changed with every step, on both
    assert set(seen[0]) == set(seen[1])
    run_experiment(resolved(*OPTIONS), tmp_path / "one")
    assert_alike(tmp_path / "one", tmp_path / "two")


def test_ranks_that_share_their_weights_start_again_from_the_last_checkpoint_with_less_at_once(
    resolved, tmp_path, told
):
    status = run_experiment(starved(resolved(*OPTIONS, TWO, "training.sharding=full")), tmp_path / "two")
    text = next(event["text"] for event in status["events"] if event["kind"] == "memory")
    assert "from the last checkpoint with micro_batch=4" in text
    assert status["plan"]["micro_batch"] <= 4
    run_experiment(resolved(*OPTIONS), tmp_path / "one")
    assert_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_rank_that_runs_out_of_memory_in_a_validation_does_not_hang_or_stop_the_others(
    resolved, tmp_path, told, monkeypatch, sharding
):
    monkeypatch.setenv("VIBENCH_STARVED", "validation")
    options = (*OPTIONS, TWO, "training.epochs=1", "training.micro_batch=8", f"training.sharding={sharding}")
    status = run_experiment(starved(resolved(*options)), tmp_path / "two")
    assert status["state"] == "completed"
    text = next(event["text"] for event in status["events"] if event["kind"] == "memory")
    assert "out of memory in a" in text
    assert ("from the last checkpoint with micro_batch=4" if sharding == "full" else "micro-batch 8 -> 4") in text
    monkeypatch.setenv("VIBENCH_STARVED", "nowhere")
    alone = run_experiment(starved(resolved(*OPTIONS, "training.epochs=1")), tmp_path / "one")
    for task, result in alone["results"].items():
        assert status["results"][task]["metrics"] == pytest.approx(result["metrics"], rel=1e-3, abs=1e-4)


def test_a_single_process_that_runs_out_of_memory_ends_with_the_weights_of_the_smaller_micro_batch_to_the_bit(
    resolved, tmp_path, told
):
    """Dropout is on: the random numbers of the second attempt are those of the first."""
    options = (*OPTIONS, "backbone.dropout=0.2")
    status = run_experiment(starved(resolved(*options)), tmp_path / "starved")
    micro = int([event for event in status["events"] if event["kind"] == "memory"][-1]["changes"]["micro_batch"])
    assert micro < 16
    small = run_experiment(resolved(*options, f"training.micro_batch={micro}"), tmp_path / "small")
    ours, theirs = (checkpoint(tmp_path / name)["state_dict"] for name in ("starved", "small"))
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())
    for task, result in small["results"].items():  # tested with another micro-batch, which rounds otherwise
        assert status["results"][task]["metrics"] == pytest.approx(result["metrics"], rel=1e-4, abs=1e-6)
