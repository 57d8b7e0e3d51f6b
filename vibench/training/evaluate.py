"""Evaluate: a fresh model, its weights from disk, one pass over a split."""

import dataclasses

import torch

from vibench.data.loader import Data, batches
from vibench.data.progress import shown
from vibench.memory.plan import MemoryPlan
from vibench.memory.recovery import halve_until_it_fits
from vibench.model import Model
from vibench.step.scores import Scores, TaskResult, score_batch
from vibench.training.training import Note


def evaluate(
    model: Model,
    data: Data,
    split: str,
    plan: MemoryPlan,
    *,
    batch_size: int,
    device: torch.device,
    note: Note = lambda event: None,
) -> dict[str, TaskResult]:
    """Task -> what the model reaches on a split, beside its naive line; every window counts once, nothing is drawn.

    Where memory runs out it is begun again with half as many windows at once.
    """
    model.to(device).eval()
    known = {name: data.splits["train"].labels(name).to(device) for name in model.tasks}
    loader = data.loader(split, batch_size)

    @torch.inference_mode()
    def attempt(micro_batch: int) -> dict[str, TaskResult]:
        scores, naive = Scores(model).to(device), Scores(model).to(device)
        for batch in shown(batches(loader), f"evaluating {split}", len(loader)):
            score_batch(
                model,
                batch,
                scores,
                micro_batch=micro_batch,
                precision=plan.precision,
                device=device,
                naive=(naive, known),
            )
        lines = naive.results()
        found = scores.results()
        return {name: dataclasses.replace(result, naive=lines[name].metrics) for name, result in found.items()}

    def halved(micro_batch: int, what: str) -> None:
        note({"kind": "memory", "step": None, "text": what, "changes": {}})

    return halve_until_it_fits(attempt, plan.micro_batch, batch_size, model, device, halved)
