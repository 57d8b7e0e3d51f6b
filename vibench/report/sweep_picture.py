"""Pictures of many runs: what each reached beside its naive line, and how a search went."""

from contextlib import suppress
from pathlib import Path

from vibench.report.picture import save
from vibench.report.table import SweepRow

MOST = 60  # rows of a picture


def draw_sweep(rows: list[SweepRow], path: Path) -> None:
    """Draw the headline metric of every task and run, and the naive line of each.

    Nothing is drawn of fewer than two results, or where matplotlib is not installed; and no picture that cannot be
    drawn changes how a sweep ends.
    """
    with suppress(Exception):
        done = [row for row in rows if row.status.get("results")][:MOST]
        if len(done) >= 2:
            _draw_sweep(done, path)


def _draw_sweep(rows: list[SweepRow], path: Path) -> None:
    from matplotlib.figure import Figure

    heads = {task: result["headline"] for row in rows for task, result in row.status["results"].items()}
    better = {task: result["better"] for row in rows for task, result in row.status["results"].items()}
    figure = Figure(figsize=(3 + 2.4 * len(heads), 1.2 + 0.3 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(heads), sharey=True, squeeze=False)[0]
    for axes, (task, metric) in zip(panels, heads.items(), strict=True):
        for place, row in enumerate(rows):
            result = row.status["results"].get(task)
            if result is None:
                continue
            axes.plot(result["metrics"][metric], place, "o", color="#4c72b0")
            if result["naive"][metric] is not None:
                axes.plot(result["naive"][metric], place, "|", color="#c44e52", markersize=10)
        arrow = "more is better" if better[task][metric] == "max" else "less is better"
        axes.set_title(f"{task}\n{metric} ({arrow})", fontsize="small")
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [row.name for row in rows], fontsize="small")
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[0].plot([], [], "|", color="#c44e52", markersize=10, label="naive")
    panels[0].legend(loc="best", fontsize="small", frameon=False)
    save(figure, path)


def draw_search(values: dict[int, float | None], metric: str, direction: str, path: Path) -> None:
    """Draw the value of every trial, the best so far, and the trials without a value at the bottom.

    Args:
        values: trial -> value; None without one.
        direction: min or max, what is better.
    """
    with suppress(Exception):
        if sum(value is not None for value in values.values()) >= 2:
            _draw_search(values, metric, direction, path)


def _draw_search(values: dict[int, float | None], metric: str, direction: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    done = {number: value for number, value in sorted(values.items()) if value is not None}
    best: list[float] = []
    for value in done.values():
        best.append(value if not best else (min if direction == "min" else max)(best[-1], value))
    axes.plot(list(done), list(done.values()), "o", color="#4c72b0", label="trials")
    axes.step(list(done), best, where="post", color="#55a868", label=f"best so far, {best[-1]:.4g}")
    without = [number for number, value in values.items() if value is None]
    low = min(done.values())
    axes.plot(without, [low] * len(without), "x", color="#c44e52", label="refused, pruned or failed")
    axes.set(title="search", xlabel="trial", ylabel=f"val/{metric}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save(figure, path)
