"""Sweeps from the first check to the last verdict: every job on the hardware that it names, what cannot run is refused
before anything is queued, and what fails is called by its name, by us and by SLURM.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import assert_same_end, events, rows, status_of
from tests.slurm.cluster import Cluster
from tests.slurm.commands import ask, sacct, scontrol_show, wait_for
from tests.slurm.sweeps import ANY_BACKBONE, DROPS, TINY, Watched, of, on

Begin = Callable[..., Watched]
BACKBONES = ("dlinear", "timesnet", "patchtst", "fno")
HARDWARE = {  # -> partition, nodes, card
    "a100_80": ("a100", ("a100n1", "a100n2"), "a100"),
    "v100": ("v100", ("v100n1",), "v100"),
    "rtx3090": ("rtx", ("rtx3090n1",), "rtx3090"),
}
ASKED = ("Partition", "JobName", "AllocTRES", "Timelimit", "NodeList", "State", "ExitCode")


def twelve(begin: Begin) -> Watched:
    sweep = begin(
        *ANY_BACKBONE,
        f"backbone={','.join(BACKBONES)}",
        f"hardware={','.join(HARDWARE)}",
        "hardware.slurm.time=00:10:00",
    )
    sweep.ends()
    return sweep


@of(twelve)
def test_twelve_jobs_run_each_on_the_hardware_that_it_names(outcome: Watched):
    assert outcome.ends() == 0, outcome.printed()
    kinds = [(backbone, hardware) for backbone in BACKBONES for hardware in HARDWARE]
    for number, (_, hardware) in enumerate(kinds):
        partition, nodes, card = HARDWARE[hardware]
        (said,) = sacct(outcome.jobs(number), ASKED)
        assert (said["Partition"], said["JobName"]) == (partition, f"vibench-{hardware}")
        assert said["NodeList"] in nodes
        assert {"cpu=1", f"gres/gpu:{card}=1", "mem=4G", "node=1"} <= set(said["AllocTRES"].split(","))
        assert said["Timelimit"] == "00:10:00"
        assert (said["State"], said["ExitCode"]) == ("COMPLETED", "0:0")
    names = {f"backbone={backbone} hardware={hardware}" for backbone, hardware in kinds}
    assert outcome.verdicts() == dict.fromkeys(names, "completed")
    told = [status_of(outcome.run_dir(number)) for number in range(12)]
    assert {one["state"] for one in told} == {"completed"}
    assert [one["hardware"] for one in told] == [hardware for _, hardware in kinds]
    assert [one["results"] for one in told[0::3]] == [one["results"] for one in told[2::3]]  # whatever they ran on


@of(twelve)
def test_jobs_that_ask_for_the_same_are_one_array(outcome: Watched):
    arrays = [outcome.jobs(number)[0].split("_")[0] for number in range(12)]
    assert arrays == arrays[:3] * 4
    assert len(set(arrays)) == 3


@of(twelve)
def test_the_status_of_a_sweep_is_told_at_any_later_time(outcome: Watched):
    again = outcome.with_status()
    assert again.ends() == 0
    assert again.verdicts() == outcome.verdicts()


def raising(begin: Begin) -> Watched:
    sweep = begin(*DROPS, *on("a100"), "training.lr=1e30,1e-3", "training.clip_norm=null")
    sweep.ends()
    return sweep


@of(raising)
def test_what_a_run_raises_is_the_end_of_its_job(outcome: Watched):
    assert outcome.ends() == 1
    assert outcome.verdicts() == {"training.lr=1e+30": "failed NAN", "training.lr=0.001": "completed"}
    assert [row["State"] for row in sacct(outcome.jobs(0), steps=True)] == ["FAILED"] * 3  # batch and step
    assert [row["ExitCode"] for row in sacct(outcome.jobs(0))] == ["1:0"]
    assert outcome.attempts(1) == ["COMPLETED"]
    assert len(rows(outcome.run_dir(1))) > 0
    assert "the loss of classification is nan at step" in status_of(outcome.run_dir(0))["error"]


WIDE = (  # on a CPU it takes as much of the host as is planned for the card
    *(text for text in TINY if not text.startswith(("task.", "d_model=", "data.stride"))),
    "data.stride=64",
    "task=classification",
    "embedding=pointwise",
    "backbone=transformer",
    "backbone.e_layers=1",
    "backbone.dropout=0",
    "d_model=32",
    "training.global_batch_size=192",
    "training.max_steps=2",
    "training.checkpointing=none",
    "hardware=a100_80",
)
WIDTH, TWICE = "backbone.d_ff=3072", "backbone.d_ff=4800"  # take 2.4 and 3.4 GB
MEM_MB, MORE_MB, ENOUGH_MB = 2120, 3180, 4000  # what the plan for the card says, half as much again, and what will do


def starved(begin: Begin) -> tuple[Watched, Watched]:
    """Jobs that are planned for a card, but run on the CPU. One of them has enough memory for that."""
    if Cluster(Path(os.environ["SLURM_CONF"]).parent).memory != "cgroup":
        pytest.skip("the kernel limits no memory of jobs here")
    sweep = begin(*WIDE, WIDTH, f"hardware.slurm.mem_mb={MEM_MB},{ENOUGH_MB}")
    twice = begin(*WIDE, TWICE, f"hardware.slurm.mem_mb={MEM_MB}")
    for one in (sweep, twice):
        one.ends()
    return sweep, twice


@of(starved)
def test_a_run_that_the_kernel_kills_asks_once_for_more_memory(outcome: tuple[Watched, Watched]):
    sweep, _ = outcome
    first, second = sweep.jobs(0)
    assert sweep.ends() == 0
    assert set(sweep.verdicts().values()) == {"completed"}
    told = status_of(sweep.run_dir(0))
    assert [attempt["kind"] for attempt in told["attempts"]] == ["MEMORY"]
    said = f"the kernel killed it at {MEM_MB} MB of the host; job {second} asks for {MORE_MB} MB and goes on"
    assert said in events(sweep.run_dir(0))
    assert "OUT_OF_MEMORY" in [row["State"] for row in sacct(first, steps=True)]
    assert sacct(second, ("State", "ReqMem")) == [{"State": "COMPLETED", "ReqMem": f"{MORE_MB}M"}]
    assert [len(sweep.jobs(1)), sweep.attempts(1)] == [1, ["COMPLETED"]]
    assert_same_end(sweep.run_dir(0), sweep.run_dir(1))


@of(starved)
def test_one_for_which_that_is_too_little_as_well_is_failed_for_memory(outcome: tuple[Watched, Watched]):
    _, twice = outcome
    assert twice.ends() == 1
    assert list(twice.verdicts().values()) == ["failed MEMORY"]
    assert len(twice.jobs(0)) == 2
    for job in twice.jobs(0):
        assert "OUT_OF_MEMORY" in [row["State"] for row in sacct(job, steps=True)]
        assert sacct(job)[-1]["State"] in ("FAILED", "OUT_OF_MEMORY")
    told = status_of(twice.run_dir(0))
    assert (told["state"], told["kind"]) == ("failed", "MEMORY")
    assert f"all {MORE_MB} MB of the host's memory was taken" in told["error"]


def commented(comment: str) -> str:
    """An option by which the jobs of one sweep are found among all."""
    return f"hardware.slurm.sbatch=['--comment={comment}']"


def queued(comment: str) -> list[str]:
    """Numbers of all jobs that were ever submitted with that comment."""
    waiting = ask("squeue", "--noheader", "--array", "--states=all", "--format=%i %k").splitlines()
    known = ask("sacct", "--allusers", "--noheader", "--parsable2", "--allocations", "--format=JobID,Comment")
    pairs = [line.split() for line in waiting] + [line.split("|") for line in known.splitlines()]
    return [number for number, told in pairs if told == comment]


IMPORTS_S, PLANNED_S = 6, 3  # of torch and all else; of a plan, for each job
IMPOSSIBLE = ("d_model=16,65536,32", "hardware=a100_80")  # the second has weights for several cards


def refused(begin: Begin) -> Watched:
    sweep = begin(*DROPS, *IMPOSSIBLE, commented("refused"))
    sweep.ends()
    return sweep


@of(refused)
def test_one_job_that_does_not_fit_its_card_keeps_all_out_of_the_queue(outcome: Watched):
    assert outcome.ends() == 2
    assert outcome.cpu_s < IMPORTS_S + 3 * PLANNED_S
    assert queued("refused") == []
    assert not list((outcome.folder / ".submitit").glob("*"))
    assert "1 of 3 jobs are refused, nothing was started" in outcome.printed()
    assert "1: a100_80 offers 72.4 GiB, but the weights" in outcome.printed()
    later = outcome.with_status()
    assert later.ends() == 1
    assert later.verdicts() == {"d_model=16": "planned", "d_model=65536": "refused", "d_model=32": "planned"}


def refused_and_left_out(begin: Begin) -> Watched:
    sweep = begin(*DROPS, *IMPOSSIBLE, "hydra.launcher.skip_refused=true", commented("skipped"))
    sweep.ends()
    return sweep


@of(refused_and_left_out)
def test_it_can_be_left_out_and_is_refused_in_the_verdicts(outcome: Watched):
    assert outcome.ends() == 1
    assert outcome.verdicts() == {"d_model=16": "completed", "d_model=65536": "refused", "d_model=32": "completed"}
    assert set(queued("skipped")) == {*outcome.jobs(0), *outcome.jobs(2)}
    assert outcome.jobs(1) == []


def refused_by_slurm(begin: Begin) -> tuple[Watched, Watched]:
    """A node of the second kind has two cards; the other sweep names a partition that does not exist."""
    cards = begin(*DROPS, "hardware=a100_80,v100", "hardware.gpus=4", commented("cards"))
    partition = begin(*DROPS, *on("a100"), "hardware.slurm.partition=a100,nowhere", commented("nowhere"))
    for sweep in (cards, partition):
        sweep.ends()
    return cards, partition


@of(refused_by_slurm)
def test_what_slurm_could_never_run_keeps_all_out_of_the_queue(outcome: tuple[Watched, Watched]):
    cards, partition = outcome
    assert (cards.ends(), partition.ends()) == (2, 2)
    assert queued("cards") == queued("nowhere") == []
    assert "1: SLURM refuses --partition=v100 --gres=gpu:v100:4" in cards.printed()
    assert "1: SLURM refuses --partition=nowhere" in partition.printed()
    assert "Invalid partition name specified" in partition.printed()


def refused_and_mended(begin: Begin) -> tuple[Watched, Watched]:
    """A file of the user's own is wrong, then mended."""
    sweep = begin("--help")  # for its folder
    sweep.ends()
    mine = sweep.folder.with_name("conf") / "training" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    text = "defaults:\n  - default\n  - _self_\nepochs: 1\nwarmup_steps: 1\nlr: "
    mine.write_text(f"{text}-1.0\n")
    own = [text for text in DROPS if not text.startswith("training.")]
    one = begin(
        *own,
        *on("a100"),
        "training=smoke,mine",
        "hydra.launcher.skip_refused=true",
        f"--config-dir={mine.parent.parent}",
    )
    one.ends()
    mine.write_text(f"{text}0.002\n")
    again = one.with_status("--rerun", "refused")
    again.ends()
    return one, again


