"""A picture of a record: how strong each channel is, the probability of a seizure, and what was called one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibench.errors import ConfigError
from vibench.report.picture import save


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """What is drawn of a record.

    Attributes:
        channels: names.
        duration_s: of the record.
        power: (channels, points) root mean square, in microvolts.
        probability: (points,) highest probability of a seizure.
        threshold: from which one begins.
        events: seconds of those that were found.
        reference: seconds of those that are annotated; None where nothing is known.
    """

    channels: list[str]
    duration_s: float
    power: Any
    probability: Any
    threshold: float
    events: list[tuple[float, float]]
    reference: list[tuple[float, float]] | None


def stem_of(file: Path) -> str:
    """Of what is written about a record: by BIDS a derivative, which nobody reads as annotations of the record."""
    return f"{file.stem.removesuffix('_eeg')}_desc-vibench_events"


def draw_seizures(timeline: Timeline, title: str, path: Path) -> None:
    """Draw a record, from its first second to its last.

    Raises:
        ConfigError: matplotlib is not installed, or cannot write such a file.
    """
    import numpy as np

    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError([f"a picture needs matplotlib ({error}); pip install 'vibench[eeg]'"]) from error
    unit, seconds = ("h", 3600.0) if timeline.duration_s > 7200 else ("min", 60.0)
    end = timeline.duration_s / seconds
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    low, high = np.percentile(timeline.power, (5, 99.5))
    norm = LogNorm(max(low, 1e-3), max(high, low * 1.01, 2e-3), clip=True)
    n = len(timeline.channels)
    image = above.imshow(
        timeline.power.clip(1e-3), aspect="auto", extent=(0, end, n, 0), norm=norm, cmap="magma", rasterized=True
    )
    above.set_yticks(np.arange(n) + 0.5, timeline.channels, fontsize=7)
    figure.colorbar(image, ax=above, label="RMS, µV", pad=0.01)
    times = (np.arange(len(timeline.probability)) + 0.5) * end / len(timeline.probability)
    below.plot(times, timeline.probability, color="#4c72b0", linewidth=0.8, label="of a seizure")
    below.axhline(timeline.threshold, color="black", linestyle=":", label=f"threshold {timeline.threshold:.2f}")
    told = [(timeline.events, "#c44e52", (0, 1), "found")]
    told += [(timeline.reference, "#55a868", (1.03, 1.09), "annotated")] if timeline.reference is not None else []
    for events, colour, (bottom, top), label in told:
        for number, (start, stop) in enumerate(events):
            below.fill_between(
                [start / seconds, stop / seconds], bottom, top, color=colour, alpha=0.45, linewidth=1,
                label=None if number else f"{label}: {len(events)}",
            )  # fmt: skip
    above.set_title(title, parse_math=False)  # the name of a file, which may hold dollars
    below.set(xlim=(0, end), ylim=(0, 1.12), xlabel=unit, ylabel="probability")
    below.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    try:
        save(figure, path)
    except (ValueError, OSError) as error:
        raise ConfigError([f"{path} cannot be written: {error}"]) from error
