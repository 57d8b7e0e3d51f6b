"""What runs really took, kept per kind of card in the user's cache, so that predictions are corrected by use.

One line of JSON per run, appended at its end; a line that cannot be read is passed over.
"""

import json
import logging
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger("vibench")
ENOUGH, RECENT = 5, 50  # runs of a card before its measured peaks are believed; and the last ones that count
SURE = 3  # runs of a backbone and a precision before another is refused by their pace


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One run: what was measured over what was predicted; None where either is unknown.

    Attributes:
        hardware: name of the group, or of the card where that is ``local``.
        peak, step: of the memory that the allocator reserved, and of the seconds of a step.
    """

    hardware: str
    backbone: str
    precision: str
    peak: float | None
    step: float | None


def file() -> Path:
    """Where the lines are."""
    return Path(os.environ.get("VIBENCH_CACHE", "~/.cache/vibench")).expanduser() / "measured.jsonl"


def remember(run: Measured) -> None:
    """Append a run; a cache that cannot be written is no reason for it to fail."""
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        cut = file().exists() and file().read_bytes()[-1:] not in (b"", b"\n")  # by a full disk
        with file().open("a") as lines:
            lines.write(("\n" if cut else "") + json.dumps(asdict(run)) + "\n")
    except OSError as error:
        log.warning(f"what this run took is not remembered: {error}")


def known(hardware: str) -> list[Measured]:
    """The last runs on that hardware, oldest first."""
    try:
        lines = file().read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            run = Measured(**json.loads(line))
            float(run.peak or 0), float(run.step or 0)
        except (ValueError, TypeError):
            continue
        if run.hardware == hardware:
            found.append(run)
    return found[-RECENT:]


def worst_peak(runs: list[Measured]) -> float | None:
    """The largest measured peak over its prediction; None before there are enough."""
    peaks = [run.peak for run in runs if run.peak is not None]
    return max(peaks) if len(peaks) >= ENOUGH else None


def is_sure(runs: list[Measured], backbone: str, precision: str) -> bool:
    """Whether enough runs of the same kind were timed to refuse one by them."""
    return sum(run.step is not None and (run.backbone, run.precision) == (backbone, precision) for run in runs) >= SURE


def pace(runs: list[Measured], backbone: str, precision: str) -> float | None:
    """Seconds of a step over the predicted ones: the median of the likest runs there are; None without any."""
    timed = [run for run in runs if run.step is not None]
    alike = [run for run in timed if (run.backbone, run.precision) == (backbone, precision)]
    steps = [run.step for run in alike or timed]
    return statistics.median(steps) if steps else None
