"""What tests of faults share: a run that stops at a step by its own fault, and what two runs came to."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vibench.backbones.patchtst import PatchTST
from vibench.config.experiment import ExperimentConfig
from vibench.training.checkpoints import read_checkpoint


class Stumbles(PatchTST):
    """A user's own backbone that raises in one training step, and is mended afterwards."""

    at: int | None = None  # the step, from 1
    calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        if self.training and type(tokens.detach()) is Tensor and tokens.device.type == "cpu":  # not in a trace
            self.calls += 1
            if self.calls == self.at:
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return super().forward(tokens)


def stumbling(config: ExperimentConfig) -> ExperimentConfig:
    config.backbone._target_ = f"{__name__}.Stumbles"
    return config


def status_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "status.json").read_text())


def events(run_dir: Path) -> list[str]:
    """Texts of what happened to a run."""
    return [event["text"] for event in status_of(run_dir)["events"]]


def rows(run_dir: Path) -> list[dict[str, str]]:
    """What a run has logged, without what is of the process."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("memory/")} for row in csv.DictReader(file)]


def weights(run_dir: Path, name: str = "last.ckpt") -> dict[str, Tensor]:
    return read_checkpoint(run_dir / "checkpoints" / name)["state_dict"]


def assert_same_end(one: Path, other: Path) -> None:
    """Two runs are complete and came to the same, to the bit."""
    assert status_of(one)["state"] == status_of(other)["state"] == "completed"
    assert status_of(one)["results"] == status_of(other)["results"]
    assert rows(one) == rows(other)
    mine, others = weights(one), weights(other)
    assert mine.keys() == others.keys()
    assert [name for name in mine if not torch.equal(mine[name], others[name])] == []
