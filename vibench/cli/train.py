"""``vibench-train``: compose, refuse or run. Imports no torch: a wrong configuration is reported in under a second.

Exit status: 0 the run is complete and proven, 1 it failed, 2 nothing was started, 75, 130 or 143 it was stopped.
"""

import importlib.metadata
import os
import signal
import sys
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.vibench_launcher import VibenchLauncher
from hydra_plugins.vibench_sweeper import GridSweeper, OptunaSweeper
from vibench.config import schemas
from vibench.config.compose import complaints_about, complaints_about_sweep, compose_all
from vibench.config.describe import describe, options
from vibench.config.resolve import resolve
from vibench.errors import ConfigError, VibenchError
from vibench.run import changes, has_begun, refusal, run_experiment
from vibench.signals import Stopped

HELP = """vibench-train: train one experiment, test it, and prove the result

usage: vibench-train [GROUP=OPTION ...] [KEY=VALUE ...]

  vibench-train                                        the embedded example, on this machine
  vibench-train backbone=dlinear training.epochs=20    another backbone, another value
  vibench-train data=cwru data.store=cwru.h5           real bearings, prepared by vibench-data
  vibench-train -m backbone=dlinear,patchtst seed=0,1  every combination, and one table
  vibench-train -m hydra/launcher=slurm hardware=a100_80,v100 ... [--detach]
                                                       every job to the nodes that it names; vibench-status later
  vibench-train backbone=dlinear --cfg job             show the composed experiment and stop
  vibench-train hydra.run.dir=RUN ...                  the same line again goes on with a run that was stopped

groups (GROUP=OPTION)
{groups}

keys (KEY=VALUE) of this choice
{config}
Results go to multirun_outputs/DATE/TIME, or hydra.run.dir=DIR. Flags of Hydra: --hydra-help
"""


SEARCH = "hydra/sweeper=optuna"
DETACH = "hydra.launcher.detach=true"
begun: list[str] = []  # directories of the runs of this process


@hydra.main(version_base="1.3", config_path="pkg://vibench.conf", config_name="train")
def train(cfg: DictConfig) -> None:
    config = resolve(cfg)

    begun.append(HydraConfig.get().runtime.output_dir)
    run_experiment(config, begun[-1])


def main() -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let errors through instead of printing half a traceback
    schemas.register()
    for plugin in (
        VibenchLauncher,
        GridSweeper,
        OptunaSweeper,
    ):  # Hydra does not find them where vibench is installed editable
        Plugins.instance().register(plugin)
    arguments = sys.argv[1:]
    try:
        if "--version" in arguments:
            print(f"vibench {importlib.metadata.version('vibench')}")
            return
        if {"--help", "-h"} & set(arguments):
            show_help([a for a in arguments if not a.startswith("-")])
            return
        sys.argv[1:] = arguments = with_keys(arguments)
        check(arguments)
        train()
    except (HydraException, OmegaConfBaseException) as error:
        refuse([describe(error)])
    except VibenchError as error:
        if not error.started:
            refuse(error.complaints if isinstance(error, ConfigError) else [str(error)])
        print(f"vibench-train: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if begun:
            raise
        if isinstance(error, BrokenPipeError):  # --help | head
            finish()
            return
        refuse([f"the run directory cannot be made: {error}; name another hydra.run.dir"])
    except (Stopped, KeyboardInterrupt) as stopped:
        end(stopped)
    finish()


def end(stopped: BaseException, command: str = "vibench-train") -> None:
    """Say by what the run was stopped, and leave with the status of that."""
    print(f"{command}: {str(stopped) or 'interrupted'}", file=sys.stderr)
    sys.exit(getattr(stopped, "code", 130))


def finish() -> None:
    """End with 0, also where nobody reads what was printed: the result is on disk and proven."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def with_keys(arguments: list[str]) -> list[str]:
    """``--detach`` as the key that it is short for."""
    if "--detach" not in arguments:
        return arguments
    if "hydra/launcher=slurm" not in arguments or not {"-m", "--multirun"} & set(arguments):
        raise ConfigError(["--detach leaves a sweep to SLURM; use it with -m and hydra/launcher=slurm"])
    return [DETACH if text == "--detach" else text for text in arguments]


def leaves_out(overrides: list[str]) -> bool:
    """Whether jobs that are refused are left out, and the launcher says which."""
    return any(text.lower() == "hydra.launcher.skip_refused=true" for text in overrides)


def check(arguments: list[str]) -> None:
    """Refuse with everything that is wrong, before Hydra makes a directory or a sweep begins.

    Left to Hydra: flags that only show something, and a primary config of the user's own.
    """
    asked = get_args_parser().parse_args(arguments)
    if asked.multirun and asked.cfg:
        raise ConfigError(["--cfg shows one experiment; leave out -m, and give each key one value"])
    shows = asked.hydra_help or asked.cfg or asked.info or asked.shell_completion
    if shows or asked.config_path or asked.config_name or asked.experimental_rerun:
        return
    if asked.config_dir and not os.path.isdir(asked.config_dir):
        raise ConfigError([f"--config-dir={asked.config_dir} is not a folder; name the one that holds your YAML files"])
    complaints = complaints_about_sweep if asked.multirun else complaints_about
    if SEARCH in asked.overrides and asked.multirun:  # it says itself what is wrong with it
        return
    if not leaves_out(asked.overrides) and (found := complaints(asked.overrides, asked.config_dir)):
        raise ConfigError(found)
    named = [text.partition("=")[2] for text in asked.overrides if text.startswith("hydra.run.dir=")]
    if named and not asked.multirun and has_begun(Path(named[-1])):  # before Hydra writes there
        config = resolve(compose_all(asked.overrides, asked.config_dir)[0])
        if changed := changes(config, Path(named[-1])):
            raise ConfigError(refusal(changed, Path(named[-1])))


def show_help(overrides: list[str]) -> None:
    cfg, complaints = compose_all(overrides)
    if complaints:
        raise ConfigError(complaints)
    groups = "\n".join(f"  {group:<11}{', '.join(names)}" for group, names in options().items())
    print(HELP.format(groups=groups, config=OmegaConf.to_yaml(cfg)))


def refuse(complaints: list[str], command: str = "vibench-train") -> None:
    """Say everything that is wrong and leave with status 2."""
    if len(complaints) == 1:
        print(f"{command}: {complaints[0]}", file=sys.stderr)
    else:
        print(f"{command}: {len(complaints)} errors, nothing was started", file=sys.stderr)
        for complaint in complaints:
            print(f"  {complaint}", file=sys.stderr)
    sys.exit(2)
