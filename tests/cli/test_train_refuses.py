"""``vibench-train`` as a process: what a person sees of a mistake, and what it leaves behind, which is nothing."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"
ONE = {
    "training.epochs=0": "training.epochs=0 is out of range: passes over the training windows; use a value at least 1",
    "backbone=patchts": "backbone=patchts does not exist; did you mean patchtst?",
    "backbone.e_layers=???": "backbone.e_layers is missing: encoder blocks (at least 1); set backbone.e_layers=VALUE",
    "+backbone.typo=3": "backbone.typo is not a key of PatchTSTConfig; it has _target_, e_layers",
    "d_model=65": "d_model=65 is not divisible by backbone.n_heads=4; use d_model=64 or backbone.n_heads=1",
    "data=cwru": "data.store is missing: HDF5 file written by vibench-data prepare; set data.store=VALUE",
    "training.lr=fast": "training.lr=fast has the wrong type",
    "backbone.d_ff=${nothing}": "backbone.d_ff: Interpolation key 'nothing' not found",
    "data.duration_s=nan": "data.duration_s=nan is not a finite number",
    "~training": "training ",
}


@pytest.fixture
def refused(vibench, tmp_path):
    """The lines on stderr of a command that starts nothing."""

    def call(*arguments: str) -> list[str]:
        result = vibench("train", *arguments)
        assert "Traceback" not in result.stderr
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        assert list(tmp_path.iterdir()) == []
        return result.stderr.splitlines()

    return call


@pytest.mark.parametrize(("override", "words"), ONE.items())
def test_one_mistake_is_one_line_and_no_run(refused, override, words):
    (line,) = refused(override)
    assert line.startswith(f"vibench-train: {words}")


def test_several_mistakes_are_one_block_and_no_run(refused):
    title, *lines = refused("logger=csvv", "seed=a", "+data.widow=3", "training.epochs=0", "d_model=65")
    assert title == "vibench-train: 5 errors, nothing was started"
    assert sorted(line.split("=")[0].split(" is")[0] for line in lines) == sorted(
        f"  {key}" for key in ("logger", "seed", "data.widow", "training.epochs", "d_model")
    )


def test_help_with_a_mistake_is_refused_too(refused):
    (line,) = refused("--help", "backbone=patchts")
    assert line.startswith("vibench-train: backbone=patchts does not exist; did you mean patchtst?")


def test_a_folder_that_is_not_there_is_refused(refused):
    (line,) = refused("--config-dir=/nowhere/at/all", "seed=1")
    assert line.startswith("vibench-train: --config-dir=/nowhere/at/all is not a folder")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_option_of_every_group(vibench, tmp_path, flag):
    result = vibench("train", flag)
    assert (result.returncode, result.stderr) == (0, "")
    text = result.stdout.partition("keys (KEY=VALUE)")[0]
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    folders = [folder for folder in CONF.iterdir() if folder.is_dir() and folder.name not in ("__pycache__", "hydra")]
    assert len(folders) >= 8
    for folder in folders:
        offered = set(lines[folder.name].split(maxsplit=1)[1].split(", "))
        assert offered == {p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml")}
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_keys_of_the_choice(vibench):
    keys = vibench("train", "--help", "backbone=dlinear").stdout.partition("keys (KEY=VALUE)")[2]
    assert "moving_average: 25" in keys
    assert "e_layers" not in keys


def test_cfg_job_shows_the_composed_experiment(vibench, tmp_path):
    result = vibench("train", "backbone=dlinear", "training.epochs=20", "--cfg", "job")
    assert (result.returncode, result.stderr) == (0, "")
    shown = OmegaConf.create(result.stdout)
    assert shown.backbone.moving_average == 25
    assert shown.training.epochs == 20
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_with_one_wrong_job_starts_none_and_names_it(refused):
    lines = refused("-m", "training.epochs=1,0", "backbone=dlinear,patchtst")
    assert len(lines) == 1
    assert "training.epochs=0 backbone=dlinear: training.epochs=0 is out of range" in lines[0]


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    command = [sys.executable, "-c", "from vibench.cli.train import main; main()", "--help"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_the_version_is_that_of_vibench(vibench):
    done = vibench("train", "--version")
    assert (done.returncode, done.stdout) == (0, f"vibench {importlib.metadata.version('vibench')}\n")


def test_a_run_directory_that_cannot_be_made_is_refused(vibench):
    done = vibench("train", "hydra.run.dir=/etc/passwd/run")
    assert done.returncode == 2
    assert "the run directory cannot be made: " in done.stderr
    assert "/etc/passwd/run" in done.stderr
    assert "Traceback" not in done.stderr
