"""What becomes of a sweep, seen while it happens: a live table in a terminal, a line for each change elsewhere."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from vibench.launch.cluster import Cluster, has_slurm
from vibench.launch.here import Here
from vibench.launch.place import Place
from vibench.launch.slurm import SlurmError, jobs_of
from vibench.launch.sweep import Job, Sweep
from vibench.launch.verdict import Verdict, verdict
from vibench.report.metrics_tail import last_step

log = logging.getLogger("vibench")
SHOWN = 30  # rows of a live table; what has ended well is left out first
ORDER = (
    "failed",
    "lost",
    "cancelled",
    "running",
    "preempted",
    "submitted",
    "planned",
    "unknown",
    "refused",
    "pruned",
    "completed",
)


def place_of(launcher: dict[str, Any]) -> Place:
    """
    Args:
        launcher: name and options of a composed launcher.
    """
    return Cluster(launcher["at_once"]) if launcher["name"] == "slurm" else Here(launcher["jobs"])


def of_runs(runs: list[Path], place: Place | None = None) -> dict[Path, Verdict]:
    """The states of runs, wherever they are: what they say, and SLURM of them, asked once for all.

    Args:
        place: a cluster that is known already.
    """
    jobs = [Job(number=number, name="", overrides=[], folder=str(run.absolute())) for number, run in enumerate(runs)]
    alone = Sweep(folder=Path("/"), launcher={}, jobs=jobs)
    if not isinstance(place, Cluster):
        place = Cluster() if has_slurm() and any(jobs_of(run) for run in runs) else None
    try:
        found = verdicts(alone, place)
    except SlurmError as error:
        log.warning(f"{error}: runs are taken at their word")
        found = verdicts(alone, None)
    return {run: found[number] for number, run in enumerate(runs)}


def verdicts(sweep: Sweep, place: Place | None) -> dict[int, Verdict]:
    """Number of a job -> its state now."""
    asked = [job for job in sweep.jobs if not job.refused and job.same_as is None]
    seen = place.look(sweep, asked) if place is not None else {}
    found = {job.number: verdict(sweep, job, seen.get(job.number)) for job in sweep.jobs}
    same = {job.number: Path(job.same_as) for job in sweep.jobs if job.same_as is not None and not job.refused}
    others = of_runs(list(dict.fromkeys(same.values())), place) if same else {}
    return found | {number: replace(others[run], said=f"the result of {run}") for number, run in same.items()}


def watch(
    sweep: Sweep,
    place: Place | None,
    every_s: float,
    console: Console | None = None,
    on_look: Callable[[dict[int, Verdict]], None] = lambda found: None,
) -> dict[int, Verdict]:
    """Wait until every job has its final state; that they are.

    Args:
        every_s: seconds between two looks.
        on_look: is told what was found.
    """
    console = console or Console()
    before: dict[int, Verdict] = {}
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            try:
                found = verdicts(sweep, place)
            except SlurmError as error:  # its controller may be down for a while, and the jobs run on
                say(console, f"{time.strftime('%H:%M:%S')} {error}; asking again")
                time.sleep(every_s)
                continue
            on_look(found)
            if console.is_terminal:
                live.update(live_table(sweep, found), refresh=True)
            else:
                _say_changes(sweep, before, found, console)
            if all(one.final for one in found.values()):
                return found
            before = found
            time.sleep(every_s)


def _say_changes(sweep: Sweep, before: dict[int, Verdict], found: dict[int, Verdict], console: Console) -> None:
    for job in sweep.jobs:
        now, old = found[job.number], before.get(job.number)
        if old is None or (now.state, now.kind, now.number) != (old.state, old.kind, old.number):
            say(console, f"{time.strftime('%H:%M:%S')} {in_words(job, now)}")


def say(console: Console, text: str) -> None:
    """A line as it is, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def in_words(job: Job, one: Verdict) -> str:
    """One job in a line."""
    where = f" (job {one.number}{f' on {one.where}' if one.where else ''})" if one.number else ""
    state = f"{one.state} {one.kind}".strip()
    return f"{job.number} {job.name}: {state}{where}" + (f": {one.said}" if one.said else "")


def counted(found: dict[int, Verdict]) -> str:
    """How many jobs are in each state."""
    counts = Counter(one.state for one in found.values())
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def live_table(sweep: Sweep, found: dict[int, Verdict]) -> Table:
    """The jobs that matter most, and how many there are of each state."""
    title = f"{sweep.folder}: {counted(found)}"
    table = Table(
        "job",
        Column("varies", overflow="fold"),
        "state",
        "at",
        "step",
        Column("what it said", max_width=60),
        title=title,
    )
    jobs = sorted(sweep.jobs, key=lambda job: (ORDER.index(found[job.number].state), job.number))
    shown = sorted(jobs[:SHOWN], key=lambda job: job.number)
    for job in shown:
        one = found[job.number]
        at = " ".join(text for text in (one.number, one.where) if text)
        step = last_step(sweep.run_dir(job)) if one.state in ("running", "preempted") else None
        state = f"{one.state} {one.kind}".strip()
        table.add_row(str(job.number), escape(job.name), state, at, "" if step is None else str(step), escape(one.said))
    if len(jobs) > SHOWN:
        table.caption = f"{len(jobs) - SHOWN} more"
    return table
