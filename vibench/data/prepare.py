"""Raw files to a store: what was read, what was skipped and why, and nothing half-written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vibench.data.store import RawRecording, check_finite, write_store
from vibench.errors import DataError


class NotWanted(Exception):
    """A file that holds no recording of the data set: skipped with this reason."""


@dataclass(kw_only=True, slots=True)
class Prepared:
    """What became of a folder of raw files.

    Attributes:
        skipped: (file, reason): files that hold no recording.
        broken: (file, reason): files that should hold one and cannot be read.
    """

    recordings: int = 0
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    broken: list[tuple[Path, str]] = field(default_factory=list)


def prepare(
    files: list[Path], read: Callable[[Path], RawRecording], store: Path, *, skip_broken: bool = False
) -> Prepared:
    """Write every recording among the files to a new store.

    Args:
        read: raises ``NotWanted`` for a file to skip, ``DataError`` for a broken one.
        skip_broken: write the store without the broken files instead of writing nothing.

    Raises:
        DataError: nothing to read, or a broken file; the store is then not written.
    """
    done = Prepared()
    bar = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[name]}"))
    with Progress(*bar) as progress:
        job = progress.add_task("reading", total=len(files), name="")

        def recordings() -> Iterator[RawRecording]:
            for file in files:
                progress.update(job, name=file.name)
                try:
                    recording = read(file)
                    check_finite(recording.signal, str(file))
                    done.recordings += 1
                    yield recording
                except NotWanted as reason:
                    done.skipped.append((file, str(reason)))
                except DataError as error:
                    done.broken.append((file, str(error)))
                progress.advance(job)
            if done.broken and not skip_broken:
                raise DataError(_refusal(done))
            if not done.recordings:
                raise DataError(_nothing(files, done))

        write_store(store, recordings())
    return done


def _refusal(done: Prepared) -> str:
    lines = [f"  {error}" for _, error in done.broken]
    return "\n".join(
        [f"{len(done.broken)} files cannot be read, nothing was written:", *lines]
        + ["repair or remove them, or leave them out with skip_broken=true"]
    )


def _nothing(files: list[Path], done: Prepared) -> str:
    reasons = f"; e.g. {done.skipped[0][0]}: {done.skipped[0][1]}" if done.skipped else ""
    return f"none of the {len(files)} files holds a recording, nothing was written{reasons}"


def files_below(raw: Path) -> list[Path]:
    """Every file of a folder and its sub-folders, in order of name.

    Raises:
        DataError: no such folder, or nothing in it.
    """
    if not raw.is_dir():
        raise DataError(f"raw={raw} is not a folder; give the folder that holds the raw files")
    files = sorted(path for path in raw.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise DataError(f"raw={raw} is empty; give the folder that holds the raw files")
    return files
