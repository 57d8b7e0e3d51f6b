"""Many runs: checked and planned together, then sent to this machine or to SLURM, and watched to their end."""

import logging
import os
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from vibench.config import frozen
from vibench.errors import ConfigError, VibenchError
from vibench.launch.here import Here
from vibench.launch.place import Place
from vibench.launch.preflight import Checked, Plan, RefusedError, accepted, check, composed, freeze_all, print_checks
from vibench.launch.slurm import MORE_MEMORY, SlurmError, jobs_of
from vibench.launch.sweep import FILE, Job, Sweep, claimed
from vibench.launch.verdict import Verdict
from vibench.launch.watch import counted, of_runs, place_of, verdicts, watch
from vibench.report.known_runs import locked, runs_of
from vibench.report.status import amend
from vibench.report.sweep_picture import draw_sweep
from vibench.report.table import SweepRow, print_sweep
from vibench.signals import Stopped, heeded

log = logging.getLogger("vibench")
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
                f"vibench-status {sweep.folder} --rerun refused,planned"
                + (", or leave them out by hydra.launcher.skip_refused=true" if len(refused) < len(jobs) else "")
            )
        freeze_all(sweep, good)
        place.submit(sweep, [one.request() for one in good])


def goes_on(one: Verdict) -> bool:
    """Whether a run is completed, or will be without anybody's doing."""
    return one.state == "completed" or not one.final


def _find_same(sweep: Sweep, jobs: list[Checked], *, error: bool) -> None:
    """Leave out what another run is at, or has completed, with the same config; the first one in a sweep stays."""
    wanted = [one for one in jobs if not one.refused and one.job.config_hash is not None]
    own = {sweep.run_dir(one.job).absolute() for one in wanted}
    others = {one.job.number: [run for run in runs_of(str(one.job.config_hash)) if run not in own] for one in wanted}
    known = of_runs(list(dict.fromkeys(run for runs in others.values() for run in runs)))
    first: dict[str, Path] = {}
    for one in wanted:
        same = [run for run in others[one.job.number] if goes_on(known[run])]
        earlier = first.setdefault(str(one.job.config_hash), sweep.run_dir(one.job).absolute())
        if earlier != sweep.run_dir(one.job).absolute():
            same.append(earlier)
        if same and error:
            remedy = "change it, or use hydra.launcher.on_duplicate=skip"
            one.refused.append(f"{same[-1]} is a run of the same config; {remedy}")
            one.job.refused = one.refused
        elif same:
            one.job.same_as = str(same[-1])


def rerun(sweep: Sweep, states: set[str], place: Place, console: Console | None = None) -> list[Job]:
    """Submit the jobs in these states again, into the same directories; which they are.

    What was refused is composed anew, so that what was mended counts; the others go on with the config they have. Of
    what the kernel killed for memory the next attempt asks for more.

    Raises:
        RefusedError: some of them cannot be run.
    """
    with claimed(sweep.folder, wait=False):
        sweep.jobs = Sweep.read(sweep.folder).jobs  # as they are now
        sweep.claim()
        found = verdicts(sweep, place)
        again = [_again(sweep, job, found[job.number]) for job in sweep.jobs if _is_in(found[job.number], states)]
        if again:
            submit(sweep, again, place, skip_refused=False, on_duplicate="allow", console=console)
    return [one.job for one in again]


def _is_in(one: Verdict, states: set[str]) -> bool:
    return one.final and one.state in states


def _again(sweep: Sweep, job: Job, one: Verdict) -> Checked:
    """A job that is to be submitted once more."""
    run_dir = sweep.run_dir(job)
    fresh = job.refused or job.same_as is not None or not (run_dir / frozen.FILE).exists()
    job.refused, job.same_as = [], None
    if fresh:
        if sweep.config_name is not None:
            remedy = f"type the line of the sweep again, with hydra.sweep.dir={sweep.folder}"
            raise ConfigError([f"job {job.number} was composed from --config-name {sweep.config_name}; {remedy}"])
        return composed(job, sweep.config_dir)
    checked = accepted(job, frozen.thaw(run_dir, []))
    entries = jobs_of(run_dir)
    if one.kind == "MEMORY" and "kernel" in one.said and entries:
        checked.mem_mb = int(entries[-1]["mem_mb"] * MORE_MEMORY)
    return checked


