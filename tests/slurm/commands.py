"""What tests ask of SLURM, by its commands."""

import re
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

Seen = TypeVar("Seen")

FIELDS = ("JobID", "JobName", "Partition", "State", "ExitCode", "NodeList")
QUEUE = {"id": "%i", "name": "%j", "partition": "%P", "state": "%T", "reason": "%r", "nodes": "%N"}


def ask(*command: str) -> str:
    """What a command of SLURM prints; it has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def sbatch(*options: str) -> str:
    """Number of a job: ``sbatch("--partition=a100", "--output=/dev/null", "--wrap=hostname")``."""
    return ask("sbatch", "--parsable", *options).strip()


def sacct(ids: str | Iterable[str], fields: Iterable[str] = FIELDS, *, steps: bool = False) -> list[dict[str, str]]:
    """What accounting says of jobs, by field. A requeued job has a row for each time. It is a second or two behind."""
    fields, jobs = list(fields), ids if isinstance(ids, str) else ",".join(ids)
    which = ["--duplicates"] if steps else ["--duplicates", "--allocations"]
    out = ask("sacct", *which, "--noheader", "--parsable2", f"--format={','.join(fields)}", f"--jobs={jobs}")
    return [dict(zip(fields, line.split("|"), strict=True)) for line in out.splitlines()]


def squeue(*options: str) -> list[dict[str, str]]:
    """Jobs that wait, run or end, by the fields of ``QUEUE``; ``squeue("--states=all")`` those that are over too."""
    out = ask("squeue", "--noheader", *options, f"--format={'|'.join(QUEUE.values())}")
    return [dict(zip(QUEUE, line.split("|"), strict=True)) for line in out.splitlines()]


def scontrol_show(job: str) -> dict[str, str]:
    """All that slurmctld knows of a job, or of one of an array, ``12_3``, up to ten minutes after its end."""
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", ask("scontrol", "show", "job", "--oneliner", job)))


def state(job: str) -> str:
    """As scontrol says it: of now, without the delay of accounting."""
    return scontrol_show(job)["JobState"]


def wait_for(predicate: Callable[[], Seen], seconds: float, what: str) -> Seen:
    """What it returns once that is true."""
    end = time.monotonic() + seconds
    while not (seen := predicate()):
        if time.monotonic() > end:
            queue = "".join(f"\n  {job}" for job in squeue("--states=all"))
            pytest.fail(f"not in {seconds} s: {what}; last seen: {seen!r}; all jobs:{queue}", pytrace=False)
        time.sleep(0.2)
    return seen


def empty_queue() -> None:
    ask("scancel", "--me")
    wait_for(lambda: not squeue(), 30, "an empty queue")
