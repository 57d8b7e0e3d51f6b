"""``vibench-plan``: what it says of an experiment, and how it ends."""

import functools
import io
import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields

import pytest

from tests.conftest import TINY
from tests.test_import_cost import loaded_by
from vibench.cli.plan import main
from vibench.config.describe import options
from vibench.memory.plan import MemoryPlan

SMALL = (*(text for text in TINY if not text.startswith("hardware=")), "backbone.e_layers=1")
QUICK = (  # one head on two linear layers: half a second a trace
    *(text for text in SMALL if not text.startswith(("task.", "backbone."))),
    "backbone=dlinear",
    "backbone.moving_average=3",
    *(f"~task.{name}" for name in ("anomaly_detection", "signal_prediction", "rul_prediction")),
)
HUGE = ("d_model=8192", "backbone.d_ff=32768")  # with three blocks, the state fits some cards and not others
HARDWARE = options()["hardware"]
NO_CARD = {"cpu", "local"}
WHOLE_BATCH = ("training.global_batch_size=2000000", "training.micro_batch=2000000", "training.checkpointing=none")
AT_ONCE = ("training.accumulation=1", "training.global_batch_size=1000000000")  # more than any card holds
LATE = ("training.epochs=1000000000", "hardware.slurm.time=00:00:01", "hardware.slurm.requeues=0")  # whatever the rates


@pytest.fixture(scope="module")
def plan(cache):
    """Exit status, stdout and stderr of the command in this process; the same line is run once."""

    @functools.cache
    def call(*arguments):
        status, out, err = 0, io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["vibench-plan", *arguments])
            try:
                main()
            except SystemExit as exit:
                status = exit.code
        return status, out.getvalue(), err.getvalue()

    return call


def rows(out):
    """First column of the table -> the others."""
    cells = [[cell.strip() for cell in line[1:-1].split("│")] for line in out.splitlines() if line[:1] == "│"]
    return {name: rest for name, *rest in cells}


def parsed(result):
    status, out, err = result
    assert (status, err) == (0, "")
    return json.loads(out)


# one plan


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
        "of the host",
        "estimates from data sheets",
    ):
        assert text in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []  # nothing is trained, nothing is left


def test_json_is_the_plan_of_the_hardware_that_was_named(plan):
    (name,) = found = parsed(plan(*QUICK, "hardware=v100", "--json"))
    assert name == "v100"
    assert set(found["v100"]) == {f.name for f in fields(MemoryPlan)}
    assert 0 < found["v100"]["peak_gib"] < found["v100"]["usable_gib"] < 15.77
    assert found["v100"]["precision"] == "fp32"
    assert set(found["v100"]["components"]) >= {"parameters", "gradients", "optimizer", "activations", "input"}
    assert found["v100"]["micro_batch"] * found["v100"]["accumulation"] >= 32
    assert 0 < found["v100"]["step_seconds"] < found["v100"]["run_seconds"]
    assert found["v100"]["pace"] is None


def test_the_table_says_what_json_says(plan):
    found = parsed(plan(*QUICK, "hardware=v100", "--json"))["v100"]
    _, out, _ = plan(*QUICK, "hardware=v100")
    (row,) = [rest for name, rest in rows(out).items() if name == "v100"]
    assert row[:7] == [
        "fits",
        f"{found['peak_gib']:.2f}",
        f"{found['usable_gib']:.2f}",
        "fp32",
        "none",
        "device",
        "32 x 1",
    ]
    assert row[-1] == f"{sum(found['host'].values()):.1f}"


def test_a_processor_has_a_plan_without_a_limit_and_without_a_time(plan):
    found = parsed(plan(*QUICK, "hardware=cpu", "--json"))["cpu"]
    assert found["peak_gib"] > 0
    assert [found[key] for key in ("usable_gib", "step_seconds", "run_seconds", "pace")] == [None] * 4
    _, out, _ = plan(*QUICK, "hardware=cpu")
    assert "estimates from data sheets" not in out


# every hardware


