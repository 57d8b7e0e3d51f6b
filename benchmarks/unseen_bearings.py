"""CWRU, three faults, bearings of a size that was never seen: a network on envelope spectra, five seeds, every fold.

    python benchmarks/unseen_bearings.py store=cwru.h5 out=benchmarks/results/unseen_bearings.md

Train on the bearings of two fault sizes, test on those of the third. How the settings were chosen, and what a random
forest reaches (``random_forest.py``), stands in ``benchmarks/README.md``.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from real_data import run

SEEDS, MILS = (0, 1, 2, 3, 4), ("007", "014", "021")
SETTINGS = (
    "data=cwru",
    "task=classification",
    "hardware=cpu",
    "+data.only.fault=[inner,outer,ball]",
    "data.split.by=mils",
    "data.window=8192",
    "data.stride=1024",
    "data.normalisation=window",
    "embedding=envelope",
    "backbone=patchtst",
    "backbone.e_layers=1",
    "training.epochs=4",
    "training.monitor=null",
)
METRICS = ("accuracy", "macro_f1", "auroc")


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cwru.h5").symlink_to(Path(settings["store"]).resolve())
        for test in MILS:
            train = ",".join(mils for mils in MILS if mils != test)
            fold = (*SETTINGS, f"data.split.train=[{train}]", f"data.split.test=[{test}]")
            rows[test] = [run(folder, fold, seed) for seed in SEEDS]
    results = {test: [status["results"]["classification"] for status in runs] for test, runs in rows.items()}
    lines = [
        "# Bearings of an unseen fault size",
        "",
        f"Written by `benchmarks/unseen_bearings.py`; mean (least to greatest) of seeds {', '.join(map(str, SEEDS))}.",
        f"`{' '.join(SETTINGS)}`",
        "",
        f"| test | {' | '.join(METRICS)} | naive accuracy | windows | bearings | seconds a run |",
        "|---" * (len(METRICS) + 5) + "|",
    ]
    for test, found in results.items():
        cells = [spread([result["metrics"][metric] for result in found]) for metric in METRICS]
        seconds = statistics.median(status["seconds"] for status in rows[test])
        last = f"{found[0]['naive']['accuracy']:.3f} | {found[0]['samples']} | {found[0]['entities']} | {seconds:.0f}"
        lines.append(f"| {test} | {' | '.join(cells)} | {last} |")
    means = {
        metric: [statistics.mean(results[test][i]["metrics"][metric] for test in MILS) for i in range(len(SEEDS))]
        for metric in METRICS
    }
    lines.append(f"| mean of the folds | {' | '.join(spread(values) for values in means.values())} | | | | |")
    Path(settings["out"]).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
