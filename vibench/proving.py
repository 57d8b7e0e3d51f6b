"""From a checkpoint to a proven result: test it, compare what it took with the plan, and show what was promised."""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vibench.config.experiment import ExperimentConfig
from vibench.data.loader import Data
from vibench.memory.device import is_planned, peak_gib
from vibench.memory.measured import Measured, remember
from vibench.memory.plan import MemoryPlan
from vibench.model import build_model
from vibench.report.proof import Evidence, prove
from vibench.report.status import note
from vibench.training.checkpoints import load_weights, read_checkpoint
from vibench.training.evaluate import evaluate
from vibench.training.fit import Fitted

LARGE = 0.1  # part of a card that a run must take for its peak to say something of others: a small one is all workspace


def tested(
    config: ExperimentConfig,
    data: Data,
    plan: MemoryPlan,
    fitted: Fitted,
    device: torch.device,
    sizes: dict[str, int],
    run_dir: Path,
) -> dict[str, Any]:
    """Read the checkpoint into a fresh model and test that."""
    fresh = build_model(config, **sizes)  # other weights, until the checkpoint's are read
    load_weights(fresh, read_checkpoint(fitted.checkpoint), fitted.checkpoint)
    size = config.training.global_batch_size
    tested = evaluate(fresh, data, "test", plan, batch_size=size, device=device, note=partial(note, run_dir))
    return {
        name: dataclasses.asdict(tested[name])
        | {
            "metrics": {m: tested[name].metrics[m] for m in task.METRICS},  # in the order of the schema
            "naive": {m: _finite(tested[name].naive[m]) for m in task.METRICS},
            "better": dict(task.METRICS),
            "headline": task.HEADLINE,
        }
        for name, task in config.task.items()
    }


def remember_it(config: ExperimentConfig, plan: MemoryPlan, fitted: Fitted, device: torch.device) -> None:
    """Keep what the run took beside what was predicted, where it ran as it was planned."""
    if not is_planned(config.hardware, device):
        return
    step = peak = None
    if plan.step_seconds is not None and fitted.step_seconds is not None:
        step = fitted.step_seconds * (plan.pace or 1) / plan.step_seconds
    if plan.peak_gib is not None and device.type == "cuda" and plan.peak_gib >= LARGE * config.hardware.gpu_memory_gib:
        peak = peak_gib(device) / plan.peak_gib
    if step is not None or peak is not None:
        backbone = config.backbone._target_.rpartition(".")[2]
        remember(
            Measured(hardware=config.hardware.name, backbone=backbone, precision=plan.precision, peak=peak, step=step)
        )


def _finite(value: float) -> float | None:
    """The value, or None where it is not defined: a constant has no correlation, one class no ranking."""
    return value if math.isfinite(value) else None


def prove_it(config: ExperimentConfig, data: Data, fitted: Fitted, results: dict[str, Any]) -> None:
    prove(
        Evidence(
            promised_steps=fitted.promised_steps,
            steps=fitted.steps,
            skipped_steps=fitted.skipped_steps,
            early_stop=fitted.early_stop,
            promised_metrics={name: list(task.METRICS) for name, task in config.task.items()},
            results=results,
            labelled=data.certificate["splits"]["test"]["labelled_windows"],
            labels_seen=fitted.labels_seen,
            certificate=data.certificate,
        )
    )


def short_certificate(certificate: dict[str, Any]) -> dict[str, Any]:
    """The certificate with numbers for lists of names; ``split.json`` holds the names."""
    splits = {name: part | {"entities": len(part["entities"])} for name, part in certificate["splits"].items()}
    shared = [common | {"entities": len(common["entities"])} for common in certificate["shared"]]
    return certificate | {
        "splits": splits,
        "shared": shared,
        "short_recordings": len(certificate["short_recordings"]),
    }
