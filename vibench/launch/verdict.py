"""One state for each job of a sweep, of what its run says of itself and of what its place says of it.

Only proof makes a job complete, and silence never does; where a run could say nothing, its place has the word.
"""

from dataclasses import dataclass
from typing import Any

from vibench.launch.place import Seen
from vibench.launch.slurm import jobs_of
from vibench.launch.sweep import Job, Sweep
from vibench.report.status import read_status

FINAL = ("completed", "failed", "cancelled", "lost", "refused", "pruned")
ENDED = {  # state of SLURM -> state and kind of a run that could not say it itself
    "OUT_OF_MEMORY": ("failed", "MEMORY", "killed by the kernel: the host's memory of the job was full"),
    "TIMEOUT": ("failed", "TIMEOUT", "its time was over"),
    "DEADLINE": ("failed", "TIMEOUT", "its deadline came"),
    "CANCELLED": ("cancelled", "", "cancelled by scancel"),
    "PREEMPTED": ("preempted", "", "preempted, and not run again"),
    "NODE_FAIL": ("lost", "NODE", "its machine went down"),
    "BOOT_FAIL": ("lost", "NODE", "its machine did not come up"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """
    Attributes:
        state: planned, submitted, running, preempted, completed, failed, cancelled, lost, refused, or pruned.
        kind: of a failure.
        said: why, in one line.
        number: of the job at its place.
        where: machines.
        final: it will not change by itself.
        status: of the run, as on disk.
    """

    state: str
    kind: str = ""
    said: str = ""
    number: str = ""
    where: str = ""
    final: bool = False
    status: dict[str, Any]


def verdict(sweep: Sweep, job: Job, seen: Seen | None) -> Verdict:
    """
    Args:
        seen: what the place knows of the job; None for nothing.
    """
    if job.refused:
        return Verdict(state="refused", said=job.refused[0], final=True, status={})
    status = read_status(sweep.run_dir(job))
    state, kind = status["state"], status.get("kind") or ""
    said = (status.get("error") or "").split("\n")[0]
    place = {"number": seen.number, "where": seen.where} if seen is not None else {}
    if state == "completed" and (seen is None or seen.phase == "ended"):
        odd = seen.state if seen is not None and seen.state not in ("COMPLETED", "") else ""
        return Verdict(
            state=state, said=f"proven, its job then ended as {odd}" if odd else "", final=True, status=status, **place
        )
    if seen is None:
        return _of_status_alone(state, kind, said, status, bool(jobs_of(sweep.run_dir(job))))
    if seen.phase == "running":
        return Verdict(
            state="running", said=seen.state.lower() if seen.state != "RUNNING" else "", status=status, **place
        )
    if seen.phase == "waiting":
        again = "started" in status or status.get("attempts")
        told = seen.told if seen.told != "None" else ""
        waits = f"waits to go on{f' ({told})' if told else ''}" if again else told
        return Verdict(state="preempted" if state == "preempted" else "submitted", said=waits, status=status, **place)
    if state in ("failed", "pruned"):
        return Verdict(state=state, kind=kind, said=said, final=True, status=status, **place)
    if seen.state in ENDED:
        state, kind, told = ENDED[seen.state]
        return Verdict(state=state, kind=kind, said=told, final=True, status=status, **place)
    if state in ("cancelled", "preempted"):
        return Verdict(state=state, said=said, final=True, status=status, **place)
    told = f"the job ended as {seen.state or 'a process'} ({seen.told or 'without a word'}) and the run said nothing"
    return Verdict(state="lost", said=told, final=True, status=status, **place)


def _of_status_alone(state: str, kind: str, said: str, status: dict[str, Any], in_slurm: bool) -> Verdict:
    """Of a job whose place was not asked, or that has none."""
    if state == "submitted" and status.get("pid") is None and not in_slurm:
        return Verdict(state="planned", said="it was never submitted", final=True, status=status)
    if in_slurm and state in ("submitted", "running", "preempted"):
        return Verdict(state=state, said=said or "as it says itself: SLURM was not asked", status=status)
    final = state in FINAL or state in ("preempted", "planned", "unknown")
    return Verdict(state=state, kind=kind, said=said, final=final, status=status)
