"""Raw files to a store: what was read, what was skipped and why, and nothing half-written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vibench.data.writing import RawRecording, Spool, finite, write_store
from vibench.errors import DataError


class NotWantedError(Exception):
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


def check_writable(store: Path) -> None:
    """Raise a DataError where no file of that name can be made."""
    if store.is_dir():
        raise DataError(f"store={store} is a folder; name a file, e.g. store={store / 'store.h5'}")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"store={store} cannot be made: {error}; name a file in a folder that can be written"
        ) from error


def prepare(
    files: list[Path],
    read: Callable[[Path], RawRecording],
    store: Path,
    *,
    skip_broken: bool = False,
    preparation: dict[str, Any] | None = None,
) -> Prepared:
    """Write every recording among the files to a new store.

    Args:
        read: raises ``NotWantedError`` for a file to skip, ``DataError`` for a broken one.
        skip_broken: write the store without the broken files instead of writing nothing.
        preparation: how the signals are made of the raw ones, for the store to say.

    Raises:
        DataError: nothing to read, or a broken file; the store is then not written.
    """
    check_writable(store)
    done = Prepared()
    bar = (
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}"),
    )
    with Progress(*bar, console=Console(stderr=True)) as progress:
        job = progress.add_task("reading", total=len(files), name="")

        def recordings() -> Iterator[RawRecording]:
            for file in files:
                progress.update(job, name=file.name)
                try:
                    recording = read(file)
                    if not isinstance(recording.signal, Spool):
                        recording.signal = finite(recording.signal, str(file))
                    done.recordings += 1
                    yield recording
                except NotWantedError as reason:
                    done.skipped.append((file, str(reason)))
                except DataError as error:
                    done.broken.append((file, str(error)))
                progress.advance(job)
            if done.broken and not skip_broken:
                raise DataError(_refusal(done))
            if not done.recordings:
                raise DataError(_nothing(files, done))

        write_store(store, recordings(), preparation)
    return done


def _refusal(done: Prepared) -> str:
    lines = [f"  {error}" for _, error in done.broken]
    return "\n".join(
        [f"{len(done.broken)} files cannot be read, nothing was written:", *lines]
        + ["repair or remove them, or leave them out with skip_broken=true"]
    )


def _nothing(files: list[Path], done: Prepared) -> str:
    lines = [f"  {error}" for _, error in done.broken] + [f"  {file}: {reason}" for file, reason in done.skipped[:3]]
    return "\n".join(
        [f"none of the {len(files)} files holds a recording that can be read, nothing was written:", *lines]
    )


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
