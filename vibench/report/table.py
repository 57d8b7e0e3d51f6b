"""The table a run ends with."""

from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.table import Table


def print_result(status: dict[str, Any], run_dir: str, console: Console | None = None) -> None:
    """Task, metric, value, naive line, margin, samples, entities; then the split, the device, and where things are.

    The margin is how much better than the naive line the value is, in the unit of the metric.

    Args:
        status: of a completed run, as in ``status.json``.
    """
    console = console or Console()
    table = Table("task", "metric", "value", "naive", "margin", title="test")
    for column in table.columns[2:]:
        column.justify = "right"
    for task, result in status["results"].items():
        head = (task, f"{result['samples']} windows", f"{result['entities']} entities")
        rows = [
            (metric, f"{value:.4g}", *_against(value, result["naive"][metric], result["better"][metric]))
            for metric, value in result["metrics"].items()
        ]
        for text, row in zip_longest(head, rows):
            table.add_row(text or "", *(row or ()))
        table.add_section()
    console.print(table)
    console.print("\n".join(summary(status, run_dir)), soft_wrap=True, highlight=False)


def _against(value: float, naive: float | None, better: str) -> tuple[str, str]:
    """The naive line and the margin over it, as text."""
    if naive is None:
        return "", ""
    return f"{naive:.4g}", f"{value - naive if better == 'max' else naive - value:+.4g}"


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
    if status["start"]:
        lines.append(f"start    {', '.join(status['start']['parts'])} of {status['start']['checkpoint']}")
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
