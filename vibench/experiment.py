"""What happens in a run's directory: data, plan, training, evaluation from disk, proof."""

import dataclasses
import gc
import importlib.metadata
import logging
import math
import platform
import random
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vibench.config import frozen
from vibench.config.experiment import ExperimentConfig
from vibench.data.audit import audit_start, entities_of
from vibench.data.build import build
from vibench.data.loader import Data
from vibench.errors import OutOfMemoryError, VibenchError, is_out_of_memory
from vibench.memory.device import (
    as_found,
    choose_device,
    device_name,
    free_gib,
    is_planned,
    peak_gib,
    reset_peak,
)
from vibench.memory.host import check_host
from vibench.memory.last_bill import last_bill
from vibench.memory.levers import with_levers
from vibench.memory.measured import Measured, remember
from vibench.memory.plan import MemoryPlan, refit
from vibench.memory.plan import fit as plan_memory
from vibench.model import build_model, targets
from vibench.report.plain import plain
from vibench.report.proof import Evidence, prove
from vibench.report.status import changes_of, note, write_json
from vibench.step.ranks import least_over_ranks, leave, of_first, rank
from vibench.step.recovery import first_line, give_back
from vibench.step.scores import check_bounded
from vibench.training.checkpoints import PREVIOUS, load_weights, read_checkpoint
from vibench.training.evaluate import evaluate
from vibench.training.fit import Fitted, fit, promised_steps
from vibench.training.resume import resumed
from vibench.training.start import start_from

log = logging.getLogger("vibench")
RESET = {  # key that a user may change on resuming -> what events have made of it, forgotten then
    "training.lr": {"lr_scale": 1.0, "nans": 0},
    "training.on_nan": {"nans": 0},
    "training.nan_limit": {"nans": 0},
    "training.micro_batch": {"micro_batch": "auto"},
    "training.accumulation": {"micro_batch": "auto"},
    "training.checkpointing": {"checkpointing": "auto"},
    "training.optimizer_state": {"optimizer_state": "auto"},
}
LARGE = 0.1  # part of a card that a run must take for its peak to say something of others: a small one is all workspace
PACKAGES = ("vibench", "torch", "torchmetrics", "hydra-core", "omegaconf", "h5py", "numpy")


