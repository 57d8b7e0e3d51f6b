"""``vibench-status DIR...``: the state of every run and every sweep below the directories; watch, cancel, run again.

Exit status: 0 all are completed, 1 not all, 2 there is no run, or nothing could be done.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from vibench.cli.train import end, refuse
from vibench.config import schemas
from vibench.errors import ConfigError, VibenchError
from vibench.launch.launch import attend, rerun, show
from vibench.launch.slurm import SlurmError
from vibench.launch.sweep import FILE as MANIFEST
from vibench.launch.sweep import Sweep
from vibench.launch.verdict import Verdict
from vibench.launch.watch import counted, of_runs, place_of, verdicts
from vibench.report.status import is_alive
from vibench.report.table import events_in_words
from vibench.signals import Stopped, heeded

USAGE = """usage: vibench-status DIR... [--watch | --cancel | --rerun STATE[,STATE...] [--detach]]

  vibench-status multirun_outputs               the state of every run and sweep below
  vibench-status SWEEP                          a verdict for each job, of what it says and of what SLURM says of it
  vibench-status SWEEP --watch                  until all have their final one
  vibench-status SWEEP --cancel                 end what is waiting or running, with time to save
  vibench-status SWEEP --rerun failed,lost      go on with these, in the same directories; then watch, or --detach

