"""``vibench-plan``: what it says of an experiment, and how it ends."""

import json
import sys

import pytest
import yaml

from tests.conftest import CONF, TINY
from tests.test_import_cost import loaded_by
from vibench.cli.plan import main

SMALL = (*(text for text in TINY if not text.startswith("hardware=")), "backbone.e_layers=1")
HUGE = ("d_model=8192", "backbone.d_ff=32768", "backbone.e_layers=40")  # its weights fit no card: nothing is traced
CARDS = {
    path.stem
    for path in (CONF / "hardware").glob("*.yaml")
    if yaml.safe_load(path.read_text())["gpu_memory_gib"] is not None
}


@pytest.fixture
def plan(cache, monkeypatch, capsys):
    """Exit status, stdout and stderr of the command in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vibench-plan", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        status = 0
        try:
            main()
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return call


def test_the_command_names_the_peak_and_the_layers_of_a_card(vibench, tmp_path):
    done = vibench("plan", *SMALL, "hardware=rtx3090")
    assert done.returncode == 0, done.stderr
    for text in (
        "rtx3090",
        "fits",
        "peak GiB",
        "19.69",
        "bf16",
        "alive at the peak",
        "activations",
        "backbone.blocks.0",
    ):
        assert text in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []  # nothing is trained, nothing is left


def test_json_is_the_plan_of_the_hardware_that_was_named(plan):
    status, out, err = plan(*SMALL, "hardware=v100", "--json")
    assert (status, err) == (0, "")
    (name,) = found = json.loads(out)
    assert name == "v100"
    assert 0 < found["v100"]["peak_gib"] < found["v100"]["usable_gib"] < 32
    assert found["v100"]["precision"] == "fp32"
    assert set(found["v100"]["components"]) >= {"parameters", "gradients", "optimizer", "activations", "input"}
    assert found["v100"]["micro_batch"] * found["v100"]["accumulation"] >= 1


def test_without_hardware_every_card_is_a_row(plan):
    status, out, _ = plan(*SMALL, *HUGE)
    rows = [line for line in out.splitlines() if "does not fit" in line]
    assert status == 0  # nothing was asked of any of them
    assert {name for name in CARDS for row in rows if f" {name} " in row} == CARDS


def test_a_card_without_the_precision_that_was_asked_for_does_not_fit(plan):
    """``vibench-train`` refuses it: a v100 has no bf16."""
    _, out, _ = plan(*SMALL, *HUGE, "training.precision=bf16", "--json")
    assert {name for name, one in json.loads(out).items() if "bf16 is not available" in one["error"]} == {"v100"}


def test_an_option_that_does_not_exist_ends_with_2(plan):
    status, out, err = plan(*SMALL, *HUGE, "--jsn")
    assert (status, out) == (2, "")
    assert "--jsn" in err


def test_a_state_that_does_not_fit_ends_with_1_and_the_hardware_that_would_hold_it(plan):
    status, out, _ = plan(*SMALL, "d_model=8192", "backbone.d_ff=32768", "backbone.e_layers=3", "hardware=rtx3090")
    assert status == 1
    assert "does not fit" in out
    assert "rtx3090 offers 19.7 GiB" in out
    assert "it would fit hardware=a100_80, h100, h200" in out


def test_activations_that_do_not_fit_end_with_1_and_what_was_tried(plan):
    batch = ("training.global_batch_size=2000000", "training.micro_batch=2000000", "training.checkpointing=none")
    status, out, _ = plan(*SMALL, *batch, "hardware=rtx3090")
    assert status == 1
    assert "activations" in out
    assert "tried: bf16, checkpointing=none, micro-batch 2000000" in out
    assert "it would fit hardware=" in out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("backbone=patchts", "did you mean patchtst?"),
        ("training.epochs=0", "is out of range"),
        ("d_model=65", "n_heads"),
    ],
)
def test_a_wrong_override_is_one_line_and_ends_with_2(vibench, override, words):
    done = vibench("plan", override)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vibench-plan: ")
    assert words in line


@pytest.mark.parametrize(("line", "status"), [("--help", 0), ("-h backbone=nothing", 0), ("training.epochs=0", 2)])
def test_help_and_a_refusal_load_no_torch(tmp_path, line, status):
    assert loaded_by("from vibench.cli.plan import main; main()", *line.split(), cwd=tmp_path) == (status, [])


def test_help_says_how_it_is_used(plan):
    status, out, err = plan("--help")
    assert (status, err) == (0, "")
    assert out.startswith("usage: vibench-plan")
