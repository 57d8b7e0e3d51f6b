"""``vibench-predict RUN FILE.edf...``: the seizures of records, by the model of a run.

Exit status: 0 every file was read; 1 some were not, and are named; 2 nothing was begun.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from vibench.cli.train import refuse
from vibench.config import schemas
from vibench.errors import ConfigError, VibenchError
from vibench.report.seizure_picture import stem_of

USAGE = """usage: vibench-predict RUN FILE.edf... [out=DIR]

  vibench-predict multirun_outputs/2026-11-20/15-12-09 record.edf    writes record_desc-vibench_events.tsv and .svg
  out=DIR                                                            where to; else the present folder

RUN is a completed run with task=seizure_detection; its validation has chosen the threshold. A record is prepared as the
run's data was, read a piece at a time, and may last for days. Where annotations lie beside it, it is scored (SzCORE).
"""


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    schemas.register()
    try:
        run, files, out = _read(arguments)
        failed = _predict(run, files, out)
    except VibenchError as error:
        refuse(error.complaints if isinstance(error, ConfigError) else [str(error)], "vibench-predict")
    sys.exit(1 if failed else 0)


def _read(arguments: list[str]) -> tuple[Path, list[Path], Path]:
    """
    Raises:
        ConfigError: with everything that is wrong.
    """
    settings = [text for text in arguments if text.startswith("out=")]
    named = [text for text in arguments if text not in settings]
    files = [Path(text).expanduser() for text in named[1:]]
    complaints = [f"{text} is no option; there are out=DIR and --help" for text in named if text.startswith("-")]
    complaints += [
        f"{file} does not exist; name an EDF file" for file in files if not (file.is_file() or str(file)[0] == "-")
    ]
    if not files:
        complaints.append("no record is named; use vibench-predict RUN FILE.edf...")
    tables = [f"{stem_of(file)}.tsv" for file in files]
    complaints += [
        f"{tables.count(name)} records would write {name}; predict them one by one" for name in _twice(tables)
    ]
    if len(settings) > 1:
        complaints.append(f"out is given {len(settings)} times; give it once")
    out = Path(settings[0][4:] if settings else ".").expanduser()
    if not complaints:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            complaints.append(f"out={out} cannot be made: {error.strerror}; name a folder that can be written")
    if complaints:
        raise ConfigError(complaints)
    return Path(named[0]).expanduser(), files, out


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _predict(run: Path, files: list[Path], out: Path) -> list[Path]:
    """Files that could not be read; of the others a line each."""
    from rich.console import Console
    from rich.progress import Progress

    from vibench.prediction import Prediction, load_detector, predict

    detector = load_detector(run)
    found: list[Prediction] = []
    failed: list[Path] = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for file in files:
            job = bar.add_task(file.name, total=1.0)
            try:
                told = partial(_advance, bar, job)
                found.append(predict(detector, file, out, progress=told))
            except VibenchError as error:
                print(f"vibench-predict: {error}", file=sys.stderr)
                failed.append(file)
            bar.remove_task(job)
    if found:
        _show(found, detector.task.threshold)
    return failed


def _advance(bar: Any, job: Any, done: float) -> None:
    bar.update(job, completed=done)


def _in_words(event: tuple[float, float], confidence: float) -> str:
    return f"{event[0]:.1f} to {event[1]:.1f} s, {confidence:.2f}"


def _show(found: list, threshold: float) -> None:
    """One row a record; a score that is not defined is a dash, not 0 and not 1."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("record", "hours", "seizures", "annotated", "found", "false alarms", "files")
    for each in found:
        known = each.counts is not None
        table.add_row(
            escape(each.file.name),
            f"{each.duration_s / 3600:.2f}",
            "\n".join(map(_in_words, each.events, each.confidences)) or "none",
            f"{each.counts.event.total:g}" if known else "-",
            f"{each.counts.event.tp[0]:g}" if known and each.counts.event.total else "-",
            f"{each.counts.event.fp[0]:g}" if known else "-",
            escape("\n".join(path.name for path in each.written)),
        )
    console = Console()
    Console(width=None if console.is_terminal else 160).print(table)
    print(f"threshold {threshold:.3f}, chosen by the validation of the run")
