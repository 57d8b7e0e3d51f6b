"""A cluster without accounting: the queue has the word, for as long as it remembers, and the sweep says so."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.faults.runs import status_of
from tests.slurm.cluster import Cluster
from tests.slurm.commands import ask, wait_for
from tests.slurm.sweeps import DROPS, LONG, PATIENCE_S, Watched, on

FORGETS_S = 5  # after which SLURM knows no more of a job that is over
COMPLETED, CANCELLED, KILLED = range(3)
NAMES = [f"seed={seed}" for seed in (COMPLETED, CANCELLED, KILLED)]


@pytest.fixture(scope="module")
def forgetful(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A second cluster, to which the commands of SLURM speak while these tests run."""
    other = Cluster(tmp_path_factory.mktemp("other"))
    other.up(accounting=False, settings={"MinJobAge": FORGETS_S})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(other.conf))
        yield other
    other.down()


@pytest.fixture(scope="module")
def sweep(forgetful: Cluster, begin: Callable[..., Watched]) -> Watched:
    """Of three jobs one is left alone, one is cancelled, and of one everything is killed that could say something."""
    sweep = begin(*DROPS, *on("a100"), LONG, "seed=0,1,2")
    sweep.holds(CANCELLED)
    sweep.holds(KILLED)
    ask("scancel", sweep.jobs(CANCELLED)[-1])
    os.kill(status_of(sweep.run_dir(KILLED))["pid"], signal.SIGKILL)
    sweep.ends()
    return sweep


def test_the_verdicts_are_those_of_the_queue_and_it_says_so(sweep: Watched):
    assert sweep.ends() == 1
    assert sweep.printed().count("NO ACCOUNTING") == 1
    assert sweep.verdicts() == dict(zip(NAMES, ("completed", "cancelled", "lost"), strict=True)), sweep.printed()


def test_what_became_of_the_jobs_is_known_when_the_queue_has_forgotten_them(sweep: Watched):
    wait_for(lambda: not ask("squeue", "--noheader", "--states=all").strip(), PATIENCE_S, "SLURM has forgotten them")
    later = sweep.with_status()
    assert later.ends() == 1
    assert later.verdicts() == sweep.verdicts()


def test_what_is_asked_to_go_on_is_completed(sweep: Watched):
    again = sweep.with_status("--rerun", "cancelled,lost")
    assert again.ends() == 0, again.printed()
    assert again.verdicts() == dict.fromkeys(NAMES, "completed")
    assert [len(sweep.jobs(number)) for number in range(3)] == [1, 2, 2]
