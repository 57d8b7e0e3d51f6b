"""``vibench-resume RUN [KEY=VALUE ...]``: go on with a run that was stopped, killed or failed.

Exit status: that of ``vibench-train``; 0 also where the run is complete already.
"""

import logging
import sys
from pathlib import Path

from vibench.cli.train import end, finish, refuse
from vibench.config import schemas
from vibench.config.frozen import thaw
from vibench.errors import ConfigError, VibenchError
from vibench.rank import LINE
from vibench.report.status import read_status
from vibench.report.table import print_result
from vibench.run import changes, run_experiment
from vibench.signals import Stopped

USAGE = """usage: vibench-resume RUN [KEY=VALUE ...] [--take-over]

  vibench-resume multirun_outputs/2026-11-20/15-12-09    from its last good checkpoint, with the config it began with
  vibench-resume RUN training.lr=1e-4                    the same with another value, which the status then says
  --take-over                                            the machine that the run was on is down

The end is that of a run that was never stopped, to the bit on a CPU: order of the data, random numbers, schedule, early
stopping, metrics and log go on. What is damaged is passed over for an older checkpoint. Without any, it begins again.
"""


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    flags = {text for text in arguments if text.startswith("-")}
    folders = [text for text in arguments if not text.startswith("-") and "=" not in text]
    overrides = [text for text in arguments if not text.startswith("-") and "=" in text]
    schemas.register()
    try:
        if unknown := sorted(flags - {"--take-over"}):
            raise ConfigError([f"{unknown[0]} does not exist; there are --take-over and --help"])
        if foreign := [text for text in overrides if text.startswith("hydra")]:
            raise ConfigError([f"{foreign[0]} has no meaning here: a run stays in its directory; leave it out"])
        if len(folders) != 1:
            raise ConfigError([f"name one run, there are {len(folders)}: {' '.join(folders)}; see --help"])
        resume(Path(folders[0]), overrides, take_over="--take-over" in flags)
    except ConfigError as error:
        refuse(error.complaints, "vibench-resume")
    except VibenchError as error:
        if not error.started:
            refuse([str(error)], "vibench-resume")
        print(f"vibench-resume: {error}", file=sys.stderr)
        sys.exit(1)
    except (Stopped, KeyboardInterrupt) as stopped:
        end(stopped, "vibench-resume")
    finish()


def resume(run_dir: Path, overrides: list[str], *, take_over: bool) -> None:
    """
    Raises:
        VibenchError: as ``run_experiment``.
    """
    config = thaw(run_dir, overrides)
    status = read_status(run_dir)
    if status["state"] == "completed":
        if overrides:
            raise ConfigError(
                [f"{run_dir} is completed, {overrides[0]} comes too late; begin another run with training.init_from"]
            )
        print_result(status, str(run_dir))
        return
    try:
        handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(run_dir / "vibench-train.log")]
    except OSError as error:
        raise ConfigError([f"{run_dir} cannot be written to: {error.strerror}; make it writable"]) from error
    logging.basicConfig(level=logging.INFO, format=LINE, handlers=handlers)
    for text in changes(config, run_dir):
        logging.getLogger("vibench").info(f"changed: {text}")
    run_experiment(config, run_dir, may_change=True, take_over=take_over)
