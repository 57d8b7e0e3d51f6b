"""``vibench-plan``: what an experiment will take, who takes it, how long, and where it fits. Nothing is trained.

Exit status: 0 it fits, 2 the experiment is wrong, or does not fit the hardware that was named.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vibench.config import schemas
from vibench.config.compose import complaints_about, complaints_about_sweep, compose_all, jobs_of
from vibench.config.describe import options
from vibench.config.experiment import ExperimentConfig
from vibench.config.resolve import resolve
from vibench.errors import ConfigError, MemoryFitError, TimeFitError, VibenchError

USAGE = """usage: vibench-plan [GROUP=OPTION ...] [KEY=VALUE ...] [-m] [--json] [--picture FILE]

  vibench-plan backbone=timesnet hardware=rtx3090         what the run will take on that card, layer by layer
  vibench-plan backbone=timesnet                          on every hardware of conf/hardware
  vibench-plan -m backbone=dlinear,fno hardware=v100      every combination, as vibench-train -m would run them
  --json                                                  all of it, for programs
  --picture memory.svg                                    the memory of one step over time (.svg, .png, .pdf)

Takes what vibench-train takes. Exit status 0 if everything that was named fits, 2 if it does not, or is wrong.
"""
FLAGS = ("-m", "--multirun", "--json", "--picture")
VERDICTS = {MemoryFitError: "does not fit", TimeFitError: "does not end in time", ConfigError: "is wrong"}
WIDE = 200  # characters, where nobody's terminal says otherwise


def main() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler says on stderr that it starts and stops
    schemas.register()
    try:
        overrides, flags = _read(arguments)
        sweep = bool({"-m", "--multirun"} & set(flags))
        if complaints := (complaints_about_sweep if sweep else complaints_about)(overrides):
            raise ConfigError(complaints)
        named = sweep or any(text.startswith("hardware=") for text in overrides)
        plans = _plans(jobs_of(overrides) if sweep else {"": overrides}, named=named)
        if "--json" in flags:
            print(json.dumps(plans, indent=2))
        else:
            _show(plans)
        if "--picture" in flags:
            _draw(plans, flags["--picture"])
    except VibenchError as error:
        for line in error.complaints if isinstance(error, ConfigError) else [str(error)]:
            print(f"vibench-plan: {line}", file=sys.stderr)
        sys.exit(2)
    sys.exit(2 if named and any("error" in plan for plan in plans.values()) else 0)


def _read(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides, and flags with their values."""
    overrides, flags, waiting = [], {}, list(arguments)
    while waiting:
        text = waiting.pop(0)
        flag, _, value = text.partition("=") if text.startswith("-") else ("", "", "")
        if not flag:
            overrides.append(text)
        elif flag not in FLAGS:
            raise ConfigError([f"{flag} does not exist; there are {', '.join(FLAGS)} and --help"])
        elif value and flag != "--picture":
            raise ConfigError([f"{flag} takes no value, {text} gives one; leave {value} out"])
        elif flag == "--picture" and not value:
            if not waiting:
                raise ConfigError(["--picture needs the name of a file, e.g. --picture memory.svg"])
            flags[flag] = waiting.pop(0)
        else:
            flags[flag] = value
    return overrides, flags


def _plans(jobs: dict[str, list[str]], *, named: bool) -> dict[str, dict[str, Any]]:
    """Job and hardware -> plan, or why there is none: of the hardware that was named, or of every one."""
    from vibench.memory.planner import Planner  # torch from here on

    found, planner = {}, Planner()
    for job, overrides in jobs.items():
        config = _config(overrides)
        if named:
            found[job or config.hardware.name] = _plan(planner.plan, config)
            continue
        for name in options()["hardware"]:
            try:
                found[name] = _plan(planner.plan, _config([*overrides, f"hardware={name}"]))
            except ConfigError as error:  # what this hardware forbids
                found[name] = {"verdict": VERDICTS[ConfigError], "error": str(error).strip()}
    return found


def _config(overrides: list[str]) -> ExperimentConfig:
    """
    Raises:
        ConfigError: with everything that is wrong.
    """
    cfg, complaints = compose_all(overrides)
    if cfg is None or complaints:
        raise ConfigError(complaints)
    return resolve(cfg)


def _plan(plan: Callable[..., Any], config: ExperimentConfig) -> dict[str, Any]:
    try:
        return plan(config, on_cpu=True).as_dict()
    except (MemoryFitError, TimeFitError, ConfigError) as error:
        return {"verdict": VERDICTS[type(error)], "error": str(error).strip()}


def _show(plans: dict[str, dict[str, Any]]) -> None:
    console = Console(width=None if Console().is_terminal else WIDE)
    table = Table("plan", "verdict")
    for name in (
        "peak GiB",
        "usable GiB",
        "precision",
        "checkpointing",
        "optimizer",
        "batch",
        "step",
        "run",
        "host GiB",
    ):
        table.add_column(name, justify="right")
    for name, plan in plans.items():
        if "error" in plan:
            table.add_row(name, plan["verdict"])
            continue
        peak, usable = (f"{plan[key]:.2f}" if plan[key] is not None else "" for key in ("peak_gib", "usable_gib"))
        cut = f"{plan['micro_batch']} x {plan['accumulation']}"
        cut += (
            f" x {plan['devices']}" + (" sharded" if plan["sharding"] == "full" else "") if plan["devices"] > 1 else ""
        )
        how = (plan["precision"], plan["checkpointing"], plan["optimizer_state"], cut)
        took = [_words(plan[key]) for key in ("step_seconds", "run_seconds")]
        table.add_row(name, "fits", peak, usable, *how, *took, f"{sum(plan['host'].values()):.1f}")
    console.print(table)
    for name, plan in plans.items():
        if "error" in plan:
            console.print(f"{name}: {plan['error']}", markup=False, highlight=False, soft_wrap=True)
        elif len(plans) == 1 and plan["layers"]:
            _show_bill(plan, console)
    if any(plan.get("step_seconds") is not None and plan["pace"] is None for plan in plans.values()):
        console.print("times are estimates from data sheets: no run on that hardware was measured yet", highlight=False)


def _words(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _show_bill(plan: dict[str, Any], console: Console) -> None:
    """Components and layers of one plan, the host's memory, and what was tried before."""
    for title, parts in (("alive at the peak", plan["components"]), ("of the host", plan["host"])):
        told = ", ".join(f"{component} {gib:.2f}" for component, gib in parts.items() if gib >= 0.005)
        console.print(f"{title}, GiB: {told}", highlight=False)
    table = Table("layer", "component", "GiB")
    for layer, component, gib in plan["layers"]:
        table.add_row(layer, component, f"{gib:.3f}")
    console.print(table)
    for text in plan["rejected"]:
        console.print(f"tried: {text}", highlight=False)


def _draw(plans: dict[str, dict[str, Any]], file: str) -> None:
    from vibench.report.picture import draw_memory

    drawn = {name: plan for name, plan in plans.items() if plan.get("timeline")}
    if len(drawn) != 1:
        raise ConfigError([f"--picture shows one plan, there are {len(drawn)} that fit; name one hardware=CARD"])
    draw_memory(*drawn.items(), Path(file))
