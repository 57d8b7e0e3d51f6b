"""What happens in a run's directory: data, plan, training, evaluation from disk, proof."""

import dataclasses
import gc
import importlib.metadata
import logging
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
from vibench.config.hardware import requeues_left
from vibench.config.plain import plain
from vibench.data.audit import audit_start, entities_of
from vibench.data.build import build
from vibench.data.loader import Data
from vibench.errors import OutOfMemoryError, VibenchError, is_out_of_memory
from vibench.memory.device import (
    as_found,
    choose_device,
    device_name,
    free_gib,
    peak_gib,
    reset_peak,
)
from vibench.memory.host import check_host
from vibench.memory.last_bill import last_bill
from vibench.memory.levers import with_levers
from vibench.memory.plan import MemoryPlan, refit
from vibench.memory.plan import fit as plan_memory
from vibench.model import build_model, targets
from vibench.proving import prove_it, remember_it, short_certificate, tested
from vibench.report.status import FORGOTTEN, changes_of, note, write_json
from vibench.signals import deferred
from vibench.step.ranks import least_over_ranks, leave, of_first, rank
from vibench.step.recovery import first_line, give_back
from vibench.step.scores import check_bounded
from vibench.training.checkpoints import PREVIOUS, load_weights
from vibench.training.fit import fit, promised_steps
from vibench.training.resume import resumed
from vibench.training.start import start_from

log = logging.getLogger("vibench")
RESET = {  # key that a user may change on resuming -> what events have made of it, forgotten then
    "training.lr": ("lr_scale", "nans"),
    "training.on_nan": ("nans",),
    "training.nan_limit": ("nans",),
    "training.micro_batch": ("micro_batch",),
    "training.accumulation": ("micro_batch",),
    "training.checkpointing": ("checkpointing",),
    "training.optimizer_state": ("optimizer_state",),
}
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
    ended = OutOfMemoryError(f"{said}; {last_bill(config, known.get('plan'), known.get('sizes'))}")
    ended.started = True
    raise ended


def _innermost(error: BaseException) -> str:
    """The function of vibench that was at work."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "vibench" in frame.filename]
    return f"{Path(frames[-1].filename).stem}.{frames[-1].name}" if frames else "a library"


def _train_and_prove(config: ExperimentConfig, run_dir: Path, known: dict[str, Any]) -> dict[str, Any]:
    """
    Args:
        known: filled with what is known so far: ``plan``, ``sizes`` of the data, ``begun`` once a step may be made.
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
    fresh = {name: FORGOTTEN[name] for text in changed for name in RESET.get(text.partition(": ")[0], ())}
    changes = of_first(changes_of(run_dir)) | fresh
    promised = promised_steps(data, config)  # refuses a warm-up that would not end, a task that would not begin
    resume, said = resumed(plain(config), data, run_dir, promised)
    if resume is not None:
        changes = resume["vibench"]["auto"] | changes
        if "nans" in fresh:
            resume["vibench"]["nans"] = 0
    free = plan = None
    if device.type == "cuda":
        give_back(device)  # of an attempt before, in this process
        free = least_over_ranks(free_gib(device), device)
    if not rank():  # for all of them
        plan = _plan(with_levers(config, changes), data, sizes, free, run_dir)
    plan = of_first(plan)
    known |= {"plan": plan, "sizes": sizes}
    seed_everything(config.seed)
    model = build_model(config, **sizes)
    check_bounded(model)
    if resume is not None:
        load_weights(model, resume, run_dir / "checkpoints")
        start = resume["vibench"]["start"]
    elif (start := start_from(model, config, data.classes)) is not None:
        audit_start(data.certificate, start["seen"], "training.init_from", config.data.allow_leaky)
    if resume is None:
        for task in model.tasks.values():
            task.meet(data)
    if not rank():
        write_json(run_dir / "split.json", data.certificate)
        _say_what_starts(data, plan, device)
    if rank():  # the weights are equal by now; what is drawn from here on is each one's own
        torch.manual_seed(config.seed + rank())
    identity = {
        "config": plain(config),
        "classes": data.classes,
        "data": data.fingerprint(),
        "start": start,
        "seen": _seen(data, start, resume),
    } | sizes
    done = resume["vibench"]["steps_done"] if resume is not None else None
    went_on = [f"went on from step {done} of {promised}"] if resume is not None else []

    def accept() -> None:
        """Nothing is refused any more: what is another than before is so from here on."""
        known["begun"] = True
        if not rank():
            _note_what_is_new(run_dir, asked, changed, fresh, [*said, *went_on])

    try:
        with deferred():
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
        remember_it(config, plan, fitted, device)
        results = tested(config, data, plan, fitted, device, sizes, run_dir)
        prove_it(config, data, fitted, results)
    except VibenchError as error:
        error.started = "begun" in known
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
        "split": short_certificate(data.certificate),
        "plan": plan.as_dict() | {"timeline": {}},  # plan.json has it
        "device": device_name(device),
        "peak_gib": peak_gib(device),
    }


def _seen(data: Data, start: dict[str, Any] | None, resume: dict[str, Any] | None) -> list[str] | None:
    """Entities that the weights have seen or will have; None where that is not known of what they began with."""
    seen: list[str] | None = entities_of(data.certificate, "train", "val")
    for other in (start, resume and resume["vibench"]):
        if other is not None:
            seen = None if other["seen"] is None or seen is None else sorted({*seen, *other["seen"]})
    return seen


def _note_what_is_new(
    run_dir: Path, config: ExperimentConfig, changed: list[str], fresh: dict[str, Any], said: list[str]
) -> None:
    """Of a run that goes on: what its config changes, and from where. Of one that begins: nothing.

    Args:
        fresh: what events have made of levers and rates, forgotten now.
        said: what else there is to tell.
    """
    if changed:
        told = f"config changed: {', '.join(changed)}"
        note(run_dir, {"kind": "config", "step": None, "text": told, "changes": fresh})
        frozen.freeze(plain(config), run_dir)
    for text in said:
        log.info(text)
        note(run_dir, {"kind": "resume", "step": None, "text": text, "changes": {}})


def seed_everything(seed: int) -> None:
    """Every generator that a model, or a user's part of it, may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _plan(config: ExperimentConfig, data: Data, sizes: dict[str, int], free: float | None, run_dir: Path) -> MemoryPlan:
    """Made for the card, of which ``free`` GiB are free; written beside the results."""
    windows = {name: len(split) for name, split in data.splits.items()} | {"train": len(data.draw)}
    plan = plan_memory(config, **sizes, windows=windows, requeues=requeues_left())
    if free is not None:
        plan = refit(config, plan, free, **sizes, windows=windows)
    check_host(config.hardware, plan.host)
    write_json(run_dir / "plan.json", plan.as_dict())
    return plan


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
    if len(data.draw) < len(data.splits["train"]):
        windows += f"; an epoch draws {len(data.draw)}"
    log.info(f"{plan.parameters:,} parameters, {plan.precision}, on {device_name(device)}; windows: {windows}")
    if not data.certificate["clean"]:
        log.warning("LEAKY SPLIT, as data.allow_leaky=true asks for: the result says so")
