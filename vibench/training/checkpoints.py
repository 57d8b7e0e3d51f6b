"""Checkpoints: whole or not there, and of plain types only."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from vibench.errors import VibenchError


class CheckpointError(VibenchError):
    """A checkpoint cannot be written or read, or is not of this model."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames, so that a crash or a full disk leaves the old one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except Exception as error:
            raise CheckpointError(f"{path} cannot be written: {_cause(error)}") from error
        finally:
            temporary.unlink(missing_ok=True)


def _cause(error: BaseException) -> BaseException:
    """The operating system's words, which torch's writer buries under its own ("unexpected pos")."""
    link: BaseException | None = error
    while link is not None and not isinstance(link, OSError):
        link = link.__context__
    return link or error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU, without running any code that it might carry.

    Raises:
        CheckpointError: missing, damaged, or of other than plain types.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds on damaged files
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error


def load_weights(model: torch.nn.Module, checkpoint: dict[str, Any], path: Path) -> None:
    """Put the weights of a checkpoint into a model, all of them.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    weights = {
        name.removeprefix("model."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("model.")
    }
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} is of another model: {error}") from error
