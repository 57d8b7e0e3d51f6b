"""Many runs: checked and planned together, then sent to this machine or to SLURM, and watched to their end."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from vibench.config.frozen import thaw
from vibench.errors import ConfigError, VibenchError
from vibench.launch.here import Here
from vibench.launch.place import Place
from vibench.launch.preflight import Checked, Plan, RefusedError, accepted, check, composed, freeze_all, print_checks
from vibench.launch.slurm import jobs_of
from vibench.launch.sweep import FILE, Job, Sweep, claimed
from vibench.launch.verdict import Verdict, verdict
from vibench.launch.watch import counted, of_run, place_of, verdicts, watch
from vibench.report.known_runs import locked, runs_of
from vibench.report.status import amend
from vibench.report.sweep_picture import draw_sweep
from vibench.report.table import SweepRow, print_sweep
from vibench.signals import Stopped, heeded

log = logging.getLogger("vibench")
MORE = 1.5  # times the memory of the host, where the kernel killed the attempt before
GOES_ON = ("running", "submitted", "completed")  # of a run that stands for another of the same config
LOCAL_S = 0.5  # seconds between two looks at this machine


class SweepError(VibenchError):
    """Not all jobs of a sweep are completed."""

    kind = "SWEEP"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.started = True


def submit(
    sweep: Sweep,
    jobs: list[Checked],
    place: Place,
    *,
    skip_refused: bool,
    on_duplicate: str,
    plan: Plan | None = None,
    console: Console | None = None,
) -> None:
    """Check all jobs, then submit those that are good, or none.

    Args:
        plan: as of ``check``.

    Raises:
        RefusedError: some are not good, and they are not to be left out.
    """
    check(sweep, jobs, place, plan)
    with locked() if on_duplicate != "allow" else nullcontext():
        if on_duplicate != "allow":
            _find_same(sweep, jobs, error=on_duplicate == "error")
        print_checks(jobs, console)
        sweep.write()
        refused = [one for one in jobs if one.refused]
        good = [one for one in jobs if not one.refused and one.job.same_as is None]
        if refused and not (skip_refused and len(refused) < len(jobs)):
            raise RefusedError(
                f"{len(refused)} of {len(jobs)} jobs are refused, nothing was started; mend them, then "
                f"vibench-status {sweep.folder} --rerun refused,planned, or leave them out by "
                "hydra.launcher.skip_refused=true"
            )
        freeze_all(sweep, good)
        place.submit(sweep, [one.request() for one in good])


def _find_same(sweep: Sweep, jobs: list[Checked], *, error: bool) -> None:
    """Leave out what another run is at, or has completed, with the same config; the first one in a sweep stays."""
    first: dict[str, Job] = {}
    for one in jobs:
        if one.refused or one.job.config_hash is None:
            continue
        own = sweep.run_dir(one.job).absolute()
        same = [run for run in runs_of(one.job.config_hash) if run != own and of_run(run).state in GOES_ON]
        if one.job.config_hash in first:
            same.append(sweep.run_dir(first[one.job.config_hash]).absolute())
        if same and error:
            one.refused.append(
                f"{same[-1]} is a run of the same config; change it, or use hydra.launcher.on_duplicate=skip"
            )
            one.job.refused = one.refused
        elif same:
            one.job.same_as = str(same[-1])
        first.setdefault(one.job.config_hash, one.job)


def rerun(sweep: Sweep, states: set[str], place: Place, console: Console | None = None) -> list[Job]:
    """Submit the jobs in these states again, into the same directories; which they are.

    What was refused is composed anew, so that what was mended counts; the others go on with the config they have. Of
    what the kernel killed for memory the next attempt asks for more.

    Raises:
        RefusedError: some of them cannot be run.
    """
    found = verdicts(sweep, place)
    again: list[Checked] = []
    for job in sweep.jobs:
        one = found[job.number]
        if one.state not in states or not one.final:
            continue
        if job.refused or not (sweep.run_dir(job) / "config.yaml").exists():
            again.append(composed(job, sweep.config_dir))
            continue
        again.append(accepted(job, thaw(sweep.run_dir(job), [])))
        entries = jobs_of(sweep.run_dir(job))
        if one.kind == "MEMORY" and "kernel" in one.said and entries:
            again[-1].mem_mb = int(entries[-1]["mem_mb"] * MORE)
    if again:
        with claimed(sweep.folder, wait=True):
            submit(sweep, again, place, skip_refused=False, on_duplicate="allow", console=console)
    return [one.job for one in again]


def launch(
    folder: Path,
    launcher: dict[str, Any],
    jobs: list[Checked],
    config_dir: str | None,
    console: Console | None = None,
) -> dict[int, Verdict]:
    """Run a sweep in a directory, or go on with it there.

    Raises:
        RefusedError: nothing was submitted.
        SweepError: not all jobs are completed, as the table says.
        Stopped: by a signal; jobs of SLURM run on, those of this machine saved what they had.
        ConfigError: the directory holds another sweep.
    """
    with heeded() as ignore_signals:
        place = place_of(launcher)
        with claimed(folder, wait=True):
            sweep = joined(folder, launcher, jobs, config_dir)
            before = verdicts(sweep, place)
            waiting = [one for one in jobs if before[one.job.number].state not in GOES_ON]
            if waiting:
                skip, same = launcher["skip_refused"], launcher["on_duplicate"]
                submit(sweep, waiting, place, skip_refused=skip, on_duplicate=same, console=console)
        if launcher.get("detach"):
            print(f"{counted(verdicts(sweep, place))}; vibench-status {folder} says what becomes of them")
            return {}
        found = attend(sweep, place, launcher, console)
        ignore_signals()
        return found


def joined(folder: Path, launcher: dict[str, Any], jobs: list[Checked], config_dir: str | None) -> Sweep:
    """The sweep with these jobs in it: new, or one that was begun in that directory.

    Raises:
        ConfigError: that was another one.
    """
    known: dict[int, Job] = {}
    if (folder / FILE).exists():
        known = {job.number: job for job in Sweep.read(folder).jobs}
    for one in jobs:
        before = known.get(one.job.number)
        if before is not None and sorted(before.overrides) != sorted(one.job.overrides):
            raise ConfigError(
                [
                    f"hydra.sweep.dir={folder} holds another sweep: its job {before.number} is {before.name}; name "
                    "another directory"
                ]
            )
    every = known | {one.job.number: one.job for one in jobs}
    return Sweep(folder=folder, launcher=launcher, jobs=list(every.values()), config_dir=config_dir)


def attend(
    sweep: Sweep,
    place: Place,
    launcher: dict[str, Any],
    console: Console | None = None,
    on_look: Callable[[dict[int, Verdict]], None] = lambda found: None,
) -> dict[int, Verdict]:
    """Watch a sweep to its end and show what came of it.

    Raises:
        SweepError: not all jobs are completed.
        Stopped: by a signal.
    """
    try:
        found = watch(sweep, place, launcher.get("poll_s", LOCAL_S), console, on_look)
    except Stopped:
        if stopped_here(sweep, place):
            show(sweep, verdicts(sweep, place), console)
            print(f"stopped; vibench-status {sweep.folder} --rerun cancelled,planned goes on")
        else:
            print(
                f"detached, the jobs run on: vibench-status {sweep.folder} shows them, --watch waits for them, "
                "--cancel ends them"
            )
        raise
    show(sweep, found, console)
    if any(one.state != "completed" for one in found.values()):
        raise SweepError(f"{counted(found)}; vibench-status {sweep.folder} --rerun failed,lost goes on with them")
    return found


def stopped_here(sweep: Sweep, place: Place | None) -> bool:
    """End the jobs of a sweep that run on this machine, with time to save; whether it is one."""
    if not isinstance(place, Here):
        return False
    place.cancel(sweep, sweep.jobs)
    for job in sweep.jobs:
        if not job.refused and verdict(sweep, job, None).state == "submitted":
            amend(sweep.run_dir(job), state="planned", pid=None, error="the sweep was stopped before it began")
    return True


def show(sweep: Sweep, found: dict[int, Verdict], console: Console | None = None) -> None:
    """The table of results, and what is to be said of the jobs without one."""
    console = console or Console()
    rows = [
        SweepRow(job.name, f"{one.state} {one.kind}".strip(), one.status, one.said)
        for job, one in ((job, found[job.number]) for job in sweep.jobs)
    ]
    print_sweep(rows)
    draw_sweep(rows, sweep.folder / "sweep.svg")
    console.print(counted(found), highlight=False)
