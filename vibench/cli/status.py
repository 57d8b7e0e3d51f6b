"""``vibench-status DIR...``: the state of every run below the directories.

Exit status: 0 all are completed, 1 not all, 2 there is no run.
"""

import sys
from collections import Counter
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table

from vibench.report.status import read_status
from vibench.report.table import events_in_words

USAGE = """usage: vibench-status DIR...

The state of every run below the directories: completed, running, failed (and of what kind), cancelled, or lost: its
process is gone and said nothing. vibench-resume RUN goes on with what is not completed. Exit status 0 only if all are.
"""


def runs_below(folder: Path) -> set[Path]:
    """Directories of runs: those that say so, those that began and did not get to it, and the jobs a sweep promised."""
    runs = {path.parent for path in folder.rglob("status.json")} | {path.parent for path in folder.rglob(".hydra")}
    for sweep in folder.rglob("multirun.yaml"):
        runs |= {sweep.parent / str(number) for number in range(promised_jobs(sweep))}
    return runs


def promised_jobs(sweep: Path) -> int:
    """Jobs of a sweep in numbered directories, by what was typed; 0 where they are named otherwise."""
    hydra = OmegaConf.load(sweep).hydra
    if OmegaConf.to_container(hydra.sweep, resolve=False)["subdir"] != "${hydra.job.num}":
        return 0
    typed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    return sum(len(batch) for batch in BasicSweeper.split_arguments(typed, None))


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    runs = sorted({run for folder in arguments for run in runs_below(Path(folder))})
    if not runs:
        print(
            f"vibench-status: no run below {', '.join(arguments)}; name a run directory or one above it",
            file=sys.stderr,
        )
        sys.exit(2)
    statuses = {run: read_status(run) for run in runs}
    table = Table(Column("run", overflow="fold"), "state", "kind", "what it said")
    for run, status in statuses.items():
        said = status.get("error", "").split("\n")[0] or next(iter(events_in_words(status.get("events", []))[-1:]), "")
        table.add_row(str(run), status["state"], status.get("kind", ""), said[:120])
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)
    counts = Counter(status["state"] for status in statuses.values())
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    sys.exit(0 if set(counts) == {"completed"} else 1)
