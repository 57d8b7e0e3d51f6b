"""The same again: the same line in the same directory goes on, the same config elsewhere is not run twice."""

from collections.abc import Callable
from pathlib import Path

from tests.faults.runs import assert_same_end, events, status_of
from tests.slurm.commands import squeue, wait_for
from tests.slurm.sweeps import DROPS, LONG, Watched, of, on

Begin = Callable[..., Watched]
SEEDS = ("seed=501,502", "training.epochs=2")  # of no other test: runs of this session are known by their config
BOTH_COMPLETED = {"seed=501": "completed", "seed=502": "completed"}


def cancelled_and_repeated(begin: Begin) -> tuple[Watched, Watched, list[str], Watched]:
    """Left to SLURM, ended by vibench-status, and then the same line again."""
    line = (*DROPS, *on("a100"), LONG, "hardware.slurm.requeues=7,8")
    sweep = begin(*line, "--detach")
    sweep.ends()
    for number in (0, 1):
        sweep.holds(number)
    cancel = sweep.with_status("--cancel")
    cancel.ends()
    wait_for(lambda: not {*sweep.jobs(0), *sweep.jobs(1)} & {row["id"] for row in squeue("--array")}, 30, "both end")
    states = [(status_of(sweep.run_dir(number))["state"], sweep.attempts(number)) for number in (0, 1)]
    again = begin(*line, folder=sweep.folder)
    again.ends()
    return sweep, cancel, states, again


@of(cancelled_and_repeated)
def test_a_sweep_that_was_ended_goes_on_by_the_same_line_in_the_same_directory(outcome: tuple, undisturbed: Path):
    sweep, cancel, states, again = outcome
    assert (sweep.ends(), cancel.ends(), again.ends()) == (0, 0, 0), again.printed()
    assert "2 submitted" in sweep.printed().splitlines()[-1]
    assert states == [("cancelled", ["CANCELLED"])] * 2
    assert again.verdicts() == {"hardware.slurm.requeues=7": "completed", "hardware.slurm.requeues=8": "completed"}
    for number in (0, 1):
        assert len(sweep.jobs(number)) == 2
        assert sweep.attempts(number) == ["COMPLETED"]
        assert [text[:12] for text in events(sweep.run_dir(number))] == ["went on from"]
        assert_same_end(sweep.run_dir(number), undisturbed)


def twins(begin: Begin) -> tuple[Watched, Watched, Watched, Watched, Watched]:
    """Two users begin the same configs at once. Then there are a third, the first again, and one who wants an error."""
    line = (*DROPS, *on("a100"), *SEEDS)
    one, other = (begin(*line, on_duplicate="skip") for _ in range(2))
    for sweep in (one, other):
        sweep.ends()
    third, first, error = (
        begin(*line, on_duplicate="skip"),
        begin(*line, on_duplicate="skip", folder=one.folder),
        begin(*line, on_duplicate="error"),
    )
    for sweep in (third, first, error):
        sweep.ends()
    return one, other, third, first, error


@of(twins)
def test_of_two_at_once_each_config_is_submitted_by_one_and_is_the_result_of_both(outcome: tuple):
    one, other, *_ = outcome
    assert (one.ends(), other.ends()) == (0, 0), other.printed()
    assert one.verdicts() == other.verdicts() == BOTH_COMPLETED
    ran, followed = (one, other) if one.jobs(0) else (other, one)
    assert [ran.attempts(number) for number in (0, 1)] == [["COMPLETED"], ["COMPLETED"]]
    assert [followed.jobs(number) for number in (0, 1)] == [[], []]
    assert f"seed=501: the result of {ran.run_dir(0)}" in followed.printed()
    later = followed.with_status()
    assert (later.ends(), later.verdicts()) == (0, BOTH_COMPLETED)


@of(twins)
def test_what_is_completed_elsewhere_is_not_run_again(outcome: tuple):
    third = outcome[2]
    assert (third.ends(), third.verdicts()) == (0, BOTH_COMPLETED)
    assert [third.jobs(number) for number in (0, 1)] == [[], []]


@of(twins)
def test_the_same_line_in_the_same_directory_shows_what_is_completed(outcome: tuple):
    one, first = outcome[0], outcome[3]
    assert (first.ends(), first.verdicts()) == (0, BOTH_COMPLETED), first.printed()
    assert [len(first.jobs(number)) for number in (0, 1)] == [len(one.jobs(number)) for number in (0, 1)]


@of(twins)
def test_a_second_run_of_a_config_can_be_made_an_error(outcome: tuple):
    error = outcome[4]
    assert error.ends() == 2
    assert "is a run of the same config" in error.printed()
    assert error.jobs(0) == error.jobs(1) == []
