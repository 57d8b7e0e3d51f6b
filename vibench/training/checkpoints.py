"""Checkpoints: whole or not there, and of plain types only."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from vibench.errors import VibenchError
from vibench.step.ranks import rank


class CheckpointError(VibenchError):
    """A checkpoint cannot be written or read, or is not of this model."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames, so that a crash or a full disk leaves the old one.

    Of several ranks the first writes; the others only help to put the weights together.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if rank():
            return
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

    def remove_checkpoint(self, path: str | Path) -> None:
        if not rank():
            super().remove_checkpoint(path)


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU, without running any code that it might carry.

    Raises:
        CheckpointError: missing, damaged, not a checkpoint, or of other than plain types.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums that torch.save wrote
        if damaged:
            raise CheckpointError(f"{path} cannot be read as a checkpoint: {damaged} is damaged")
        checkpoint = _load(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it holds more than plain types") from error
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {said}") from error
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} cannot be read as a checkpoint: it holds no state_dict of tensors")
    return checkpoint


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
