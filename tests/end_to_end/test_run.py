"""A run as its user sees it: one command, one table, one directory that explains itself."""

import json

import pytest
import torch
import yaml

from tests.conftest import TINY, real_data
from vibench.data.build import build
from vibench.errors import MemoryFitError
from vibench.memory.plan import fit as plan_memory
from vibench.model import build_model, targets
from vibench.run import run_experiment
from vibench.training.checkpoints import load_weights, read_checkpoint
from vibench.training.evaluate import evaluate


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A completed run: its config, directory and status."""
    config, folder = tiny("training.epochs=2"), tmp_path_factory.mktemp("run")
    return config, folder, run_experiment(config, folder)


def test_the_command_trains_tests_and_ends_with_a_table(vibench, tmp_path):
    done = vibench("train", *TINY, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    for text in ("task", "metric", "naive", "margin", "entities", "phm08_mean", "audit    clean", "device   cpu"):
        assert text in done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "completed"


def test_the_directory_explains_itself(finished):
    _, folder, _ = finished
    there = {path.name for path in folder.iterdir()}
    assert there >= {"config.yaml", "plan.json", "status.json", "metrics.csv", "checkpoints", "env.json", "split.json"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert yaml.safe_load((folder / "config.yaml").read_text())["backbone"]["e_layers"] == 3
    assert json.loads((folder / "env.json").read_text())["packages"]["torch"] == torch.__version__


def test_a_checkpoint_holds_plain_types_and_gives_the_reported_metrics_again(finished):
    config, folder, status = finished
    path = folder / status["checkpoint"]
    checkpoint = read_checkpoint(path)  # weights_only: refuses anything but plain types
    assert checkpoint["vibench"]["config"]["task"]["rul_prediction"]["max_rul_s"] == 7200
    data = build(config.data, targets(config))
    sizes = {"n_channels": checkpoint["vibench"]["n_channels"], "n_classes": checkpoint["vibench"]["n_classes"]}
    model = build_model(config, **sizes)
    load_weights(model, checkpoint, path)
    plan = plan_memory(config, **sizes)
    again = evaluate(model, data, "test", plan, batch_size=7, device=torch.device("cpu"))
    for task, result in status["results"].items():
        assert again[task].metrics == pytest.approx(result["metrics"], rel=1e-4, abs=1e-6)
        assert again[task].samples == result["samples"] > 0


def test_the_same_config_gives_the_same_result(finished, tmp_path):
    config, _, status = finished
    assert run_experiment(config, tmp_path)["results"] == status["results"]


def test_the_status_says_what_stands_behind_every_number(finished):
    _, _, status = finished
    assert status["steps"] == status["promised_steps"] > 0
    assert status["split"]["clean"]
    assert status["split"]["splits"]["test"]["entities"] > 0
    assert status["results"]["rul_prediction"]["entities"] == 2
    assert status["device"].startswith("cpu")
    assert status["peak_gib"] > 0


def test_an_allowed_leak_is_named_in_the_result(tiny, tmp_path, capsys):
    options = ("data.split.by=time", "data.duration_s=0.2", "data.allow_leaky=true", "training.max_steps=2")
    status = run_experiment(tiny(*options, "training.warmup_steps=0"), tmp_path)
    assert not status["split"]["clean"]
    assert status["split"]["waived"]
    assert "LEAKY, waived by data.allow_leaky=true: train and val share 30 entities" in capsys.readouterr().out


def test_a_run_planned_for_a_card_goes_to_the_cpu_loudly(tiny, tmp_path, caplog):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    options = ("hardware=rtx3090", "training.max_steps=2", "training.warmup_steps=0")
    status = run_experiment(tiny(*options), tmp_path)
    assert "NO GPU HERE: planned for hardware=rtx3090, running on the CPU" in caplog.text
    assert (status["hardware"], status["plan"]["precision"]) == ("rtx3090", "bf16")
    assert status["device"].startswith("cpu")


def test_a_run_that_its_host_cannot_hold_is_refused_before_anything_is_trained(tiny, tmp_path):
    words = r"the run takes [\d.]+ GiB of the host's memory, hardware\.ram_gib=0\.25: processes 0\.\d+.*; use "
    with pytest.raises(MemoryFitError, match=words) as refused:
        run_experiment(tiny("hardware.ram_gib=0.25"), tmp_path)
    assert not refused.value.started
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["kind"]) == ("failed", "MEMORY")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("name", ["dlinear", "patchtst"])
def test_the_debug_foundation_runs_complete(resolved, tmp_path, name):
    config = resolved(
        f"experiment=foundation/{name}_debug", "hardware=cpu", "training.max_steps=3", "training.warmup_steps=0",
        "data.lives=6", "data.snapshots_per_life=4", "data.conditions=1", "data.bearings_per_class=3",
    )  # fmt: skip
    assert run_experiment(config, tmp_path)["state"] == "completed"


def test_tensorboard_is_written_beside_the_csv(tiny, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra vibench[tensorboard] is not installed")
    run_experiment(tiny("logger=tensorboard", "training.max_steps=2", "training.warmup_steps=0"), tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert (tmp_path / "metrics.csv").is_file()


def test_measured_bearings_train_and_are_scored(vibench, tmp_path):
    raw = real_data("cwru")
    assert vibench("data", "prepare", "cwru", f"raw={raw}").returncode == 0
    done = vibench(
        "train", "data=cwru", "data.store=cwru.h5", "task=classification", "hardware=cpu", "training.max_steps=3",
        "training.warmup_steps=0", "data.only={}", "data.split.by=mils", "data.split.train=[007,014]",
        "data.split.test=[021]", "training.monitor=null", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["split"]["clean"]
    assert status["results"]["classification"]["entities"] == 3


def test_a_life_is_trained_on_and_another_is_scored(vibench, tmp_path):
    raw = real_data("femto")
    assert vibench("data", "prepare", "femto", f"raw={raw}").returncode == 0
    done = vibench(
        "train", "data=femto", "data.store=femto.h5", "task=rul_prediction", "hardware=cpu", "training.max_steps=3",
        "training.warmup_steps=0", "data.split.train=[Bearing3_1]", "data.split.test=[Bearing2_7]",
        "training.monitor=null", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["results"]["rul_prediction"]["samples"] == 118