@of(refused_and_mended)
def test_a_refused_job_runs_once_its_file_is_mended(outcome: tuple[Watched, Watched]):
    sweep, again = outcome
    assert (sweep.ends(), again.ends()) == (1, 0), again.printed()
    assert sweep.verdicts() == {"training=smoke": "completed", "training=mine": "refused"}
    assert again.verdicts() == dict.fromkeys(sweep.verdicts(), "completed")
    assert [len(sweep.jobs(number)) for number in (0, 1)] == [1, 1]
    assert "lr: 0.002" in (sweep.run_dir(1) / "config.yaml").read_text()


def five_hundred(begin: Begin) -> tuple[Watched, list[str], str, Watched, Watched]:
    """Submitted and left, held back; then all are ended."""
    held = "hardware.slurm.sbatch=[--hold,'--comment=many']"
    sweep = begin(*DROPS, *on("a100"), "seed=range(1000,1500)", held, "hydra.launcher.at_once=7", "--detach")
    assert sweep.ends() == 0, sweep.printed()
    waiting, throttle = queued("many"), scontrol_show(sweep.jobs(0)[0])["ArrayTaskThrottle"]
    cancel = sweep.with_status("--cancel")
    cancel.ends()
    wait_for(lambda: not ask("squeue", "--noheader", "--format=%k").count("many"), 30, "all have left the queue")
    after = sweep.with_status()
    after.ends()
    return sweep, waiting, throttle, cancel, after


@of(five_hundred)
def test_five_hundred_jobs_are_submitted_in_a_minute_and_a_half_and_ended_together(outcome: tuple):
    sweep, waiting, throttle, cancel, after = outcome
    print(f"500 jobs: {sweep.cpu_s:.1f} CPU s, one plan and the import of torch among it")
    assert sweep.cpu_s < 90
    assert throttle == "7"
    jobs = [sweep.jobs(number)[0] for number in range(500)]
    assert set(jobs) <= set(waiting)
    assert len(set(jobs)) == 500
    sizes = Counter(job.split("_")[0] for job in jobs)
    assert sorted(sizes.values()) == [96, 101, 101, 101, 101]  # MaxArraySize is 101
    assert len(json.loads((sweep.folder / "manifest.json").read_text())["jobs"]) == 500
    assert cancel.ends() == 0
    assert (after.ends(), set(after.verdicts().values())) == (1, {"cancelled"})
    assert "500 cancelled" in after.printed()
    assert {row["State"].split()[0] for row in sacct(sizes)} == {"CANCELLED"}
