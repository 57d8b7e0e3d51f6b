"""The table a run ends with."""

from typing import Any

from rich.console import Console
from rich.table import Table

SPLITS = ("train", "val", "test")


def print_result(status: dict[str, Any], run_dir: str, console: Console | None = None) -> None:
    """Task, metric, value, samples, entities; then the split, the device, and where things are.

    Args:
        status: of a completed run, as in ``status.json``.
    """
    console = console or Console()
    table = Table("task", "metric", "value", "samples", "entities", title="test")
    for column in table.columns[2:]:
        column.justify = "right"
    for task, result in status["results"].items():
        first = True
        for metric, value in result["metrics"].items():
            counts = (str(result["samples"]), str(result["entities"])) if first else ("", "")
            table.add_row(task if first else "", metric, f"{value:.4f}", *counts)
            first = False
        table.add_section()
    console.print(table)
    console.print("\n".join(summary(status, run_dir)), soft_wrap=True, highlight=False)


def summary(status: dict[str, Any], run_dir: str) -> list[str]:
    """The lines below the table."""
    split = status["split"]
    counts = ", ".join(
        f"{name} {part['windows']} windows of {part['entities']} entities" for name, part in split["splits"].items()
    )
    lines = [f"split    by {split['by']}: {counts}", f"audit    {audit_line(split)}"]
    absent = [name for name, n in split["splits"]["test"]["windows_per_class"].items() if not n]
    if absent and "classification" in status["results"]:
        lines.append(f"classes  the test holds none of: {', '.join(absent)}; means are over the classes it holds")
    if split["short_recordings"]:
        lines.append(f"short    {split['short_recordings']} recordings shorter than a window were left out")
    steps = f"{status['steps']} of {status['promised_steps']} steps"
    if status["early_stop"]:
        steps += f", stopped early: {status['early_stop']}"
    if status["skipped_steps"]:
        steps += f", {status['skipped_steps']} without an update (fp16 overflow)"
    plan = status["plan"]
    device = f"device   {status['device']}, {plan['precision']}, micro-batch {plan['micro_batch']}"
    return [
        *lines,
        f"steps    {steps}, {status['seconds']:.0f} s",
        f"{device} x {plan['accumulation']}, peak {status['peak_gib']:.2f} GiB",
        f"files    {run_dir}",
    ]


def audit_line(split: dict[str, Any]) -> str:
    """What the audit found, in words."""
    if split["clean"]:
        return "clean: no entity and no sample is shared"
    found = []
    for common in split["shared"]:
        parts = [f"{common['entities']} entities"] if common["entities"] else []
        parts += [
            f"{common[key]} {key.replace('_', ' ')}" for key in ("overlapping_windows", "copied_windows") if common[key]
        ]
        found.append(f"{' and '.join(common['splits'])} share {', '.join(parts)}")
    return f"LEAKY, waived by data.allow_leaky=true: {'; '.join(found)}"
