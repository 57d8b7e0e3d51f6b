"""What runs took, kept from one to the next."""

import json
from dataclasses import replace

import pytest

from vibench.memory.measured import ENOUGH, RECENT, Measured, file, known, pace, remember, worst_peak

RUN = Measured(hardware="rtx3090", backbone="PatchTST", precision="bf16", peak=0.9, step=1.5)

pytestmark = pytest.mark.usefixtures("own_cache")


def peaks(*values):
    return [replace(RUN, peak=value) for value in values]


def test_before_any_run_nothing_is_known():
    assert known("rtx3090") == []
    assert worst_peak([]) is None
    assert pace([], "PatchTST", "bf16") is None


def test_what_is_remembered_is_known_in_its_order():
    runs = [RUN, replace(RUN, peak=None), replace(RUN, step=None, backbone="FNO"), replace(RUN, precision="fp32")]
    for run in runs:
        remember(run)
    assert known("rtx3090") == runs


def test_the_folder_is_made(own_cache, monkeypatch):
    monkeypatch.setenv("VIBENCH_CACHE", str(own_cache / "not" / "there"))
    remember(RUN)
    assert known("rtx3090") == [RUN]


def test_every_run_is_a_line_after_those_that_are_there(own_cache):
    remember(RUN)
    first = file().read_text()
    remember(replace(RUN, step=2.0))
    assert file() == own_cache / "measured.jsonl"
    assert file().read_text().startswith(first)
    assert [json.loads(line)["step"] for line in file().read_text().splitlines()] == [1.5, 2.0]


def test_only_the_runs_on_that_hardware_are_known():
    for name in ("rtx3090", "v100", "rtx3090 "):
        remember(replace(RUN, hardware=name))
    assert known("rtx3090") == [RUN]
    assert known("rtx") == []


def test_only_the_last_runs_on_that_hardware_are_known():
    for number in range(RECENT + 3):
        remember(replace(RUN, step=float(number)))
        remember(replace(RUN, hardware="v100"))
    assert [run.step for run in known("rtx3090")] == list(range(3, RECENT + 3))
    assert len(known("v100")) == RECENT


@pytest.mark.parametrize(
    "line",
    [
        '{"hardware": "rtx3090", "backb',
        "",
        "null",
        "[1, 2]",
        '"rtx3090"',
        '{"hardware": "rtx3090"}',
        '{"hardware": "rtx3090", "backbone": "FNO", "precision": "bf16", "peak": 1.0, "step": 1.0, "colour": "red"}',
        "\0" * 40,
    ],
)
def test_a_line_that_cannot_be_read_is_passed_over(line):
    remember(RUN)
    with file().open("a") as lines:
        lines.write(line + "\n")
    remember(replace(RUN, step=2.0))
    assert [run.step for run in known("rtx3090")] == [1.5, 2.0]


def test_a_line_that_is_no_text_is_passed_over():
    remember(RUN)
    with file().open("ab") as lines:
        lines.write(b"\xff\xfe\x80\n")
    remember(replace(RUN, step=2.0))
    assert [run.step for run in known("rtx3090")] == [1.5, 2.0]


def test_a_cache_that_cannot_be_written_is_no_failure_and_is_said(own_cache, monkeypatch, caplog):
    (own_cache / "taken").write_text("a file where a folder should be")
    monkeypatch.setenv("VIBENCH_CACHE", str(own_cache / "taken"))
    remember(RUN)
    assert "what this run took is not remembered" in caplog.text
    assert known("rtx3090") == []


def test_a_worst_peak_needs_enough_runs():
    assert worst_peak(peaks(*[0.9] * (ENOUGH - 1))) is None
    assert worst_peak(peaks(*[0.9] * ENOUGH)) == 0.9


def test_the_worst_peak_is_the_largest_and_runs_without_one_do_not_count():
    assert worst_peak(peaks(0.7, 1.2, 0.8, 1.1, 0.9)) == 1.2
    assert worst_peak(peaks(0.7, 1.2, 0.8, 1.1, None)) is None
    assert worst_peak(peaks(None, 0.7, 1.2, 0.8, 1.1, 0.9, None)) == 1.2


def test_the_pace_is_the_median_of_the_runs_of_the_same_backbone_and_precision():
    runs = [replace(RUN, step=step) for step in (1.0, 5.0, 2.0)]
    others = [replace(RUN, backbone="FNO", step=9.0)] * 5 + [replace(RUN, precision="fp32", step=8.0)] * 7
    assert pace(runs + others, "PatchTST", "bf16") == 2.0
    assert pace(others + runs[:2], "PatchTST", "bf16") == 3.0
    assert pace(others + runs, "FNO", "bf16") == 9.0


def test_without_such_runs_the_pace_is_the_median_of_all():
    runs = [replace(RUN, step=step) for step in (1.0, 5.0, 2.0)]
    assert pace(runs, "TimesNet", "bf16") == 2.0
    assert pace(runs, "PatchTST", "fp32") == 2.0


def test_runs_whose_steps_were_not_timed_have_no_pace():
    """Nor do they stand for their backbone: those of others do."""
    untimed = replace(RUN, step=None)
    assert pace([untimed] * 3, "PatchTST", "bf16") is None
    assert pace([untimed, replace(RUN, backbone="FNO", step=4.0)], "PatchTST", "bf16") == 4.0
