"""Checkpoints: whole or not there, sealed by a checksum, and of plain types only."""

import hashlib
import logging
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from vibench.errors import VibenchError

log = logging.getLogger("vibench")
PIECE = 2**20  # bytes that are hashed at once


class CheckpointError(VibenchError):
    """A checkpoint cannot be written or read, or is not of this model."""


FORMAT = 1  # of what a run needs to go on; another is not read
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
SEAL = b"vibench sha256 "  # then the digest of all bytes before it, in hex: readers of zip files pass over it
SEAL_BYTES = len(SEAL) + 64
ZIP_END, ZIP_END_BYTES = b"PK\5\6", 22  # what a zip file without a comment ends with


class _Sealing:
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_checkpoint(checkpoint: dict[str, Any], path: Path, *, previous: Path | None = None) -> None:
    """Write beside the checkpoint, to the disk, and rename: a crash, a full disk, a power cut leaves the old one.

    Args:
        previous: where the old one is kept.

    Raises:
        CheckpointError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            sealing = _Sealing(file)
            torch.save(checkpoint, sealing)
            file.write(SEAL + sealing.digest.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        _to_disk(path.parent)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be written: {_cause(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _to_disk(folder: Path) -> None:
    """The names of its files, too."""
    with suppress(OSError):  # some file systems know no such thing
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def newest_good(folder: Path) -> tuple[tuple[dict[str, Any], Path] | None, list[str]]:
    """The newest checkpoint of a run from which it can go on, and its file; None where there is no good one.

    Returns:
        them, and what is to be said of those that are damaged and passed over.
    """
    found: list[tuple[dict[str, Any], Path]] = []
    said: list[str] = []
    for name in (LAST, PREVIOUS, BEST):
        path = folder / name
        if not path.exists():
            continue
        try:
            checkpoint = read_checkpoint(path, sealed=True)
        except CheckpointError as error:
            said.append(f"{error}; looking for an older one")
            log.warning(said[-1])
            continue
        if name == LAST:
            return (checkpoint, path), said
        found.append((checkpoint, path))
    newest = max(found, key=lambda one: (one[0]["vibench"]["steps_done"], one[0]["vibench"]["epoch"]), default=None)
    return newest, said


def _cause(error: BaseException) -> BaseException:
    """The operating system's words, which torch's writer buries under its own ("unexpected pos")."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, OSError):
        link = link.__context__
    return link or error


def _load(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "torchao" not in str(error):
            raise
        try:
            import torchao.optim  # noqa: F401  says that its optimizer state is safe to read
        except ImportError as absent:
            raise CheckpointError(
                f"{path} holds an optimizer state of 8 bits, and torchao is not installed ({absent}); "
                "pip install 'vibench[int8]'"
            ) from absent
        return torch.load(path, map_location="cpu", weights_only=True)


def read_checkpoint(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """A checkpoint, on the CPU, without running any code that it might carry.

    Args:
        sealed: it must be one of this version of vibench, to the last byte, from which a run can go on.

    Raises:
        CheckpointError: missing, damaged, not a checkpoint, or of other than plain types.
    """
    try:
        has_seal = _check_seal(path)
        with zipfile.ZipFile(path) as archive:
            damaged = None if has_seal else archive.testzip()  # torch.load does not look at torch.save's checksums
        if damaged:
            raise CheckpointError(f"{path} cannot be read as a checkpoint: {damaged} is damaged")
        if sealed and not has_seal:
            raise CheckpointError(
                f"{path} cannot be read as a checkpoint: its end is missing, or vibench did not write it"
            )
        checkpoint = _load(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it holds more than plain types") from error
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {said}") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it holds no state_dict of tensors")
    told = checkpoint.get("vibench")
    version = told.get("format") if isinstance(told, dict) else None
    if sealed and version != FORMAT:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is of format {version}, this vibench reads {FORMAT}"
        )
    return checkpoint


def _check_seal(path: Path) -> bool:
    """Whether a file has a seal; one that ends as a bare zip file does has none, and is of another origin.

    Raises:
        CheckpointError: it has one, and it is broken.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - SEAL_BYTES, 0))
        end = file.read()
        if end[-ZIP_END_BYTES:].startswith(ZIP_END):
            return False
        if not end.startswith(SEAL) or len(end) != SEAL_BYTES:
            raise CheckpointError(f"{path} cannot be read as a checkpoint: its end is missing")
        file.seek(0)
        digest, left = hashlib.sha256(), size - SEAL_BYTES
        while left:
            piece = file.read(min(left, PIECE))
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
    if digest.hexdigest().encode() != end[len(SEAL) :]:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it is damaged: its checksum is another")
    return True


def weights_of(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint, under the names that the model knows."""
    prefix = "model."
    return {k.removeprefix(prefix): v for k, v in checkpoint.get("state_dict", {}).items() if k.startswith(prefix)}


def load_weights(model: torch.nn.Module, checkpoint: dict[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint into a model, all of them.

    Raises:
        CheckpointError: the checkpoint is of another model; names what differs.
    """
    weights, own = weights_of(checkpoint), model.state_dict()
    differences = [f"{name} is missing" for name in own if name not in weights]
    differences += [f"{name} is not of this model" for name in weights if name not in own]
    differences += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(f"{path} is of another model: {', '.join(differences[:3])}{more}")
    model.load_state_dict(weights)