def test_without_hardware_every_one_there_is_has_a_row(plan):
    status, out, err = plan(*QUICK)
    assert (status, err) == (0, "")
    assert {name: row[0] for name, row in rows(out).items()} == dict.fromkeys(HARDWARE, "fits")
    assert {name for name, row in rows(out).items() if not row[2]} == NO_CARD  # nothing is known of what they offer


def test_the_matrix_says_of_each_hardware_what_it_says_alone(plan):
    found = parsed(plan(*QUICK, "--json"))
    assert list(found) == HARDWARE
    for name in ("v100", "cpu"):
        assert found[name] == parsed(plan(*QUICK, f"hardware={name}", "--json"))[name]


def test_what_fits_nowhere_is_no_error_where_nothing_was_asked_of_any(plan):
    status, out, _ = plan(*QUICK, *AT_ONCE, "--json")
    found = json.loads(out)
    assert status == 0
    assert {name for name, one in found.items() if one.get("verdict") == "does not fit"} == set(HARDWARE) - NO_CARD


def test_a_card_without_the_precision_that_was_asked_for_is_a_row_that_says_so(plan):
    """``vibench-train`` refuses it: a v100 has no bf16."""
    status, out, _ = plan(*QUICK, "training.precision=bf16")
    assert status == 0
    verdicts = {name: row[0] for name, row in rows(out).items()}
    assert verdicts == dict.fromkeys(HARDWARE, "fits") | {"v100": "is wrong"}
    assert "v100: training.precision=bf16 is not available on hardware=v100" in out


def test_a_card_that_is_named_and_has_not_the_precision_is_refused(plan):
    status, out, err = plan(*QUICK, "training.precision=bf16", "hardware=v100")
    assert (status, out) == (2, "")
    assert err.startswith("vibench-plan: training.precision=bf16 is not available on hardware=v100")


# what does not fit


def test_a_state_that_does_not_fit_ends_with_2_and_the_hardware_that_would_hold_it(plan):
    status, out, _ = plan(*SMALL, *HUGE, "backbone.e_layers=3", "training.optimizer_state=device", "hardware=rtx3090")
    assert status == 2
    assert rows(out) == {"rtx3090": ["does not fit", *[""] * 9]}
    assert "rtx3090 offers 19.7 GiB" in out
    assert "at any batch size" in out
    assert "so much is offered by hardware=a100_80, h100, h200" in out


def test_activations_that_do_not_fit_end_with_2_and_what_was_tried(plan):
    status, out, _ = plan(*SMALL, *WHOLE_BATCH, "hardware=rtx3090")
    assert status == 2
    assert rows(out)["rtx3090"][0] == "does not fit"
    assert "activations" in out
    assert "tried: bf16, checkpointing=none, micro-batch 2000000" in out
    assert re.search(r"so much is offered by hardware=h200;|no card of conf/hardware offers so much", out)


def test_a_host_that_cannot_hold_the_run_ends_with_2_as_the_run_would(plan):
    """Of the hardware that was named: what is free on this machine now says nothing of another."""
    status, out, _ = plan(*QUICK, "hardware=v100", "hardware.ram_gib=0.1")
    assert status == 2
    assert rows(out)["v100"][0] == "does not fit"
    assert "GiB of the host's memory, hardware.ram_gib=0.1" in out


def test_a_run_that_cannot_end_in_its_time_ends_with_2_and_the_time_it_needs(plan):
    status, out, _ = plan(*QUICK, *LATE, "hardware=v100")
    assert status == 2
    assert rows(out)["v100"][0] == "does not end in time"
    said = re.search(r"v100 needs ([\d.]+) h for the (\d+) steps of this run, at the rates of its data sheet", out)
    assert int(said[2]) == 4_000_000_000  # 104 windows, 32 a step
    assert 3600 * float(said[1]) > 1
    assert "hardware.slurm.time=00:00:01 ends it before; use more time, fewer training.epochs" in out


