"""``vibench-status SWEEP --rerun``: the jobs in those states once more, into the same directories."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import CONF
from tests.launch.conftest import QUICK
from tests.launch.test_queue import SLURM
from vibench.config.compose import _composed
from vibench.config.frozen import freeze, read
from vibench.config.plain import plain
from vibench.errors import ConfigError
from vibench.launch.cluster import Cluster
from vibench.launch.launch import rerun
from vibench.launch.preflight import RefusedError
from vibench.launch.slurm import add_job, jobs_of
from vibench.launch.sweep import Sweep
from vibench.report.status import read_status

pytestmark = pytest.mark.usefixtures("no_cards")
ENDED = {"host": "node7", "pid": 17, "process_started": "4", "started": 1.0}
STATES = ("completed", "failed", "cancelled", "running", None)


@pytest.fixture
def ended(jobs, sweep):
    """A sweep whose runs are in these states; None: they were never begun."""

    def call(*states, lines=None, **launcher):
        checked = jobs(*(lines or [f"seed={n}" for n in range(len(states))]))
        made = sweep(checked, **launcher)
        for one, state in zip(checked, states, strict=True):
            run_dir = made.run_dir(one.job)
            run_dir.mkdir()
            freeze(plain(one.config), run_dir)
            if state is not None:
                (run_dir / "status.json").write_text(json.dumps(ENDED | {"state": state, "kind": "NAN"}))
        return made

    return call


@pytest.mark.parametrize(
    ("states", "numbers"),
    [({"failed"}, [1]), ({"failed", "cancelled"}, [1, 2]), ({"planned"}, [4]), ({"lost"}, [])],
)
def test_the_jobs_in_these_states_are_begun_and_no_others(ended, here, states, numbers):
    """One that runs on another machine is taken at its word."""
    made, place = ended(*STATES), here(5)
    assert [job.number for job in rerun(made, states, place)] == numbers
    assert sorted(place.look(made, made.jobs)) == numbers


def test_a_job_goes_on_in_its_directory_with_its_config_and_what_it_came_to_before_is_kept(ended, here):
    made = ended("failed")
    run_dir = made.run_dir(made.jobs[0])
    before = read(run_dir)
    rerun(made, {"failed"}, here())
    assert read(run_dir) == before
    status = read_status(run_dir)
    assert (status["state"], status["attempts"][0]["state"]) == ("submitted", "failed")


def test_a_config_that_was_frozen_is_not_composed_again(jobs, ended, here, tmp_path):
    """What is edited meanwhile is for new runs."""
    made = ended("failed", lines=["seed=0"])
    made.jobs[0].overrides = ["backbone=nothing"]
    assert len(rerun(Sweep.read(made.folder), {"failed"}, here())) == 1


@pytest.fixture
def mended(jobs, sweep, tmp_path):
    """A sweep with a job that was refused for a file of the user's own, and that file."""
    file = tmp_path / "own" / "backbone" / "mine.yaml"
    file.parent.mkdir(parents=True)
    good = (CONF / "backbone" / "dlinear.yaml").read_text()
    file.write_text(re.sub(r"moving_average: \d+", "moving_average: 4", good))  # not odd
    base = tuple(text for text in QUICK if not text.startswith("backbone"))
    checked = jobs("backbone=mine", base=base, config_dir=str(tmp_path / "own"))
    checked[0].job.refused = checked[0].refused
    made = sweep(checked)
    made.config_dir = str(tmp_path / "own")
    made.write()
    return made, file, good


def test_what_was_refused_is_composed_anew_so_that_what_was_mended_counts(mended, here):
    made, file, good = mended
    assert made.jobs[0].refused != []
    file.write_text(re.sub(r"moving_average: \d+", "moving_average: 7", good))
    _composed.cache_clear()  # the command is a process of its own
    assert len(rerun(made, {"refused"}, here())) == 1
    assert read(made.run_dir(made.jobs[0]))["backbone"]["moving_average"] == 7
    assert Sweep.read(made.folder).jobs[0].refused == []


def test_what_was_not_mended_is_refused_again(mended, here, capsys):
    made, _, _ = mended
    place = here()
    with pytest.raises(RefusedError, match="1 of 1 jobs are refused, nothing was started"):
        rerun(made, {"refused"}, place)
    assert "moving_average=4" in capsys.readouterr().out
    assert place.look(made, made.jobs) == {}


def test_a_job_that_another_run_stood_for_is_begun_itself(ended, here, tmp_path):
    made = ended("completed", None)
    other = tmp_path / "other"
    other.mkdir()
    (other / "status.json").write_text(json.dumps(ENDED | {"state": "failed", "kind": "NAN"}))
    made.jobs[1].same_as = str(other)
    made.write()
    place = here()
    assert [job.number for job in rerun(made, {"failed"}, place)] == [1]
    assert Sweep.read(made.folder).jobs[1].same_as is None


HOLD = (
    "import sys; from pathlib import Path; from vibench.launch.sweep import claimed\n"
    "with claimed(Path(sys.argv[1]), wait=False): print(flush=True); sys.stdin.read()"
)


def test_two_people_cannot_begin_the_same_jobs_at_once(ended, here):
    made, place = ended("failed"), here()
    command = [sys.executable, "-c", HOLD, str(made.folder)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    other.stdout.readline()
    try:
        with pytest.raises(
            ConfigError, match=rf"another process submits jobs of {made.folder}; wait for it, or end it"
        ):
            rerun(made, {"failed"}, place)
    finally:
        other.communicate("")
    assert place.look(made, made.jobs) == {}
    assert len(rerun(made, {"failed"}, place)) == 1


# on SLURM


@pytest.mark.parametrize(
    ("sacct", "mem_mb"),
    [("12|OUT_OF_MEMORY|0:125|v100n1\n", 6000), ("12|TIMEOUT|0:0|v100n1\n", 4000)],
)
def test_what_the_kernel_killed_for_memory_asks_for_more_and_what_failed_otherwise_for_the_same(
    ended, slurm_says, sacct, mem_mb
):
    made = ended("running", lines=["hardware=v100 hardware.slurm.mem_mb=4000"])
    made.launcher = SLURM
    made.write()
    add_job(made.run_dir(made.jobs[0]), {"id": "12", "mem_mb": 4000, "why": ""})
    slurm_says(sacct=sacct, sbatch="Submitted batch job 13\n", scontrol="MaxArraySize = 1001\n")
    assert len(rerun(made, {"failed"}, Cluster())) == 1
    assert [(job["id"], job["mem_mb"]) for job in jobs_of(made.run_dir(made.jobs[0]))] == [("12", 4000), ("13", mem_mb)]
    (batch,) = (made.folder / ".submitit").rglob("*_submission.sh")
    assert f"#SBATCH --mem={mem_mb}M" in batch.read_text().splitlines()