def launch(sweep: Sweep, jobs: list[Checked], console: Console | None = None) -> dict[int, Verdict]:
    """Run a sweep in its directory, or go on with it there.

    Raises:
        RefusedError: nothing was submitted.
        SweepError: not all jobs are completed, as the table says.
        Stopped: by a signal; jobs of SLURM run on, those of this machine saved what they had.
        ConfigError: the directory holds another sweep.
    """
    with heeded() as ignore_signals:
        place = place_of(sweep.launcher)
        try:
            with claimed(sweep.folder, wait=True):
                _submit_rest(sweep, jobs, place, console)
        except Stopped:
            _say_detached(sweep, place, console)
            raise
        if sweep.launcher.get("detach"):
            print(f"{counted(verdicts(sweep, place))}; vibench-status {sweep.folder} says what becomes of them")
            return {}
        found = attend(sweep, place, console)
        ignore_signals()
        return found


def _submit_rest(sweep: Sweep, jobs: list[Checked], place: Place, console: Console | None) -> None:
    """What is neither completed nor on its way to it."""
    join(sweep, jobs)
    before = verdicts(sweep, place)
    waiting = [one for one in jobs if one.job.refused or not goes_on(before[one.job.number])]
    if not waiting:
        return
    for one in waiting:
        one.job.same_as = None  # is looked for again
    skip, same = sweep.launcher["skip_refused"], sweep.launcher["on_duplicate"]
    try:
        submit(sweep, waiting, place, skip_refused=skip, on_duplicate=same, console=console)
    except SlurmError as error:
        if not error.started:
            raise
        log.error(str(error))  # the others are, and are watched


def join(sweep: Sweep, jobs: list[Checked]) -> None:
    """Put jobs into a sweep, with what its directory holds of it.

    Raises:
        ConfigError: it holds another sweep, or two jobs would have one directory.
    """
    known: dict[int, Job] = {}
    if (sweep.folder / FILE).exists():
        known = {job.number: job for job in Sweep.read(sweep.folder).jobs}
    for one in jobs:
        before = known.get(one.job.number)
        if before is not None and sorted(before.overrides) != sorted(one.job.overrides):
            told = f"its job {before.number} is {before.name}; name another directory"
            raise ConfigError([f"hydra.sweep.dir={sweep.folder} holds another sweep: {told}"])
        if before is not None:
            one.job.same_as = before.same_as
    sweep.jobs = list((known | {one.job.number: one.job for one in jobs}).values())
    places: dict[str, int] = {}
    for job in sweep.jobs:
        run_dir, inside = os.path.abspath(sweep.run_dir(job)), os.path.abspath(sweep.folder) + os.sep
        other = places.setdefault(run_dir, job.number)
        if other != job.number or not run_dir.startswith(inside):
            why = f"that of job {other}, too" if other != job.number else "not below hydra.sweep.dir"
            raise ConfigError(
                [f"hydra.sweep.subdir gives job {job.number} the directory {run_dir}, {why}; use ${{hydra.job.num}}"]
            )


def attend(sweep: Sweep, place: Place | None, console: Console | None = None) -> dict[int, Verdict]:
    """Watch a sweep to its end and show what came of it.

    Raises:
        SweepError: not all jobs are completed.
        Stopped: by a signal.
    """
    try:
        found = watch(sweep, place, sweep.launcher.get("poll_s", LOCAL_S), console)
    except Stopped:
        _say_detached(sweep, place, console)
        raise
    show(sweep, found, console)
    if any(one.state != "completed" for one in found.values()):
        raise SweepError(f"{counted(found)}; vibench-status {sweep.folder} --rerun failed,lost goes on with them")
    return found


def _say_detached(sweep: Sweep, place: Place | None, console: Console | None) -> None:
    """What becomes of the jobs of a sweep that nobody waits for any more; those of this machine are ended."""
    if not (sweep.folder / FILE).exists():
        return  # there are none yet
    if stopped_here(sweep, place):
        show(sweep, verdicts(sweep, place), console)
        print(f"stopped; vibench-status {sweep.folder} --rerun cancelled,planned goes on")
    elif sweep.on_slurm:
        what = "shows them, --watch waits for them, --cancel ends them"
        print(f"detached, jobs that were submitted run on: vibench-status {sweep.folder} {what}")


def stopped_here(sweep: Sweep, place: Place | None) -> bool:
    """End the jobs of a sweep that run on this machine, with time to save; whether it is one."""
    if not isinstance(place, Here):
        return False
    for job in place.cancel(sweep, sweep.jobs):
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