States: planned, submitted, running, preempted (waits to go on), completed, failed (and of what kind), cancelled, lost
(gone without a word), refused, pruned. vibench-resume RUN goes on with a single run. Exit status 0 only if all are
completed.
"""
STATES = ("failed", "lost", "refused", "cancelled", "preempted", "planned", "unknown")
PATIENCE_S = 600.0  # for the last step of what is cancelled


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    schemas.register()
    try:
        folders, flags = _read(arguments)
        if flags:
            sys.exit(_act(Sweep.read(_only(folders)), flags))
        sys.exit(_tell(folders))
    except ConfigError as error:
        refuse(error.complaints, "vibench-status")
    except VibenchError as error:
        if not error.started:
            refuse([str(error)], "vibench-status")
        print(f"vibench-status: {error}", file=sys.stderr)
        sys.exit(1)
    except (Stopped, KeyboardInterrupt) as stopped:
        end(stopped, "vibench-status")


def _read(arguments: list[str]) -> tuple[list[Path], dict[str, str]]:
    """Directories, and flags with their values."""
    folders, flags, waiting = [], {}, list(arguments)
    while waiting:
        text = waiting.pop(0)
        flag, _, value = text.partition("=")
        if not text.startswith("-"):
            folders.append(Path(text))
        elif flag == "--rerun":
            flags[flag] = value or (waiting.pop(0) if waiting else "")
        elif flag in ("--watch", "--cancel", "--detach"):
            flags[flag] = ""
        else:
            raise ConfigError([f"{flag} does not exist; there are --watch, --cancel, --rerun, --detach and --help"])
    if "--rerun" in flags and (wrong := [s for s in flags["--rerun"].split(",") if s not in STATES]):
        raise ConfigError([f"--rerun {wrong[0] or 'without a state'}: give states, of {', '.join(STATES)}"])
    if "--detach" in flags and "--rerun" not in flags:
        raise ConfigError(["--detach goes with --rerun: nothing else waits; leave it out"])
    if "--cancel" in flags and len(flags) > 1:
        raise ConfigError(["--cancel ends a sweep; use it alone"])
    return folders, flags


def _only(folders: list[Path]) -> Path:
    if len(folders) != 1:
        raise ConfigError([f"name one sweep for that, there are {len(folders)}: {' '.join(map(str, folders))}"])
    return folders[0]


def _act(sweep: Sweep, flags: dict[str, str]) -> int:
    """Watch, cancel or run again; the exit status."""
    if "--detach" in flags and not sweep.on_slurm:
        raise ConfigError(["--detach leaves jobs to SLURM, this sweep runs on this machine; leave it out"])
    if "--cancel" in flags:
        _cancel(sweep)
        return 0
    place = place_of(sweep.launcher)
    with heeded():
        if "--rerun" in flags:
            if not rerun(sweep, set(flags["--rerun"].split(",")), place):
                states = flags["--rerun"].replace(",", " or ")
                raise ConfigError([f"no job of {sweep.folder} is {states}; nothing was done"])
            if "--detach" in flags:
                print(f"{counted(verdicts(sweep, place))}; vibench-status {sweep.folder} says what becomes of them")
                return 0
        alone = "--rerun" not in flags and not sweep.on_slurm  # another process has begun the jobs
        attend(sweep, None if alone else place)
    return 0


def _cancel(sweep: Sweep) -> None:
    """End the process that begins the jobs of a sweep, then the jobs that are left.

    Raises:
        ConfigError: they are on another machine.
    """
    found = _known(sweep)
    left = [job for job in sweep.jobs if not found[job.number].final and job.same_as is None]
    parent = sweep.parent or {}
    if is_alive(parent) and (sweep.search or not sweep.on_slurm):
        os.kill(parent["pid"], signal.SIGTERM)  # which ends the jobs of this machine, too
        _wait_for([parent])
    if sweep.on_slurm:
        place_of(sweep.launcher).end(sweep, left)
    else:
        running = [one.status for one in found.values() if one.state == "running"]
        if away := {one["host"] for one in running if one["host"] != socket.gethostname()}:
            raise ConfigError([f"jobs of {sweep.folder} run on {', '.join(sorted(away))}; cancel them there"])
        for one in filter(is_alive, running):
            os.kill(one["pid"], signal.SIGTERM)
        _wait_for(running)
    print(f"{len(left)} jobs were told to end; vibench-status {sweep.folder}")


def _wait_for(processes: list[dict[str, Any]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)


def _tell(folders: list[Path]) -> int:
    """Print all there is; the exit status."""
    sweeps = sorted({path.parent for folder in folders for path in folder.rglob(MANIFEST)})
    found: list[Verdict] = []
    covered: set[Path] = set()
    for folder in sweeps:
        sweep = Sweep.read(folder)
        known = _known(sweep)
        if len(sweeps) > 1:
            print(folder)
        show(sweep, known)
        found += known.values()
        covered |= {folder} | {sweep.run_dir(job) for job in sweep.jobs}
    runs = sorted({run for folder in folders for run in runs_below(folder)} - covered)
    if runs:
        single = of_runs(runs)
        _show_runs(single)
        found += single.values()
    if not found:
        names = ", ".join(map(str, folders))
        raise ConfigError([f"no run below {names}; name a run directory or one above it"])
    return 0 if all(one.state == "completed" for one in found) else 1


def _known(sweep: Sweep) -> dict[int, Verdict]:
    """Its verdicts; jobs on this machine say all themselves, and so do those of a SLURM that does not answer."""
    if not sweep.on_slurm:
        return verdicts(sweep, None)
    try:
        return verdicts(sweep, place_of(sweep.launcher))
    except SlurmError as error:
        print(f"vibench-status: {error}; of {sweep.folder} only what its runs said is known", file=sys.stderr)
        return verdicts(sweep, None)


def _show_runs(found: dict[Path, Verdict]) -> None:
    table = Table(Column("run", overflow="fold"), "state", "kind", "what it said")
    for run, one in found.items():
        said = one.said or next(iter(events_in_words(one.status.get("events", []))[-1:]), "")
        table.add_row(escape(str(run)), one.state, one.kind, escape(said[:120]))
    Console(width=None if Console().is_terminal else 200).print(table)
    print(counted({number: one for number, one in enumerate(found.values())}))


def runs_below(folder: Path) -> set[Path]:
    """Directories of runs: those that say so, those that began and did not get to it, and the jobs a sweep promised."""
    runs = {path.parent for path in folder.rglob("status.json")} | {path.parent for path in folder.rglob(".hydra")}
    for sweep in folder.rglob("multirun.yaml"):
        if not (sweep.parent / MANIFEST).exists():  # of another launcher
            runs |= {sweep.parent / str(number) for number in range(promised_jobs(sweep))}
    return runs


def promised_jobs(sweep: Path) -> int:
    """Jobs of a sweep in numbered directories, by what was typed; 0 where they are named otherwise."""
    hydra = OmegaConf.load(sweep).hydra
    if OmegaConf.to_container(hydra.sweep, resolve=False)["subdir"] != "${hydra.job.num}":
        return 0
    typed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    return sum(len(batch) for batch in BasicSweeper.split_arguments(typed, None))
