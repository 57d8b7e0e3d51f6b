"""Memory that grows: the mistake of the public project, made again by a user's own task. The memory is real."""

import json
import multiprocessing
import re
import subprocess
import sys

import pytest
import torch
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryAUROC

from tests.conftest import TINY
from vibench.errors import ConfigError
from vibench.run import run_experiment
from vibench.tasks.anomaly_detection import AnomalyDetection
from vibench.tasks.rul_prediction import RULPrediction

LEAK_BYTES = 5 * 10**6  # an epoch: 38 MB, scaled down
LONG = ("backbone=dlinear", "backbone.moving_average=3", "training.epochs=2000", "hardware.ram_gib=2")


class Hoard(Metric):
    """Keeps what it is told for ever, as an exact AUROC does."""

    def __init__(self):
        super().__init__()
        self.add_state("scores", [])

    def update(self, scores):
        self.scores.append(scores)

    def compute(self):
        return torch.zeros(())


class Leaking(RULPrediction):
    """Tells a metric of its own every batch; it is in a plain dict, and nobody resets it."""

    extra = {"auroc": Hoard()}

    def update(self, metrics, prediction, target, present, batch):
        super().update(metrics, prediction, target, present, batch)
        self.extra["auroc"].update(torch.ones(LEAK_BYTES // 4 // 4))  # four batches of validation


class Exact(AnomalyDetection):
    """Reports an AUROC that keeps every score."""

    def metrics(self):
        return MetricCollection(dict(super().metrics().items(keep_base=True)) | {"auroc": BinaryAUROC(thresholds=None)})


@pytest.fixture
def leaking(tiny, tmp_path):
    """Run it in a process of its own, whose memory is nobody else's; the status it ends with."""

    def call(*overrides):
        config = tiny(*LONG, *overrides)
        config.task["rul_prediction"]._target_ = f"{__name__}.Leaking"
        process = multiprocessing.get_context("spawn").Process(target=run_experiment, args=(config, tmp_path))
        process.start()
        process.join(240)
        return json.loads((tmp_path / "status.json").read_text())

    return call


def test_a_leak_in_a_metric_is_named_within_twelve_epochs_and_ends_the_run_before_the_memory_does(leaking, tmp_path):
    status = leaking()
    assert (status["state"], status["kind"]) == ("failed", "MEMORY")
    words = r"the memory of the host grows by [4-6]\.\d MiB an epoch.*exhausted in \d+ epochs; there are 19\d\d to come"
    assert re.match(words, status["error"])
    assert "growing: state scores of the metric Hoard (+" in status["error"]
    assert "vibench-resume goes on in a new process" in status["error"]
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["vibench"]
    assert 6 <= saved["epoch"] <= 12
    assert (tmp_path / "memory.svg").read_text().count("<svg") == 1


def test_a_run_that_is_told_to_goes_on_and_the_status_names_the_leak(leaking):
    status = leaking("training.on_growth=go_on", "training.epochs=100", "hardware.ram_gib=0.6")
    (event,) = [event for event in status["events"] if event["kind"] == "growth"]
    assert "state scores of the metric Hoard" in event["text"]
    assert (status["state"], status["steps"]) == ("completed", 400)


def test_two_hundred_clean_epochs_raise_no_alarm(cache, tmp_path):
    """With so little left that any growth worth the name would."""
    script = "from vibench.cli.train import main; main()"
    options = (*TINY, *LONG, "training.epochs=200", "hardware.ram_gib=0.7", "training.global_batch_size=104")
    done = subprocess.run(
        [sys.executable, "-c", script, *options, f"hydra.run.dir={tmp_path}"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["events"] == []
    assert status["steps"] == 200


def test_a_metric_without_a_bound_is_refused_before_training(tiny, tmp_path):
    config = tiny()
    config.task["anomaly_detection"]._target_ = f"{__name__}.Exact"
    words = r"task\.anomaly_detection: the metric auroc \(BinaryAUROC\) keeps every value in its state preds"
    with pytest.raises(ConfigError, match=words) as refused:
        run_experiment(config, tmp_path)
    assert not refused.value.started
    assert not (tmp_path / "checkpoints").exists()
