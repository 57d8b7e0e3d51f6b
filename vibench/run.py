"""One run: from a checked config to a proven result in a directory of its own."""

import dataclasses
import importlib.metadata
import json
import logging
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from lightning.pytorch import seed_everything

from vibench.config.experiment import ExperimentConfig
from vibench.data.build import Data, build
from vibench.errors import VibenchError
from vibench.memory.device import as_found, choose_device, device_name, peak_gib
from vibench.memory.plan import MemoryPlan
from vibench.memory.plan import fit as plan_memory
from vibench.model import build_model, targets
from vibench.report.proof import Evidence, prove
from vibench.report.status import Stopped, recorded, write_json
from vibench.report.table import print_result
from vibench.training.checkpoints import load_weights, read_checkpoint
from vibench.training.evaluate import evaluate
from vibench.training.fit import fit
from vibench.training.scores import TaskResult

log = logging.getLogger("vibench")
PACKAGES = ("vibench", "torch", "lightning", "torchmetrics", "hydra-core", "omegaconf", "h5py", "numpy")


def run_experiment(config: ExperimentConfig, run_dir: str | Path) -> dict[str, Any]:
    """Run an experiment and return what ``status.json`` holds at its end.

    Raises:
        VibenchError: with ``started`` false, nothing was trained; else the run failed.
        Stopped: Ctrl-C or SIGTERM.
    """
    run_dir, began = Path(run_dir), time.time()
    with _signals(), recorded(run_dir, {"seed": config.seed, "hardware": config.hardware.name}) as proven:
        _write_facts(config, run_dir)
        device = choose_device(config.hardware)
        config = dataclasses.replace(config, hardware=as_found(config.hardware, config.training.precision, device))
        data = build(config.data, targets(config))
        write_json(run_dir / "split.json", data.certificate)
        sizes = {"n_channels": data.n_channels, "n_classes": len(data.classes)}
        plan = plan_memory(config, **sizes)
        write_json(run_dir / "plan.json", plan.as_dict())
        _say_what_starts(config, data, plan, device)
        try:
            result = _train_and_prove(config, data, plan, device, run_dir, sizes)
        except VibenchError as error:
            error.started = True
            raise
        result["seconds"] = time.time() - began
        proven(result)
    status = json.loads((run_dir / "status.json").read_text())
    print_result(status, str(run_dir))
    return status


def _train_and_prove(
    config: ExperimentConfig, data: Data, plan: MemoryPlan, device: torch.device, run_dir: Path, sizes: dict[str, int]
) -> dict[str, Any]:
    seed_everything(config.seed, workers=True, verbose=False)
    identity = {"config": plain(config), "classes": data.classes} | sizes
    model = build_model(config, **sizes)
    fitted = fit(model, data, config, plan, device=device, run_dir=run_dir, identity=identity)
    fresh = build_model(config, **sizes)  # other weights, until the checkpoint's are read
    load_weights(fresh, read_checkpoint(fitted.checkpoint), fitted.checkpoint)
    batch_size = config.training.global_batch_size
    tested = evaluate(fresh, data, "test", plan, batch_size=batch_size, device=device)
    results = {name: dataclasses.asdict(result) for name, result in ordered(config, tested).items()}
    prove(
        Evidence(
            promised_steps=fitted.promised_steps,
            steps=fitted.steps,
            early_stop=fitted.early_stop,
            promised_metrics={name: list(task.METRICS) for name, task in config.task.items()},
            results=results,
            labelled=data.certificate["splits"]["test"]["labelled_windows"],
            certificate=data.certificate,
        )
    )
    return {
        "results": results,
        "promised_steps": fitted.promised_steps,
        "steps": fitted.steps,
        "skipped_steps": fitted.skipped_steps,
        "early_stop": fitted.early_stop,
        "checkpoint": str(fitted.checkpoint.relative_to(run_dir)),
        "split": _short_certificate(data.certificate),
        "plan": plan.as_dict(),
        "device": device_name(device),
        "peak_gib": peak_gib(device),
    }


def ordered(config: ExperimentConfig, results: dict[str, TaskResult]) -> dict[str, TaskResult]:
    """Results with the metrics in the order of the schema."""
    return {
        name: dataclasses.replace(results[name], metrics={m: results[name].metrics[m] for m in task.METRICS})
        for name, task in config.task.items()
    }


def plain(value: Any) -> Any:
    """A config as dicts, lists, text and numbers."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.name if isinstance(value, Enum) else value


def _write_facts(config: ExperimentConfig, run_dir: Path) -> None:
    """``config.yaml``, every value the run was given, and ``env.json``, what it ran with."""
    (run_dir / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False))
    write_json(
        run_dir / "env.json",
        {
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    )


def _say_what_starts(config: ExperimentConfig, data: Data, plan: MemoryPlan, device: torch.device) -> None:
    windows = ", ".join(f"{name} {len(split)}" for name, split in data.splits.items())
    log.info(f"{plan.parameters:,} parameters, {plan.precision}, on {device_name(device)}; windows: {windows}")
    if not data.certificate["clean"]:
        log.warning("LEAKY SPLIT, as data.allow_leaky=true asks for: the result says so")


def _short_certificate(certificate: dict[str, Any]) -> dict[str, Any]:
    """The certificate with numbers for lists of names; ``split.json`` holds the names."""
    splits = {name: part | {"entities": len(part["entities"])} for name, part in certificate["splits"].items()}
    shared = [common | {"entities": len(common["entities"])} for common in certificate["shared"]]
    return certificate | {
        "splits": splits,
        "shared": shared,
        "short_recordings": len(certificate["short_recordings"]),
    }


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run as ``cancelled``, whatever library is at work."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopped = Stopped(128 + number)
        stopped.args = (f"stopped by {signal.Signals(number).name}",)
        stopped.code = 128 + number
        raise stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
