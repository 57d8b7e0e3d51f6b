"""``vibench-status DIR...``: the state of every run below the directories.

Exit status: 0 all are completed, 1 not all, 2 there is no run.
"""

import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vibench.report.status import read_status

USAGE = """usage: vibench-status DIR...

The state of every run below the directories: completed, running, failed (and of what kind), cancelled, or lost: its
process is gone and said nothing. Exit status 0 only if all are completed.
"""


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    runs = sorted({path.parent for folder in arguments for path in Path(folder).rglob("status.json")})
    if not runs:
        print(
            f"vibench-status: no run below {', '.join(arguments)}; name a run directory or one above it",
            file=sys.stderr,
        )
        sys.exit(2)
    statuses = {run: read_status(run) for run in runs}
    table = Table("run", "state", "kind", "what it said")
    for run, status in statuses.items():
        table.add_row(str(run), status["state"], status.get("kind", ""), status.get("error", "").split("\n")[0][:120])
    Console().print(table)
    counts = Counter(status["state"] for status in statuses.values())
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
    sys.exit(0 if set(counts) == {"completed"} else 1)
