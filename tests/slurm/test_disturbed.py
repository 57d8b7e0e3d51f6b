"""Runs that are disturbed from outside go on by themselves and end as if nothing had happened, to the bit, or stay as
they were told to. Verdicts and accounting agree, and the other job of each sweep keeps its result.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import assert_same_end, events, status_of
from tests.slurm.cluster import Cluster
from tests.slurm.commands import ask, sacct, sbatch, squeue, state, wait_for
from tests.slurm.configuration import REQUEUE_S
from tests.slurm.sweeps import (
    DROPS,
    LONG,
    PATIENCE_S,
    QUIET,
    SHORT_AND_LONG,
    Watched,
    of,
    on,
)

Begin = Callable[..., Watched]
SHORT, LAST = 0, 1  # jobs of SHORT_AND_LONG
BOTH_COMPLETED = {"training.epochs=1": "completed", LONG: "completed"}
NODE = "rtx4090n1"
NONE, NINE = "hardware.slurm.requeues=0", "hardware.slurm.requeues=9"


def in_the_middle(sweep: Watched) -> Watched:
    """Its short job is completed, and the long one is in its training."""
    sweep.holds(LAST)
    sweep.says(SHORT, "completed", seconds=PATIENCE_S)
    return sweep


def went_on(run_dir: Path) -> list[str]:
    return [text for text in events(run_dir) if text.startswith("went on from step")]


def over_its_time(begin: Begin) -> tuple[Watched, dict[str, Any], list[str], Watched]:
    """Two runs wait in their training for the end of their time. One may be requeued, the other is asked to go on."""
    limit = ("hardware.slurm.time=00:02:00", "hardware.slurm.warn_s=45", "hardware.slurm.requeues=0,9")
    sweep = begin(*DROPS, *on("a100"), LONG, *limit)
    for number in (0, 1):
        sweep.holds(number)
    sweep.says(0, "failed TIMEOUT", seconds=90)
    sweep.says(1, "preempted")
    sweep.ends()
    failed, seen = status_of(sweep.run_dir(0)), sweep.attempts(0)
    again = sweep.with_status("--rerun", "failed")
    again.ends()
    return sweep, failed, seen, again


@of(over_its_time)
def test_a_run_that_needs_longer_than_its_time_goes_on_where_it_was(outcome: tuple, undisturbed: Path):
    sweep, *_ = outcome
    assert sweep.ends() == 1  # for the other one
    assert sweep.states(1)[:4] == ["submitted", "running", "preempted", "running"]
    *before, last = sweep.attempts(1)
    assert (set(before), last) == ({"REQUEUED"}, "COMPLETED")
    assert [attempt["state"] for attempt in status_of(sweep.run_dir(1))["attempts"]] == ["preempted"] * len(before)
    assert len(went_on(sweep.run_dir(1))) == len(before)
    assert_same_end(sweep.run_dir(1), undisturbed)


@of(over_its_time)
def test_one_that_may_not_be_requeued_is_failed_and_goes_on_when_it_is_asked_to(outcome: tuple, undisturbed: Path):
    sweep, failed, seen, again = outcome
    assert sweep.verdicts() == {NONE: "failed TIMEOUT", NINE: "completed"}
    assert (failed["state"], failed["kind"]) == ("failed", "TIMEOUT")
    assert "requeues=0 allows no more" in failed["error"]
    assert seen == ["FAILED"]
    assert (again.ends(), again.verdicts()) == (0, {NONE: "completed", NINE: "completed"})
    assert [len(sweep.jobs(number)) for number in (0, 1)] == [2, 1]
    assert len(went_on(sweep.run_dir(0))) == 1
    assert_same_end(sweep.run_dir(0), undisturbed)


def preempted_at_once(begin: Begin) -> Watched:
    sweep = in_the_middle(begin(*DROPS, *on("v100"), SHORT_AND_LONG))
    sbatch("--partition=v100-hi", "--gres=gpu:v100:2", QUIET, "--wrap=sleep 3")
    sweep.says_more(LAST)
    sweep.ends()
    return sweep


def preempted_with_grace(begin: Begin) -> Watched:
    sweep = in_the_middle(begin(*DROPS, *on("rtx-grace", "rtx3090"), SHORT_AND_LONG))
    sbatch("--partition=rtx-hi", "--gres=gpu:rtx3090:1", QUIET, "--wrap=sleep 3")
    sweep.says_more(LAST)
    sweep.ends()
    return sweep


@pytest.mark.parametrize("outcome", [preempted_at_once, preempted_with_grace], indirect=True)
def test_a_run_that_is_preempted_goes_on_where_it_was(outcome: Watched, undisturbed: Path):
    assert outcome.ends() == 0
    assert outcome.verdicts() == BOTH_COMPLETED
    assert outcome.states(LAST) == ["submitted", "running", "preempted", "running", "completed"]
    assert outcome.attempts(LAST) in (["PREEMPTED", "COMPLETED"], ["REQUEUED", "COMPLETED"])
    assert outcome.attempts(SHORT) == ["COMPLETED"]
    assert [attempt["state"] for attempt in status_of(outcome.run_dir(LAST))["attempts"]] == ["preempted"]
    assert len(went_on(outcome.run_dir(LAST))) == 1
    assert_same_end(outcome.run_dir(LAST), undisturbed)


@pytest.fixture(scope="module")
def mended(cluster: Cluster):
    """Nodes that were taken down are up again."""
    yield
    if "down" in cluster.states()[NODE]:
        cluster.node_up(NODE)


def on_a_node_that_dies(begin: Begin) -> Watched:
    cluster = Cluster(Path(os.environ["SLURM_CONF"]).parent)
    sweep = in_the_middle(begin(*DROPS, *on("rtx", "rtx4090"), SHORT_AND_LONG))
    cluster.node_down(NODE)
    wait_for(lambda: state(sweep.jobs(LAST)[-1]) == "PENDING", 90, "SLURM sees that the node is down")
    sweep.says_more(LAST)
    cluster.node_up(NODE)
    sweep.ends()
    return sweep


@of(on_a_node_that_dies)
def test_a_run_whose_node_dies_goes_on_from_its_last_checkpoint(outcome: Watched, mended, undisturbed: Path):
    assert outcome.ends() == 0
    assert outcome.verdicts() == BOTH_COMPLETED
    assert outcome.attempts(LAST) == ["NODE_FAIL", "COMPLETED"]
    assert outcome.attempts(SHORT) == ["COMPLETED"]
    assert [attempt["state"] for attempt in status_of(outcome.run_dir(LAST))["attempts"]] == ["lost"]
    assert len(went_on(outcome.run_dir(LAST))) == 1
    assert_same_end(outcome.run_dir(LAST), undisturbed)


def cancelled(begin: Begin) -> tuple[Watched, list[str], Watched]:
    """And asked to go on, some time later."""
    sweep = in_the_middle(begin(*DROPS, *on("a100"), SHORT_AND_LONG))
    job = sweep.jobs(LAST)[-1]
    ask("scancel", job)
    sweep.says(LAST, "cancelled")
    sweep.ends()
    time.sleep(REQUEUE_S + 2)  # after which it would be back
    assert job not in {row["id"] for row in squeue("--array")}
    seen, again = sweep.attempts(LAST), sweep.with_status("--rerun", "cancelled")
    again.ends()
    return sweep, seen, again


@of(cancelled)
def test_a_run_that_is_cancelled_stays_so_until_it_is_asked_to_go_on(outcome: tuple, undisturbed: Path):
    sweep, seen, again = outcome
    assert (sweep.ends(), sweep.verdicts()) == (1, {"training.epochs=1": "completed", LONG: "cancelled"})
    assert seen == ["CANCELLED"]
    assert (again.ends(), again.verdicts()) == (0, BOTH_COMPLETED)
    assert sweep.attempts(LAST) == ["COMPLETED"]
    assert [len(sweep.jobs(number)) for number in (SHORT, LAST)] == [1, 2]
    assert len(went_on(sweep.run_dir(LAST))) == 1
    assert_same_end(sweep.run_dir(LAST), undisturbed)


def left_by_kill(begin: Begin) -> tuple[Watched, Watched, Watched, Watched]:
    """And asked for while the jobs run, until they are over, and after that."""
    sweep = begin(*DROPS, *on("a100"), SHORT_AND_LONG).submitted()
    sweep.process.kill()
    rank = sweep.holds(LAST)
    before, until = sweep.with_status(), sweep.with_status("--watch")
    before.ends()
    os.kill(rank, signal.SIGCONT)
    until.ends()
    after = sweep.with_status()
    after.ends()
    return sweep, before, until, after


@of(left_by_kill)
def test_jobs_run_on_when_what_began_them_is_killed(outcome: tuple, undisturbed: Path):
    sweep, before, until, after = outcome
    assert sweep.ends() == -signal.SIGKILL
    assert (before.ends(), before.verdicts()[LONG]) == (1, "running")
    assert (until.ends(), until.verdicts()) == (0, BOTH_COMPLETED)
    assert (after.ends(), after.verdicts()) == (0, BOTH_COMPLETED)
    assert [sweep.attempts(number) for number in (SHORT, LAST)] == [["COMPLETED"], ["COMPLETED"]]
    assert_same_end(sweep.run_dir(LAST), undisturbed)


def left_by_ctrl_c(begin: Begin) -> tuple[Watched, Watched]:
    sweep = begin(*DROPS, *on("a100"), SHORT_AND_LONG).submitted()
    sweep.process.send_signal(signal.SIGINT)
    sweep.ends()
    watching = sweep.with_status("--watch")
    watching.ends()
    return sweep, watching


@of(left_by_ctrl_c)
def test_ctrl_c_leaves_the_jobs_to_slurm_and_says_how_to_look_at_them(
    outcome: tuple[Watched, Watched], undisturbed: Path
):
    sweep, watching = outcome
    assert sweep.ends() == 128 + signal.SIGINT
    assert "detached" in sweep.printed()
    assert f"vibench-status {sweep.folder} shows them, --watch waits for them, --cancel ends them" in sweep.printed()
    assert "Traceback" not in sweep.printed()
    assert (watching.ends(), watching.verdicts()) == (0, BOTH_COMPLETED)
    assert [sweep.attempts(number) for number in (SHORT, LAST)] == [["COMPLETED"], ["COMPLETED"]]
    assert_same_end(sweep.run_dir(LAST), undisturbed)


def edited_in_the_queue(begin: Begin) -> Watched:
    """The jobs of a sweep wait, held back, when the YAML file that they were composed of is changed."""
    sweep = begin("--help")  # for its folder
    mine = sweep.folder.with_name("conf") / "training" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    text = "defaults:\n  - default\n  - _self_\nepochs: 2\nwarmup_steps: 1\nlr: 0.004\n"
    mine.write_text(text)
    held = ("hardware.slurm.sbatch=[--hold]", "seed=0,1", "training=mine", f"--config-dir={mine.parent.parent}")
    own = [text for text in DROPS if not text.startswith("training.")]
    sweep = begin(*own, *on("a100"), *held).submitted()
    mine.write_text(text.replace("0.004", "0.5").replace("epochs: 2", "epochs: 1"))
    for number in (0, 1):
        assert state(sweep.jobs(number)[-1]) == "PENDING"
        ask("scontrol", "release", sweep.jobs(number)[-1])
    sweep.ends()
    return sweep


@of(edited_in_the_queue)
def test_a_yaml_file_that_is_edited_while_jobs_wait_changes_nothing_for_them(outcome: Watched):
    assert outcome.ends() == 0
    assert outcome.verdicts() == {"seed=0": "completed", "seed=1": "completed"}
    for number in (0, 1):
        told = status_of(outcome.run_dir(number))
        assert told["steps"] == told["promised_steps"] == 8  # two epochs of four
        assert "lr: 0.004" in (outcome.run_dir(number) / "config.yaml").read_text()
        assert sacct(outcome.jobs(number)[-1])[-1]["State"] == "COMPLETED"
