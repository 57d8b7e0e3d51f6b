"""The test cluster does what a real one does. What is tested on it is worth as much as this."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm import processes
from tests.slurm.cluster import Cluster, ClusterError
from tests.slurm.commands import empty_queue, sacct, sbatch, scontrol_show, squeue, state, wait_for
from tests.slurm.configuration import NODES, PARTITIONS

ALL = [*(f"{name}{kind}" for name in PARTITIONS for kind in ("", "-grace", "-hi")), "all"]
TAKES_500_MB = f"""--wrap={sys.executable} -c 'import time; held = b"x" * 500 * 2**20; time.sleep(60)'"""
WAITS = "--wrap=sleep 600"
QUIET = "--output=/dev/null"


@pytest.fixture
def submit(cluster: Cluster):
    yield sbatch
    empty_queue()


@pytest.fixture
def other(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory):
    """A second cluster, in a folder of its own, not yet up."""
    other = Cluster(tmp_path_factory.mktemp("other"))
    yield other
    other.down()


def test_all_nodes_are_up(cluster: Cluster):
    assert cluster.states() == {node.name: "idle" for node in NODES}


def test_a_job_on_each_partition_gets_its_cards_and_is_completed_in_accounting(submit, tmp_path: Path):
    prints = "--wrap=echo $CUDA_VISIBLE_DEVICES"
    jobs = {submit(f"--partition={name}", "--gres=gpu:1", f"--output={tmp_path}/%j", prints): name for name in ALL}
    expected = {job: (name, "COMPLETED", "0:0") for job, name in jobs.items()}
    wait_for(
        lambda: {row["JobID"]: (row["Partition"], row["State"], row["ExitCode"]) for row in sacct(jobs)} == expected,
        20,
        "all jobs are completed, each on its partition",
    )
    assert {(tmp_path / job).read_text().strip() for job in jobs} <= {"0", "1", "2", "3"}


def test_two_jobs_on_one_node_get_different_cards(submit, tmp_path: Path):
    prints = "--wrap=echo $CUDA_VISIBLE_DEVICES; sleep 600"
    jobs = [
        submit("--nodelist=a100n1", "--partition=a100", "--gres=gpu:a100:2", f"--output={tmp_path}/%j", prints)
        for _ in range(2)
    ]
    wait_for(lambda: all((tmp_path / job).exists() and (tmp_path / job).read_text() for job in jobs), 10, "both run")
    assert {(tmp_path / job).read_text() for job in jobs} == {"0,1\n", "2,3\n"}


def test_a_job_that_takes_more_memory_than_it_asked_for_is_ended(cluster: Cluster, submit):
    job = submit("--mem=100", QUIET, TAKES_500_MB)
    wait_for(lambda: state(job) not in ("PENDING", "RUNNING", "COMPLETING"), 20, "the job is over")
    verdict = {"cgroup": "OUT_OF_MEMORY", "poll": "FAILED"}[cluster.memory]  # polling has no word for it
    wait_for(lambda: [row["State"] for row in sacct(job)] == [verdict], 10, f"accounting says {verdict}")


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (("--partition=a100", "--gres=gpu:a100:8"), "Requested node configuration is not available"),
        (("--partition=v100", "--gres=gpu:a100:1"), "Requested node configuration is not available"),
        (("--partition=v100", "--mem=48G"), "Requested node configuration is not available"),  # 49152 of 48000 MB
        (("--partition=rtx", "--time=2-00:00:00"), "Requested time limit is invalid"),
        (("--partition=h100",), "invalid partition specified: h100"),
        (("--array=0-101",), "Invalid job array specification"),
        (("--account=nobody",), "Invalid account"),
    ],
)
def test_an_impossible_request_is_refused_before_it_is_queued(cluster: Cluster, request_: tuple, complaint: str):
    done = subprocess.run(["sbatch", "--test-only", *request_, QUIET, WAITS], capture_output=True, text=True)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert squeue() == []


def test_a_job_with_priority_has_another_requeued_at_once(submit):
    low = submit("--partition=v100", "--gres=gpu:2", QUIET, WAITS)
    wait_for(lambda: state(low) == "RUNNING", 10, "the job runs")
    high = submit("--partition=v100-hi", "--gres=gpu:2", QUIET, "--wrap=sleep 1")
    wait_for(lambda: state(high) == "COMPLETED", 20, "the job with priority is done")
    wait_for(lambda: state(low) == "RUNNING", 20, "the other one runs again")
    assert scontrol_show(low)["Restarts"] == "1"
    wait_for(lambda: [row["State"] for row in sacct(low)] == ["PREEMPTED", "RUNNING"], 10, "accounting knows of both")


def test_with_grace_a_job_is_told_and_goes_on_for_a_while_before_it_is_requeued(submit, tmp_path: Path):
    told = tmp_path / "told"
    listens = f"trap 'touch {told}' TERM; while true; do sleep 0.2 & wait; done"
    low = submit("--partition=v100-grace", "--gres=gpu:2", QUIET, f'--wrap=srun bash -c "{listens}"')  # steps are told
    wait_for(lambda: state(low) == "RUNNING", 10, "the job runs")
    high = submit("--partition=v100-hi", "--gres=gpu:2", QUIET, WAITS)
    wait_for(told.exists, 10, "the job is told")
    job = scontrol_show(low)
    assert (job["JobState"], job["PreemptTime"] != "None", state(high)) == ("RUNNING", True, "PENDING")
    wait_for(lambda: state(high) == "RUNNING", 40, "the job with priority runs")
    assert scontrol_show(low)["Restarts"] == "1"


def test_a_job_on_a_node_that_dies_is_requeued_and_the_node_comes_back(cluster: Cluster, submit, tmp_path: Path):
    beats = f"--wrap=while true; do date >> {tmp_path}/beats; sleep 0.1; done"
    job = submit("--nodelist=a100n2", "--partition=a100", QUIET, beats)
    wait_for((tmp_path / "beats").exists, 10, "the job runs")
    cluster.node_down("a100n2")
    before = (tmp_path / "beats").read_text()
    wait_for(lambda: state(job) == "PENDING", 60, "the job is requeued")
    assert (tmp_path / "beats").read_text() == before
    assert cluster.states()["a100n2"] == "down*"
    cluster.node_up("a100n2")
    wait_for(lambda: state(job) == "RUNNING", 30, "the job runs again")
    wait_for(lambda: [row["State"] for row in sacct(job)] == ["NODE_FAIL", "RUNNING"], 10, "accounting knows of both")


def test_a_cluster_without_accounting_stands_beside_it_and_polls_memory(other: Cluster):
    other.up(accounting=False, memory="poll", settings={"MaxArraySize": 5})
    job = other.run("sbatch", "--parsable", "--mem=100", QUIET, TAKES_500_MB).strip()
    with pytest.raises(ClusterError, match="accounting storage is disabled"):
        other.run("sacct")
    with pytest.raises(ClusterError, match="Invalid job array specification"):
        other.run("sbatch", "--array=0-5", QUIET, WAITS)
    wait_for(lambda: "JobState=FAILED" in other.run("scontrol", "show", "job", job), 20, "the job is ended")


def test_a_cluster_that_was_killed_comes_up_again_in_its_folder_and_goes_without_a_trace(other: Cluster):
    other.up(accounting=False)
    _run_what_hides(other)
    stale = int((other.folder / "pid" / "slurmctld").read_text())
    processes.kill(lambda: processes.family(stale))

    other.up(accounting=False)
    assert set(other.states().values()) == {"idle"}
    assert len(processes.of(other.conf)) == len(NODES) + 3  # munged, slurmctld, and its own helper
    _run_what_hides(other)
    group = (other.folder / "cgroup" / "memory").resolve()

    other.down()
    assert processes.of(other.conf) == set()
    assert {path.name for path in other.folder.iterdir() if path.is_dir()} == {"log"}
    assert not group.exists()


def _run_what_hides(other: Cluster) -> None:
    """A job that leaves its session behind, and one that leaves its parent too."""
    other.run("sbatch", QUIET, "--wrap=setsid sleep 600 & setsid --fork sleep 600; sleep 600")
    wait_for(lambda: sum(processes.name_of(pid) == "sleep" for pid in processes.of(other.conf)) == 3, 10, "it runs")


def test_a_daemon_that_does_not_come_up_is_named_with_its_last_words(other: Cluster):
    with pytest.raises(ClusterError, match=r"(?s)slurmctld .*the end of .*slurmctld.*\n  .*no_such_plugin"):
        other.up(accounting=False, settings={"PriorityType": "priority/no_such_plugin"})
    assert processes.of(other.conf) == set()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path):
    (tmp_path / "state").mkdir()
    Cluster(tmp_path).down()
    with pytest.raises(ClusterError, match="neither empty nor of a test cluster"):
        Cluster(tmp_path).up()
    assert (tmp_path / "state").exists()