def train_and_prove(config: ExperimentConfig, run_dir: Path) -> dict[str, Any]:
    """Everything a completed run has to show, for its status; of several ranks the first shows it.

    Raises:
        VibenchError: ``started`` says whether training had begun.
    """
    known: dict[str, Any] = {}
    try:
        return _train_and_prove(config, run_dir, known)
    except Exception as error:
        ours = isinstance(error, VibenchError)
        if not (isinstance(error, OutOfMemoryError) or (not ours and is_out_of_memory(error))):
            raise
        said = str(error) if ours else f"out of memory in {_innermost(error)}: {first_line(error)}"
        log.debug("out of memory", exc_info=True)
    # out of the except block: the error is gone, and with it the model that its frames held
    give_back(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    ended = OutOfMemoryError(f"{said}; {last_bill(config, **known)}")
    ended.started = True
    raise ended


def _innermost(error: BaseException) -> str:
    """The function of vibench that was at work."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "vibench" in frame.filename]
    return f"{Path(frames[-1].filename).stem}.{frames[-1].name}" if frames else "a library"


def _train_and_prove(config: ExperimentConfig, run_dir: Path, known: dict[str, Any]) -> dict[str, Any]:
    """
    Args:
        known: filled with the plan and the sizes of the data as they become known.
    """
    if not rank():
        write_json(run_dir / "env.json", environment())
    device = choose_device(config.hardware)
    reset_peak(device)
    asked = config
    config = dataclasses.replace(config, hardware=as_found(config.hardware, config.training.precision, device))
    data = build(config.data, targets(config))
    sizes = {"n_channels": data.n_channels, "n_classes": len(data.classes)}
    changed = list(frozen.differences(frozen.read(run_dir), plain(asked)))
    fresh = {name: value for text in changed for name, value in RESET.get(text.partition(": ")[0], {}).items()}
    changes = of_first(changes_of(run_dir)) | fresh
    free = least_over_ranks(free_gib(device), device) if device.type == "cuda" else None
    plan = None
    if not rank():  # for all of them
        plan = _plan(with_levers(config, changes), data, sizes, free, run_dir)
    plan = of_first(plan)
    known |= {"plan": plan, "sizes": sizes}
    promised = promised_steps(data, config)  # refuses a warm-up that would not end, a task that would not begin
    seed_everything(config.seed)
    model = build_model(config, **sizes)
    check_bounded(model)
    resume = resumed(plain(config), data, run_dir, promised)
    if resume is not None:
        load_weights(model, resume, run_dir / "checkpoints")
    start = resume["vibench"]["start"] if resume is not None else start_from(model, config, data.classes)
    if start is not None and resume is None:
        audit_start(data.certificate, start["seen"], "training.init_from", config.data.allow_leaky)
    if not rank():
        write_json(run_dir / "split.json", data.certificate)
        _say_what_starts(data, plan, device)
    if rank():  # the weights are equal by now; what is drawn from here on is each one's own
        torch.manual_seed(config.seed + rank())
    seen: list[str] | None = entities_of(data.certificate, "train", "val")
    for other in (start, resume and resume["vibench"]):
        if other is not None:  # what is not known stays unknown
            seen = None if other["seen"] is None or seen is None else sorted({*seen, *other["seen"]})
    identity = {"config": plain(config), "classes": data.classes, "seen": seen, "start": start} | sizes
    identity["data"] = data.fingerprint()
    begun = False

    def accept() -> None:
        """Nothing is refused any more: what is another than before is so from here on."""
        nonlocal begun
        begun = True
        if rank():
            return
        if changed:
            told = f"config changed: {', '.join(changed)}"
            note(run_dir, {"kind": "config", "step": None, "text": told, "changes": fresh})
            frozen.freeze(plain(asked), run_dir)
        if resume is not None:
            done = resume["vibench"]["steps_done"]
            text = f"went on from step {done} of {promised}"
            log.info(text)
            note(run_dir, {"kind": "resume", "step": done, "text": text, "changes": {}})

    try:
        fitted = fit(
            model,
            data,
            config,
            plan,
            device=device,
            run_dir=run_dir,
            identity=identity,
            resume=resume,
            note=(lambda event: None) if rank() else partial(note, run_dir),
            accepted=accept,
            lr_scale=changes.get("lr_scale", 1.0),
            nans=changes.get("nans", 0),
        )
        first = not rank()
        leave()
        if not first:
            return {}
        del model  # of a card's weights and state only the new model's remain
        gc.collect()
        _remember(config, plan, fitted, device)
        results = _tested(config, data, plan, fitted, device, sizes, run_dir)
        _prove(config, data, fitted, results)
    except VibenchError as error:
        error.started = begun
        raise
    (run_dir / "checkpoints" / PREVIOUS).unlink(missing_ok=True)  # there is nothing to go on with any more
    return {
        "results": results,
        "promised_steps": fitted.promised_steps,
        "steps": fitted.steps,
        "skipped_steps": fitted.skipped_steps,
        "early_stop": fitted.early_stop,
        "labels_seen": fitted.labels_seen,
        "task_weights": fitted.task_weights,
        "step_seconds": fitted.step_seconds,
        "micro_batch": fitted.micro_batch,
        "start": start and {key: start[key] for key in ("checkpoint", "parts")},
        "checkpoint": str(fitted.checkpoint.relative_to(run_dir)),
        "split": _short_certificate(data.certificate),
        "plan": plan.as_dict() | {"timeline": {}},  # plan.json has it
        "device": device_name(device),
        "peak_gib": peak_gib(device),
    }


def seed_everything(seed: int) -> None:
    """Every generator that a model, or a user's part of it, may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _plan(config: ExperimentConfig, data: Data, sizes: dict[str, int], free: float | None, run_dir: Path) -> MemoryPlan:
    """Made for the card, of which ``free`` GiB are free; written beside the results."""
    windows = {name: len(split) for name, split in data.splits.items()}
    plan = plan_memory(config, **sizes, windows=windows)
    if free is not None:
        plan = refit(config, plan, free, **sizes, windows=windows)
    check_host(config.hardware, plan.host)
    write_json(run_dir / "plan.json", plan.as_dict())
    return plan


def _tested(
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


def _remember(config: ExperimentConfig, plan: MemoryPlan, fitted: Fitted, device: torch.device) -> None:
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


def _prove(config: ExperimentConfig, data: Data, fitted: Fitted, results: dict[str, Any]) -> None:
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


def environment() -> dict[str, Any]:
    """What the run runs with."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _say_what_starts(data: Data, plan: MemoryPlan, device: torch.device) -> None:
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