def test_a_run_that_may_not_end_in_its_time_is_planned_with_a_warning(plan, caplog):
    """Slower than the estimate is not proven, faster than the data sheet is impossible."""
    found = parsed(plan(*QUICK, "hardware=v100", "training.epochs=1000", "--json"))["v100"]
    assert found["run_seconds"] > 2
    limit = ("hardware.slurm.time=00:00:02", "hardware.slurm.requeues=0")
    status, out, _ = plan(*QUICK, "hardware=v100", "training.epochs=1000", *limit)
    assert (status, rows(out)["v100"][0]) == (0, "fits")
    assert "THIS RUN MAY NOT END" in caplog.text


def test_without_a_limit_any_time_will_do(plan):
    found = parsed(plan(*QUICK, LATE[0], "hardware=v100", "--json"))["v100"]
    assert found["run_seconds"] > 1e6


def test_a_time_that_no_rates_are_known_for_is_not_judged(plan):
    assert plan(*QUICK, *LATE, "hardware=cpu")[0] == 0


# sweeps


def test_a_sweep_has_a_row_for_every_job(plan):
    status, out, err = plan("-m", *QUICK, "d_model=16,32", "hardware=v100,cpu")
    assert (status, err) == (0, "")
    jobs = [f"d_model={width} hardware={name}" for width in (16, 32) for name in ("v100", "cpu")]
    assert [name for name in rows(out) if "=" in name] == jobs
    assert {row[0] for name, row in rows(out).items() if "=" in name} == {"fits"}


def test_a_job_of_a_sweep_is_planned_as_it_would_be_alone(plan):
    found = parsed(plan("-m", *QUICK, "d_model=16,32", "hardware=v100", "--json"))
    assert list(found) == ["d_model=16", "d_model=32"]
    for job, one in found.items():
        assert one == parsed(plan(*QUICK, job, "hardware=v100", "--json"))["v100"]
    assert found["d_model=16"]["parameters"] < found["d_model=32"]["parameters"]


def test_one_job_that_does_not_fit_is_told_beside_the_others_and_ends_with_2(plan):
    status, out, _ = plan("-m", *QUICK, AT_ONCE[0], "training.global_batch_size=32,1000000000", "hardware=v100")
    assert status == 2
    verdicts = {name: row[0] for name, row in rows(out).items()}
    assert verdicts == {
        "training.global_batch_size=32": "fits",
        "training.global_batch_size=1000000000": "does not fit",
    }
    assert "training.global_batch_size=1000000000: v100 offers" in out


def test_a_sweep_without_a_hardware_is_of_the_one_that_would_be_taken(plan):
    """As ``vibench-train -m`` would run it: here, and not on every card."""
    found = parsed(plan("--multirun", *QUICK, "d_model=16,32", "--json"))
    assert list(found) == ["d_model=16", "d_model=32"]


def test_what_is_wrong_with_a_sweep_is_told_before_anything_is_planned(plan):
    status, out, err = plan("-m", *QUICK, "d_model=16,0", "training.epochs=0", "hardware=v100")
    assert (status, out) == (2, "")
    assert [line.partition(": ")[2].partition(" is")[0] for line in err.splitlines()] == [
        "d_model=16: training.epochs=0",
        "d_model=0: d_model=0",
    ]


# pictures


@pytest.fixture
def drawn(plan, tmp_path):
    """Draw one plan into a file of a new folder: exit status, stderr, the file."""
    pytest.importorskip("matplotlib", reason="the extra vibench[pictures] is not installed")

    def call(name, *arguments):
        file = tmp_path / name
        status, _, err = plan(*QUICK, *(arguments or ("hardware=v100",)), "--picture", str(file))
        return status, err, file

    return call


