"""One run: from a checked config to a proven result in a directory of its own, however often it is begun again.

Imports no torch before the directory is claimed, so that a run that is stopped while it starts has a status, too.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from vibench.config import frozen
from vibench.config.experiment import ExperimentConfig
from vibench.config.plain import plain
from vibench.errors import ConfigError, OutOfMemoryError, Restart, VibenchError, is_out_of_memory
from vibench.processes import train_in_processes
from vibench.report.known_runs import hash_of, remember
from vibench.report.picture import draw_growth
from vibench.report.status import FORGOTTEN, note, read_status, recorded
from vibench.report.table import print_result
from vibench.signals import deferred, heeded

log = logging.getLogger("vibench")


def run_experiment(
    config: ExperimentConfig,
    run_dir: str | Path,
    *,
    may_change: bool = False,
    take_over: bool = False,
    apart: bool = False,
) -> dict[str, Any]:
    """Run an experiment and return what ``status.json`` holds at its end.

    Where the directory holds a run that was begun and not completed, it goes on from its last good checkpoint.

    Args:
        may_change: the config may be another than that with which the run began.
        take_over: another machine, which the status says is at the run, is down.
        apart: train in a process of its own, so that the status is true also where the kernel kills that.

    Raises:
        VibenchError: with ``started`` false, nothing was trained; else the run failed.
        Stopped: Ctrl-C, SIGTERM or SIGUSR2.
    """
    run_dir, began = Path(run_dir), time.monotonic()
    facts = {"seed": config.seed, "hardware": config.hardware.name}
    changed = changes(config, run_dir)
    if changed and not may_change:
        raise ConfigError(refusal(changed, run_dir))
    with heeded() as ignore_signals:
        with recorded(run_dir, facts, take_over=take_over) as prove:
            if not has_begun(run_dir):
                _begin(config, run_dir)
            try:
                result = _train(config, run_dir, apart)
            finally:
                draw_growth(run_dir)
            ignore_signals()  # what is proven is not stopped any more
            prove(result | {"seconds": time.monotonic() - began})
        status = json.loads((run_dir / "status.json").read_text())
        try:
            print_result(status, str(run_dir))
        except (OSError, SystemExit) as error:  # a full disk, a closed pipe (rich exits): the result is on disk
            log.warning(f"the table could not be printed: {error!r}")
    return status


def _begin(config: ExperimentConfig, run_dir: Path) -> None:
    """Freeze the config. What an attempt with another one found out before its first checkpoint is forgotten."""
    if (run_dir / frozen.FILE).exists() and list(frozen.differences(frozen.read(run_dir), plain(config))):
        text = "begun anew with another config"
        note(run_dir, {"kind": "config", "step": None, "text": text, "changes": FORGOTTEN})
    frozen.freeze(plain(config), run_dir)
    remember(hash_of(plain(config)), run_dir)


def has_begun(run_dir: Path) -> bool:
    """Whether there is anything to go on from."""
    return any((run_dir / "checkpoints").glob("*.ckpt")) and (run_dir / frozen.FILE).exists()


def changes(config: ExperimentConfig, run_dir: Path) -> list[str]:
    """What differs from the config with which the run in that directory began, if one can go on there."""
    if not has_begun(run_dir) or read_status(run_dir)["state"] in ("running", "completed"):
        return []
    return list(frozen.differences(frozen.read(run_dir), plain(config)))


def refusal(changed: list[str], run_dir: Path) -> list[str]:
    """Every change, and what can be done."""
    keys = " ".join(f"{key}={value.rpartition(' -> ')[2]}" for key, value in (text.split(": ", 1) for text in changed))
    remedy = f"vibench-resume {run_dir} {keys} goes on with it, another hydra.run.dir begins anew"
    return [f"hydra.run.dir={run_dir} holds a run that was begun with another config: {', '.join(changed)}; {remedy}"]


def _train(config: ExperimentConfig, run_dir: Path, apart: bool) -> dict[str, Any]:
    """Train, also again and in another way, where something asks for it from its last checkpoint."""
    if sys.platform == "linux":  # segments that grow leave no gaps; before torch reads it
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    while True:
        try:
            return _once(config, run_dir, apart)
        except Restart as order:
            told = ", ".join(f"{name}={value}" for name, value in order.changes.items())
            text = f"{order}: from the last checkpoint with {told}"
            event = {"kind": order.kind.lower(), "step": order.step, "text": text, "changes": order.changes}
        log.warning(f"STARTED AGAIN: {text}")
        note(run_dir, event)


def _once(config: ExperimentConfig, run_dir: Path, apart: bool) -> dict[str, Any]:
    try:
        if apart or config.hardware.devices > 1:
            return train_in_processes(config, run_dir)
        with deferred("what is being imported comes first"):
            from vibench.experiment import train_and_prove  # torch from here on

        return train_and_prove(config, run_dir)
    except Exception as error:
        if isinstance(error, VibenchError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory before anything was planned ({type(error).__name__} {error}); the process alone takes half "
            "a GiB of the host (benchmarks/host.py); use a machine or a limit with more memory"
        ) from None
