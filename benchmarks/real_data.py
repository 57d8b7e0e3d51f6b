"""Measured bearings: CWRU and FEMTO through vibench-data and vibench-train, every fold, whatever it gives.

    python benchmarks/real_data.py raw=DIR out=benchmarks/results/real_data.md

DIR holds ``cwru/*.mat`` and ``femto/*/BearingX_Y/*.csv``. Each row is one protocol; its numbers are read from the
``status.json`` of completed runs.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
CWRU = ("data=cwru", "task=classification", "hardware=cpu")
PROTOCOLS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "CWRU, 10 classes, 0 hp, thirds of each recording (leaky)": [
        (
            "thirds",
            (
                *CWRU,
                "data.window=2048",
                "data.stride=128",
                "training.epochs=8",
                "data.label=fault_size",
                "+data.only.load=[0]",
                "data.split.by=time",
                "data.split.fractions=[0.34,0.33,0.33]",
                "data.allow_leaky=true",
            ),
        )
    ],
    "CWRU, 3 faults, leave one bearing set (fault size) out": [
        (
            f"test {mils}",
            (
                *CWRU,
                "data.stride=256",
                "training.epochs=6",
                "+data.only.fault=[inner,outer,ball]",
                "data.split.by=mils",
                f"data.split.train=[{','.join(m for m in ('007', '014', '021') if m != mils)}]",
                f"data.split.test=[{mils}]",
                "training.monitor=null",
            ),
        )
        for mils in ("007", "014", "021")
    ],
    "CWRU, 10 classes, trained at 0 hp, tested at 3 hp (same bearings: leaky)": [
        (
            "0 hp -> 3 hp",
            (
                *CWRU,
                "data.stride=256",
                "training.epochs=6",
                "data.label=fault_size",
                "data.split.by=load",
                "data.split.train=['0']",
                "data.split.test=['3']",
                "data.allow_leaky=true",
                "training.monitor=null",
            ),
        )
    ],
    "FEMTO, remaining life, one bearing trained on, another scored": [
        (
            f"{train} -> {test}",
            (
                "data=femto",
                "task=rul_prediction",
                "hardware=cpu",
                "data.stride=256",
                "task.rul_prediction.max_rul_s=5000",
                f"data.split.train=[{train}]",
                f"data.split.test=[{test}]",
                "training.monitor=null",
                "training.epochs=30",
            ),
        )
        for train, test in (("Bearing3_1", "Bearing2_7"), ("Bearing2_7", "Bearing3_1"))
    ],
}
SHOWN = {"classification": ("accuracy", "macro_f1", "auroc"), "rul_prediction": ("mae_s", "mse", "r2", "phm08_mean")}


def command(name: str, *arguments: str, cwd: Path) -> None:
    code = f"from vibench.cli.{name} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"vibench-{name} {' '.join(arguments)} failed\n{done.stdout}{done.stderr}")


def run(folder: Path, options: tuple[str, ...], seed: int) -> dict[str, Any]:
    """One run's status."""
    data = next(option.removeprefix("data=") for option in options if option.startswith("data="))
    run_dir = Path(tempfile.mkdtemp(dir=folder))
    run_dir.rmdir()
    command("train", *options, f"data.store={data}.h5", f"seed={seed}", f"hydra.run.dir={run_dir}", cwd=folder)
    return json.loads((run_dir / "status.json").read_text())


def rows(folder: Path) -> list[str]:
    lines = []
    for protocol, folds in PROTOCOLS.items():
        task = "rul_prediction" if protocol.startswith("FEMTO") else "classification"
        lines += [f"\n### {protocol}\n", f"| fold | {' | '.join(SHOWN[task])} | windows | entities | seconds a run |"]
        lines.append("|---" * (len(SHOWN[task]) + 4) + "|")
        for fold, options in folds:
            runs = [run(folder, options, seed) for seed in SEEDS]
            results = [r["results"][task] for r in runs]
            cells = []
            for metric in SHOWN[task]:
                values = [result["metrics"][metric] for result in results]
                digits = 0 if metric == "mae_s" else 3
                cells.append(
                    f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
                )
            seconds = statistics.median(r["seconds"] for r in runs)
            counts = f"{results[0]['samples']} | {results[0]['entities']} | {seconds:.0f}"
            lines.append(f"| {fold} | {' | '.join(cells)} | {counts} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    raw, out = Path(settings["raw"]).resolve(), Path(settings["out"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command("data", "prepare", "cwru", f"raw={raw / 'cwru'}", cwd=folder)
        command("data", "prepare", "femto", f"raw={raw / 'femto'}", cwd=folder)
        head = [
            "# Measured bearings",
            "",
            f"Written by `benchmarks/real_data.py`; mean (least to greatest) of seeds {', '.join(map(str, SEEDS))}, "
            "backbone patchtst on one CPU core, last weights except for the thirds (best validation loss).",
        ]
        out.write_text("\n".join(head + rows(folder)) + "\n")


if __name__ == "__main__":
    main()
