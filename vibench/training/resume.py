"""From which checkpoint a run goes on, and whether it may."""

import logging
from pathlib import Path
from typing import Any

from vibench.config.frozen import differences
from vibench.data.audit import audit_start
from vibench.data.loader import Data
from vibench.errors import DataError
from vibench.training.checkpoints import BEST, CheckpointError, newest_good, read_checkpoint

log = logging.getLogger("vibench")


def resumed(
    config: dict[str, Any], data: Data, run_dir: Path, promised: int
) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest good checkpoint of a run, None where it begins; and what is otherwise than if it had not been stopped.

    Where the config asks for other data than the run began with, what the weights have seen is audited against the new
    test, as for any weights that are started from.

    Args:
        config: of the run, in plain types.
        promised: optimizer steps of the whole training.

    Raises:
        DataError: the data are others than those the run began with, although the config is not.
    """
    found, said = newest_good(run_dir / "checkpoints")
    if found is None:
        return None, said
    checkpoint, path = found
    known = checkpoint["vibench"]
    before = known["config"]
    if known["data"] != data.fingerprint():
        if not list(differences(before["data"], config["data"])):
            raise DataError(
                f"{data.certificate['store']} is not what the run in {run_dir} began with: other recordings, labels or "
                "windows; bring the old one back, or begin another run"
            )
        audit_start(data.certificate, known["seen"], f"vibench-resume {run_dir}", config["data"]["allow_leaky"])
    if known["best"]["value"] is not None and (why := _lost(path, known, config)):
        said.append(f"{why}: the best validation is looked for anew")
        log.warning(said[-1])
        _look_anew(known, promised)
    return checkpoint, said


def _lost(path: Path, known: dict[str, Any], config: dict[str, Any]) -> str | None:
    """Why the best validation that a checkpoint knows of is of no use any more; None where it is."""
    best, before = path.with_name(BEST), known["config"]
    if before["training"]["monitor"] != config["training"]["monitor"]:
        return f"training.monitor is {config['training']['monitor']} now"
    if any(before[part] != config[part] for part in ("data", "task")):
        return "data or tasks are others now, and so is their validation"
    try:
        ahead = read_checkpoint(best, sealed=True)["vibench"]["steps_done"] > known["steps_done"]
    except CheckpointError as error:
        return str(error)
    return f"{best} is ahead of {path.name}" if ahead and before != config else None


def _look_anew(known: dict[str, Any], promised: int) -> None:
    ended = known["epoch"] * known["made_with"]["steps of an epoch"] >= known["steps_done"]  # and its last epoch, too
    over = ended and (known["best"]["early_stop"] is not None or known["steps_done"] >= promised)
    known["best"] = {"value": None, "waited": 0, "early_stop": None}
    if over:  # of the last weights, at least, a validation: back to before it, and the two rows that it logged
        known["epoch"] -= 1
        known["log_rows"] -= 2
