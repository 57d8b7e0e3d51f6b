"""Pictures of a run."""

import csv
from contextlib import suppress
from pathlib import Path
from typing import Any

from vibench.errors import ConfigError

COLOURS = {  # component -> colour, from the bottom up: what stays, then what comes and goes
    "parameters": "#4c72b0",
    "optimizer": "#8172b3",
    "gradients": "#dd8452",
    "metrics": "#937860",
    "gathered weights": "#64b5cd",
    "input": "#8c8c8c",
    "activations": "#55a868",
    "temporaries": "#c44e52",
}
GROWTH = {  # column of metrics.csv -> words
    "memory/host_gib": "host: process and workers",
    "memory/device_gib": "card: allocated",
    "memory/device_peak_gib": "card: most so far",
}
LINES = {"usable_gib": "usable", "peak_gib": "reserved at most"}


def draw_memory(plan: tuple[str, dict[str, Any]], path: Path) -> None:
    """Draw who holds the memory of a device during a training step, and what there is.

    Args:
        plan: its name, and itself, as in ``plan.json``.
        path: .svg, .png or .pdf.

    Raises:
        ConfigError: matplotlib is not installed, or cannot write such a file.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError([f"--picture needs matplotlib ({error}); pip install 'vibench[pictures]'"]) from error
    title, content = plan
    alive = {name: content["timeline"][name] for name in COLOURS if any(content["timeline"].get(name, ()))}
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    n = len(next(iter(alive.values())))
    moments = [100 * (at + 0.5) / n for at in range(n)]
    axes.stackplot(moments, *alive.values(), labels=list(alive), colors=[COLOURS[name] for name in alive], step="mid")
    for key, style in (("usable_gib", "--"), ("peak_gib", ":")):
        if content[key] is not None:
            axes.axhline(content[key], color="black", linestyle=style, label=f"{LINES[key]}, {content[key]:.2f} GiB")
    levers = [content["precision"], f"checkpointing {content['checkpointing']}"]
    levers += [f"micro-batch {content['micro_batch']} x {content['accumulation']}"]
    axes.set(title=f"{title}: {', '.join(levers)}", ylabel="GiB alive")
    axes.set_xlabel("operators of two steps and a prediction, %")
    axes.set_xlim(0, 100)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    try:
        save(figure, path)
    except (ValueError, OSError) as error:
        raise ConfigError([f"--picture {path} cannot be written: {error}; use a .svg, .png or .pdf"]) from error


def draw_growth(run_dir: Path) -> None:
    """Draw the memory of a run over its epochs, ``memory.svg``, from what ``metrics.csv`` has of it.

    Nothing is drawn of fewer than two epochs, or where matplotlib is not installed; and no picture that cannot be drawn
    changes how a run ends.
    """
    with suppress(Exception):
        with (run_dir / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("memory/host_gib")]
        if len(rows) >= 2:
            _draw_growth(rows, run_dir / "memory.svg")


def _draw_growth(rows: list[dict[str, str]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(rows) + 1)
    for key, words in GROWTH.items():
        if rows[-1].get(key):
            levels = [float(row[key] or "nan") for row in rows]
            axes.plot(epochs, levels, label=f"{words}, {levels[-1]:.2f} GiB")
    axes.set(title="memory at the end of every epoch", xlabel="epoch", ylabel="GiB")
    axes.set_xlim(1, len(rows))
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """A picture appears whole or not at all."""
    unfinished = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(unfinished)
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
