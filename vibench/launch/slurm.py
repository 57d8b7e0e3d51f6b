"""What SLURM says of jobs: squeue first, then sacct, whose steps alone know of memory; scontrol for the job one is in.

https://slurm.schedmd.com/sacct.html
"""

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from vibench.errors import VibenchError
from vibench.launch.place import Seen
from vibench.report.status import write_json

log = logging.getLogger("vibench")
FILE = "slurm.json"  # in the directory of a run: its jobs, oldest first
MORE_MEMORY = 1.5  # times what the host gave, after the kernel killed a run for it
SETTLE_S = 2.0  # between the end of a job and what sacct says of it
AT_ONCE = 200  # jobs that are named in one command
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "CONFIGURING"}
ACTIVE = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING"}
MAYBE_REQUEUED = {"PREEMPTED", "NODE_FAIL", "REQUEUED"}


class SlurmError(VibenchError):
    """SLURM refused something, or does not answer."""

    kind = "SLURM"


class Queue:
    """
    Attributes:
        blind: why there is no accounting; None where there is.
    """

    def __init__(self) -> None:
        self.blind: str | None = None

    def told(self, numbers: set[str]) -> dict[str, Seen]:
        """Id of a job -> what SLURM says of it, where it knows it. Of the queue first, since accounting is behind it.

        Raises:
            SlurmError: it does not answer.
        """
        if not numbers:
            return {}
        found = self._queued(numbers)
        if left := numbers - set(found):
            ended = self._accounted(left)
            if any(seen.state in MAYBE_REQUEUED for seen in ended.values()):
                time.sleep(SETTLE_S)
                ended |= self._queued(left)
            found |= ended
        return found

    def _queued(self, numbers: set[str], *, ended: bool = False) -> dict[str, Seen]:
        """
        Args:
            ended: also those that have ended, some minutes ago at most; accounting knows their steps.
        """
        mine = f"--user={os.getuid()}"  # a cluster has thousands of others; of them, accounting knows
        states = ["--states=all"] if ended else []
        done = run(["squeue", "--noheader", "--array", mine, *states, "--format=%i|%T|%r|%N"])
        if done.returncode:
            raise SlurmError(f"squeue does not answer: {first_line(done.stderr)}")
        found = {}
        for line in done.stdout.splitlines():
            number, state, reason, where = line.strip().split("|")
            seen = Seen(phase=_phase(state), state=state, told=reason, number=number, where=where)
            if number in numbers and (seen.phase != "ended" or ended):
                found[number] = seen
        return found

    def _accounted(self, numbers: set[str]) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        for part in parts(sorted({number.split("_")[0] for number in numbers})):
            done = run(
                ["sacct", "-n", "-P", "-D", "-a", "-j", ",".join(part), "--format=JobID,State,ExitCode,NodeList"]
            )
            if done.returncode:
                if self.blind is None:
                    self.blind = first_line(done.stderr) or "sacct failed"
                    log.warning(f"NO ACCOUNTING ({self.blind}): states are squeue's, which forgets jobs after minutes")
                return self._queued(numbers, ended=True)
            found |= read_accounting(done.stdout, numbers)
        self.blind = None
        return found


def read_accounting(text: str, numbers: set[str]) -> dict[str, Seen]:
    """Of what sacct says of jobs, their attempts and steps, the last attempt of each job.

    Only a step knows that it was out of memory: what submitit starts is one of its own within the batch script.
    """
    attempts: dict[str, list[Seen]] = {}
    for line in text.splitlines():
        name, state, code, where = line.split("|")
        number, _, step = name.partition(".")
        state, _, by = state.partition(" ")  # CANCELLED by 1000
        if not step:
            told = by or (f"exit status {code}" if code != "0:0" else "")
            for one in numbers.intersection(_expanded(number)):
                seen = Seen(phase=_phase(state), state=state, told=told, number=one, where=where)
                attempts.setdefault(one, []).append(seen)
        elif state == "OUT_OF_MEMORY" and attempts.get(number) and attempts[number][-1].state != "COMPLETED":
            attempts[number][-1] = replace(attempts[number][-1], state=state, told=f"step {step}")
    return {number: replace(seen[-1], restarts=len(seen) - 1) for number, seen in attempts.items()}


def _expanded(number: str) -> Iterator[str]:
    """The jobs that a line is about: tasks of an array that wait are one line, ``12_[3,5-7%2]``."""
    array, bracket, tasks = number.partition("_[")
    if not bracket:
        yield number
        return
    for part in tasks.rstrip("]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        yield from (f"{array}_{task}" for task in range(int(first), int(last or first) + 1))


def _phase(state: str) -> str:
    return "waiting" if state in WAITING else "running" if state in ACTIVE else "ended"


def jobs_of(run_dir: Path) -> list[dict[str, Any]]:
    """The jobs of SLURM that a run had, oldest first."""
    try:
        return json.loads((run_dir / FILE).read_text())["jobs"]
    except (OSError, ValueError, KeyError):
        return []


def add_job(run_dir: Path, entry: dict[str, Any]) -> None:
    """Write a job down, once; the job itself does so, too, in case that who submitted it was killed."""
    known = {one["id"]: one for one in jobs_of(run_dir)}
    before = known.get(entry["id"], {})
    known[entry["id"]] = {key: value or before.get(key) for key, value in (before | entry).items()}
    write_json(run_dir / FILE, {"jobs": list(known.values())})


def keep(run_dir: Path, seen: Seen) -> None:
    """Write down how the last job ended, which the queue, and in time accounting, will forget."""
    entries = jobs_of(run_dir)
    if entries[-1].get("ended") != asdict(seen):
        write_json(run_dir / FILE, {"jobs": [*entries[:-1], entries[-1] | {"ended": asdict(seen)}]})


def requeue(number: str) -> bool:
    """Ask SLURM to run a job again; whether it will."""
    return run(["scontrol", "requeue", number]).returncode == 0


def show(number: str) -> dict[str, str]:
    """Key -> value of ``scontrol show job``; empty where it is not known."""
    text = run(["scontrol", "show", "job", number]).stdout
    return {key: value for key, _, value in (word.partition("=") for word in text.split())}


def end_time(number: str) -> int | None:
    """When the time of a job is over, in seconds since 1970; None where it has no limit or is not known."""
    try:
        return int(datetime.fromisoformat(show(number)["EndTime"]).timestamp())
    except (KeyError, ValueError):
        return None


def array_size() -> int:
    """Jobs that an array may have.

    Raises:
        SlurmError: it does not answer.
    """
    done = run(["scontrol", "show", "config"])
    if done.returncode:
        raise SlurmError(f"SLURM does not answer: {first_line(done.stderr)}")
    told = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    return max(int(told[1]), 1) if told else 1000


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """A command of SLURM, to its end; that it does not exist or hangs is a failure of it."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error}")


def first_line(said: object) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return lines[0] if lines else ""


def parts(items: list[str]) -> Iterator[list[str]]:
    """As many as one command takes."""
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
