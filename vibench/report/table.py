"""The tables that a run and a sweep end with."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

SHOWN = 8  # events of a run
WIDE = 200  # characters, where nobody's terminal says otherwise


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
            table.add_row(escape(text or ""), *(row or ()))
        table.add_section()
    console.print(table)
    console.print("\n".join(summary(status, run_dir)), soft_wrap=True, highlight=False, markup=False)


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One run of a sweep: what it varied, its state in words, its status on disk, and what it said."""

    name: str
    state: str
    status: dict[str, Any]
    said: str


def print_sweep(rows: list[SweepRow], console: Console | None = None) -> None:
    """One row per run: what it varied, its state, and the headline metric of each task with its margin over naive."""
    console = console or Console(width=None if Console().is_terminal else WIDE)
    heads: dict[str, str] = {}
    for row in rows:
        heads |= {task: result["headline"] for task, result in row.status.get("results", {}).items()}
    table = Table(Column("run", overflow="fold"), Column("state", overflow="fold"), title="sweep")
    for task, metric in heads.items():
        table.add_column("\n".join((*task.split("_"), metric)), justify="right", overflow="fold")
    table.add_column("seconds", justify="right")
    for row in rows:
        cells = [_headline(row.status.get("results", {}).get(task)) for task in heads]
        seconds = f"{row.status['seconds']:.0f}" if "seconds" in row.status else ""
        table.add_row(escape(row.name), row.state, *cells, seconds)
    console.print(table)
    if heads:
        console.print("in brackets: the margin over the naive line, a plus is better", highlight=False)
    for row in rows:
        if row.said:
            console.print(f"{row.name}: {row.said}", markup=False, highlight=False, soft_wrap=True)


def _headline(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    metric = result["headline"]
    value, naive = result["metrics"][metric], result["naive"][metric]
    return f"{value:.3g}" + (f" ({_margin(value, naive, result['better'][metric]):+.2g})" if naive is not None else "")


def _against(value: float, naive: float | None, better: str) -> tuple[str, str]:
    """The naive line and the margin over it, as text."""
    if naive is None:
        return "", ""
    return f"{naive:.4g}", f"{_margin(value, naive, better):+.4g}"


def _margin(value: float, naive: float, better: str) -> float:
    """How much better than the naive line a value is, in its own unit."""
    return value - naive if better == "max" else naive - value


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
    lines += [f"event    {line}" for line in events_in_words(status.get("events", []))]
    plan = status["plan"]
    if plan["peak_gib"] is not None:
        largest = ", ".join(f"{name} {gib:.2f}" for name, gib in plan["components"].items() if gib >= 0.005)
        lines.append(f"memory   predicted {plan['peak_gib']:.2f} of {plan['usable_gib']:.2f} GiB: {largest}")
    device = (
        f"device   {status['device']}, {plan['precision']}, micro-batch {plan['micro_batch']} x {plan['accumulation']}"
    )
    if status["micro_batch"] != plan["micro_batch"]:
        device += f", in the end {status['micro_batch']}"
    device += f" x {plan['devices']} devices" if plan["devices"] > 1 else ""
    device += f", checkpointing {plan['checkpointing']}" if plan["checkpointing"] != "none" else ""
    device += f", optimizer state {plan['optimizer_state']}" if plan["optimizer_state"] != "device" else ""
    device += ", sharded" if plan["sharding"] == "full" else ""
    took = f", {status['step_seconds']:.3g} s each" if status["step_seconds"] is not None else ""
    took += f" (predicted {plan['step_seconds']:.3g})" if took and plan["step_seconds"] is not None else ""
    last = f", in attempt {len(status['attempts']) + 1}" if status.get("attempts") else ""
    return [
        *lines,
        f"steps    {steps}, {status['seconds']:.0f} s{took}{last}",
        f"{device}, peak {status['peak_gib']:.2f} GiB",
        f"files    {run_dir}",
    ]


def events_in_words(events: list[dict[str, Any]]) -> list[str]:
    """A line for each of what happened to a run; of many, the last ones."""
    told = [(f"step {e['step']}: " if e["step"] is not None else "") + e["text"] for e in events]
    more = [f"({len(told) - SHOWN} more, see status.json)"] if len(told) > SHOWN else []
    return more + told[-SHOWN:]


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
        names = " and ".join(common["splits"])
        found.append(f"what {names} share is unknown" if common.get("unknown") else f"{names} share {', '.join(parts)}")
    return f"LEAKY, waived by data.allow_leaky=true: {'; '.join(found)}"
