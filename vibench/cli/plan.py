"""``vibench-plan``: what an experiment will take, who takes it, and where it fits. Nothing is trained.

Exit status: 0 it fits, 1 it does not fit the hardware that was named, 2 the experiment is wrong.
"""

import json
import sys
from typing import Any

from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from vibench.config import schemas
from vibench.config.compose import complaints_about
from vibench.config.experiment import ExperimentConfig
from vibench.config.resolve import resolve
from vibench.errors import ConfigError, MemoryFitError, VibenchError

USAGE = """usage: vibench-plan [GROUP=OPTION ...] [KEY=VALUE ...] [--json]

  vibench-plan backbone=timesnet hardware=rtx3090    what the run will take on that card, layer by layer
  vibench-plan backbone=timesnet                     on every card of conf/hardware

Takes what vibench-train takes. Exit status 0 if it fits, 1 if it does not fit the hardware that was named.
"""


def main() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if unknown := [argument for argument in arguments if argument.startswith("-") and argument != "--json"]:
        print(f"vibench-plan: {unknown[0]} does not exist; there are --json and --help", file=sys.stderr)
        sys.exit(2)
    schemas.register()
    complaints = complaints_about(overrides)
    if complaints:
        for complaint in complaints:
            print(f"vibench-plan: {complaint}", file=sys.stderr)
        sys.exit(2)
    with initialize_config_module("vibench.conf", version_base="1.3"):
        config = resolve(compose("train", overrides))
    named = any(text.startswith("hardware=") for text in overrides)
    try:
        plans = _plans(config, overrides, named)
    except VibenchError as error:
        print(f"vibench-plan: {error}", file=sys.stderr)
        sys.exit(2)
    if "--json" in arguments:
        print(json.dumps(plans, indent=2))
    else:
        _show(plans)
    sys.exit(1 if named and any("error" in plan for plan in plans.values()) else 0)


def _plans(config: ExperimentConfig, overrides: list[str], named: bool) -> dict[str, dict[str, Any]]:
    """Hardware -> plan, or why there is none: of the one that was named, or of every card."""
    from vibench.data.build import build  # torch from here on
    from vibench.memory.plan import cards, fit
    from vibench.model import targets

    data = build(config.data, targets(config))
    sizes = {"n_channels": data.n_channels, "n_classes": len(data.classes)}
    plans = {}
    for name in [config.hardware.name] if named else list(cards()):
        try:
            if not named:
                with initialize_config_module("vibench.conf", version_base="1.3"):
                    config = resolve(compose("train", [*overrides, f"hardware={name}"]))
            plans[name] = fit(config, **sizes).as_dict()
        except (MemoryFitError, ConfigError) as error:
            plans[name] = {"error": str(error)}
    return plans


def _show(plans: dict[str, dict[str, Any]]) -> None:
    console = Console()
    table = Table("hardware", "verdict", "peak GiB", "usable GiB", "precision", "checkpointing", "micro-batch")
    for name, plan in plans.items():
        if "error" in plan:
            table.add_row(name, "does not fit")
        else:
            peak, usable = (f"{plan[key]:.2f}" if plan[key] is not None else "" for key in ("peak_gib", "usable_gib"))
            cut = f"{plan['micro_batch']} x {plan['accumulation']}"
            table.add_row(name, "fits", peak, usable, plan["precision"], plan["checkpointing"], cut)
    console.print(table)
    for name, plan in plans.items():
        if "error" in plan:
            console.print(f"{name}: {plan['error']}", markup=False, highlight=False, soft_wrap=True)
        elif len(plans) == 1 and plan["layers"]:
            _show_bill(plan, console)


def _show_bill(plan: dict[str, Any], console: Console) -> None:
    """Components and layers of one plan, and what was tried before."""
    parts = ", ".join(f"{component} {gib:.2f}" for component, gib in plan["components"].items())
    console.print(f"alive at the peak, GiB: {parts}", highlight=False)
    table = Table("layer", "component", "GiB")
    for layer, component, gib in plan["layers"]:
        table.add_row(layer, component, f"{gib:.3f}")
    console.print(table)
    for text in plan["rejected"]:
        console.print(f"too much: {text}", highlight=False)