@pytest.mark.parametrize(("suffix", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_picture_is_written_whole_and_alone(drawn, tmp_path, suffix, begins):
    status, err, file = drawn(f"memory.{suffix}")
    assert (status, err) == (0, "")
    assert file.read_bytes().startswith(begins)
    assert list(tmp_path.iterdir()) == [file]


def test_a_picture_shows_the_plan_and_what_the_card_offers(plan, drawn):
    found = parsed(plan(*QUICK, "hardware=v100", "--json"))["v100"]
    _, _, file = drawn("memory.svg")
    words = re.findall(r"<!-- (.*?) -->", file.read_text())
    assert "v100: fp32, checkpointing none, micro-batch 32 x 1" in words
    assert f"usable, {found['usable_gib']:.2f} GiB" in words
    assert {"activations", "parameters", "gradients"} <= set(words)


def test_the_name_of_a_picture_may_be_given_after_a_sign(plan, drawn, tmp_path):
    assert plan(*QUICK, "hardware=v100", f"--picture={tmp_path / 'a.svg'}")[0] == 0
    assert (tmp_path / "a.svg").is_file()


def test_a_picture_of_a_kind_that_is_not_known_leaves_what_was_there(drawn, tmp_path):
    (tmp_path / "memory.docx").write_text("mine")
    status, err, _ = drawn("memory.docx")
    assert status == 2
    assert re.search(r"--picture .*memory\.docx cannot be written: .*; use a \.svg, \.png or \.pdf", err)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["no folder/memory.svg", "taken.svg"])
def test_a_picture_that_cannot_be_written_there_is_one_line(drawn, tmp_path, name):
    (tmp_path / "taken.svg").mkdir()
    status, err, _ = drawn(name)
    assert status == 2
    (line,) = err.splitlines()
    assert "cannot be written" in line
    assert [path.name for path in tmp_path.iterdir()] == ["taken.svg"]


def test_a_folder_is_no_name_of_a_picture(plan):
    status, _, err = plan(*QUICK, "hardware=v100", "--picture", ".")
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith("vibench-plan: --picture . ")


def test_a_picture_of_several_plans_is_refused_with_how_to_name_one(drawn):
    status, err, file = drawn("memory.svg", "-m", "d_model=16,32", "hardware=v100")
    assert status == 2
    assert err == "vibench-plan: --picture shows one plan, there are 2 that fit; name one hardware=CARD\n"
    assert not file.exists()


def test_a_picture_of_what_does_not_fit_is_refused(drawn):
    status, err, file = drawn("memory.svg", *LATE, "hardware=v100")
    assert status == 2
    assert "there are 0 that fit" in err
    assert not file.exists()


def test_without_matplotlib_the_extra_is_named(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = plan(*QUICK, "hardware=v100", "--picture", str(tmp_path / "memory.svg"))
    assert status == 2
    assert rows(out)["v100"][0] == "fits"  # what could be said was said
    assert re.search(r"--picture needs matplotlib \(.*\); pip install 'vibench\[pictures\]'", err)


# flags and mistakes


@pytest.mark.parametrize("flag", ["--jsn", "-x", "--picture-of=a.svg"])
def test_an_option_that_does_not_exist_ends_with_2(plan, flag):
    status, out, err = plan(*QUICK, flag)
    assert (status, out) == (2, "")
    assert f"{flag.split('=')[0]} does not exist; there are -m, --multirun, --json, --picture and --help" in err


def test_a_picture_without_a_name_is_refused(plan):
    status, out, err = plan(*QUICK, "hardware=v100", "--picture")
    assert (status, out) == (2, "")
    assert "--picture needs the name of a file, e.g. --picture memory.svg" in err


def test_everything_that_is_wrong_is_told_at_once(plan):
    wrong = ("backbone=dlinaer", "training.epochs=0", "data.widow=3", "hardware.slurm.time=soon", "d_model=0")
    status, out, err = plan(*wrong)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == len(wrong)
    for text in wrong:
        assert any(line.startswith(f"vibench-plan: {text.split('=')[0]}") for line in err.splitlines()), text


def test_data_that_cannot_be_used_end_with_2_in_the_words_of_the_run(plan):
    status, out, err = plan(*QUICK, "+data.only.fault=[nothing]", "hardware=v100")
    assert (status, out) == (2, "")
    assert "data.only.fault names nothing, which is no fault of" in err


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
