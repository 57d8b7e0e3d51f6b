"""What a completed run must show. No exception is no proof."""

import math
from dataclasses import dataclass
from typing import Any

from vibench.errors import UnprovenError


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a run has to show.

    Attributes:
        promised_steps, steps: optimizer steps that were due, and that were done.
        skipped_steps: steps without an update, since fp16 gradients overflowed.
        early_stop: the named reason for fewer; None.
        promised_metrics: task -> names of its metrics.
        results: task -> metrics, samples, entities and loss, from a fresh model with weights from disk.
        labelled: task -> windows of the test split that have a label, counted when the splits were made.
        labels_seen: task -> windows with a label in the steps that trained it.
        certificate: what the audit of the splits found.
    """

    promised_steps: int
    steps: int
    skipped_steps: int
    early_stop: str | None
    promised_metrics: dict[str, list[str]]
    results: dict[str, dict[str, Any]]
    labelled: dict[str, int]
    labels_seen: dict[str, int]
    certificate: dict[str, Any]


def prove(evidence: Evidence) -> None:
    """Raise unless everything promised is there.

    Raises:
        UnprovenError: names all that is missing.
    """
    if missing := unproven(evidence):
        raise UnprovenError(f"the run ended, but its result is not proven: {'; '.join(missing)}")


def unproven(evidence: Evidence) -> list[str]:
    """Everything promised that is missing."""
    missing = []
    steps, due = evidence.steps, evidence.promised_steps
    if not 0 < steps <= due or (steps < due and not evidence.early_stop):
        missing.append(f"{steps} of {due} promised steps were done")
    elif steps == evidence.skipped_steps:
        missing.append(f"none of the {steps} steps changed a weight")
    for task, names in evidence.promised_metrics.items():
        result = evidence.results.get(task)
        if result is None:
            missing.append(f"{task} was not evaluated")
            continue
        if not evidence.labels_seen[task]:
            missing.append(f"{task} was trained on no label")
        if result["samples"] == 0:
            missing.append(f"{task} was evaluated on no sample")
        elif result["samples"] != evidence.labelled[task]:
            missing.append(f"{task} was evaluated on {result['samples']} of {evidence.labelled[task]} windows")
        if result["entities"] == 0:
            missing.append(f"{task} was evaluated on no entity")
        promised = {"loss": result["loss"]} | {name: result["metrics"].get(name) for name in names}
        for name, value in promised.items():
            if value is None or not math.isfinite(value):
                missing.append(f"{task}/{name} is {'missing' if value is None else value}")
    if not evidence.certificate["clean"] and not evidence.certificate["waived"]:
        missing.append("the splits share data")
    return missing
