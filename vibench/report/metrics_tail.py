"""How far a run is, by the end of its log of metrics."""

import os
from pathlib import Path

BYTES = 4096  # of the end, in which the last line lies


def last_step(run_dir: Path) -> int | None:
    """The optimizer step of the last whole line of ``metrics.csv``; None where there is none yet."""
    try:
        with (run_dir / "metrics.csv").open("rb") as file:
            column = file.readline().decode().rstrip("\n").split(",").index("step")
            file.seek(max(file.seek(0, os.SEEK_END) - BYTES, 0))
            lines = file.read().decode(errors="replace").split("\n")
        return int(lines[-2].split(",")[column])
    except (OSError, ValueError, IndexError):
        return None
