"""One run: from a checked config to a proven result in a directory of its own.

Imports no torch before the directory is claimed, so that a run that is stopped while it starts has a status, too.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from vibench.config.experiment import ExperimentConfig
from vibench.processes import train_in_processes
from vibench.report.plain import plain
from vibench.report.status import Stopped, recorded
from vibench.report.table import print_result

log = logging.getLogger("vibench")


def run_experiment(config: ExperimentConfig, run_dir: str | Path) -> dict[str, Any]:
    """Run an experiment and return what ``status.json`` holds at its end.

    Raises:
        VibenchError: with ``started`` false, nothing was trained; else the run failed.
        Stopped: Ctrl-C or SIGTERM.
    """
    run_dir, began = Path(run_dir), time.time()
    facts = {"seed": config.seed, "hardware": config.hardware.name}
    with _signals() as ignore_signals:
        with recorded(run_dir, facts) as prove:
            (run_dir / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False))
            if sys.platform == "linux":  # segments that grow leave no gaps; before torch reads it
                os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

            if config.hardware.gpus > 1:
                result = train_in_processes(config, run_dir)
            else:
                from vibench.experiment import train_and_prove  # torch and lightning from here on

                result = train_and_prove(config, run_dir)
            ignore_signals()  # what is proven is not stopped any more
            prove(result | {"seconds": time.time() - began})
        status = json.loads((run_dir / "status.json").read_text())
        try:
            print_result(status, str(run_dir))
        except (OSError, SystemExit) as error:  # a full disk, a closed pipe (rich exits): the result is on disk
            log.warning(f"the table could not be printed: {error!r}")
    return status


@contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM end the run as ``cancelled``, whatever library is at work, until the given call is made."""
    heed = True

    def stop(number: int, frame: FrameType | None) -> None:
        if heed:
            raise Stopped(number)

    def ignore() -> None:
        nonlocal heed
        heed = False

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
