"""Evaluate: a fresh model, its weights from disk, one pass over a split."""

import dataclasses

import torch
from rich.console import Console
from rich.progress import track

from vibench.data.loader import Data
from vibench.memory.plan import MemoryPlan
from vibench.model import Model
from vibench.step.scores import Scores, TaskResult, score_batch


@torch.inference_mode()
def evaluate(
    model: Model, data: Data, split: str, plan: MemoryPlan, *, batch_size: int, device: torch.device
) -> dict[str, TaskResult]:
    """Task -> what the model reaches on a split, beside its naive line; every window counts once, nothing is drawn."""
    model.to(device).eval()
    scores, naive = Scores(model).to(device), Scores(model).to(device)
    known = {name: data.splits["train"].labels(name).to(device) for name in model.tasks}
    loader = data.loader(split, batch_size)
    console = Console(stderr=True)
    shown = {"console": console, "transient": True, "disable": not console.is_terminal}
    for batch in track(loader, f"evaluating {split}", **shown):
        score_batch(
            model,
            batch,
            scores,
            micro_batch=plan.micro_batch,
            precision=plan.precision,
            device=device,
            naive=(naive, known),
        )
    lines = naive.results()
    return {name: dataclasses.replace(result, naive=lines[name].metrics) for name, result in scores.results().items()}
