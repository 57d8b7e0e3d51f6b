"""What a run prints at its end."""

import io

import pytest
from rich.console import Console

from vibench.report.table import SweepRow, audit_line, print_result, print_sweep

STATUS = {
    "results": {
        "classification": {
            "metrics": {"accuracy": 0.75, "auroc": 0.9},
            "naive": {"accuracy": 0.25, "auroc": None},
            "better": {"accuracy": "max", "auroc": "max"},
            "samples": 204,
            "entities": 8,
        },
        "rul_prediction": {
            "metrics": {"mse": 0.0312},
            "naive": {"mse": 0.1},
            "better": {"mse": "min"},
            "samples": 408,
            "entities": 2,
        },
    },
    "split": {
        "by": "entity",
        "clean": True,
        "shared": [],
        "short_recordings": 3,
        "splits": {
            "train": {"windows": 1836, "entities": 30},
            "test": {"windows": 612, "entities": 10, "windows_per_class": {"healthy": 0}},
        },
    },
    "start": {"checkpoint": "other/best.ckpt", "parts": ["embedding", "backbone"]},
    "steps": 40,
    "promised_steps": 80,
    "early_stop": "val/loss no better for 3 validations",
    "skipped_steps": 1,
    "seconds": 12.3,
    "step_seconds": 0.012345,
    "micro_batch": 8,
    "device": "cpu (2 threads)",
    "peak_gib": 0.5,
    "plan": {
        "precision": "fp16",
        "micro_batch": 8,
        "accumulation": 4,
        "devices": 1,
        "checkpointing": "none",
        "optimizer_state": "device",
        "sharding": "none",
        "step_seconds": 0.01,
        "peak_gib": 3.304,
        "usable_gib": 19.69,
        "components": {"activations": 2.2, "parameters": 1.0, "gradients": 0.001},
    },
}
LEAK = {"splits": ["train", "test"], "entities": 10, "overlapping_windows": 0, "copied_windows": 2}


def printed(status):
    console = Console(file=io.StringIO(), width=120)
    print_result(status, "multirun_outputs/run", console)
    return console.file.getvalue()


def cells(text):
    """Of every row, without the frame."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_the_table_holds_metric_value_naive_line_and_margin():
    rows = cells(printed(STATUS))
    assert ["classification", "accuracy", "0.75", "0.25", "+0.5"] in rows
    assert ["rul_prediction", "mse", "0.0312", "0.1", "+0.0688"] in rows  # less is better: still a plus


def test_a_naive_line_that_is_not_defined_is_left_out():
    assert ["204 windows", "auroc", "0.9", "", ""] in cells(printed(STATUS))


def test_samples_and_entities_stand_below_the_task():
    assert [row[0] for row in cells(printed(STATUS))] == [
        *("classification", "204 windows", "8 entities"),
        *("rul_prediction", "408 windows", "2 entities"),
    ]


def test_below_it_stand_split_audit_steps_device_and_place():
    text = printed(STATUS)
    assert "by entity: train 1836 windows of 30 entities, test 612 windows of 10 entities" in text
    assert "clean: no entity and no sample is shared" in text
    assert "3 recordings shorter than a window were left out" in text
    assert "the test holds none of: healthy; means are over the classes it holds" in text
    assert "40 of 80 steps, stopped early: val/loss no better for 3 validations" in text
    assert "1 without an update (fp16 overflow)" in text
    assert "overflow), 12 s, 0.0123 s each (predicted 0.01)\n" in text
    assert "cpu (2 threads), fp16, micro-batch 8 x 4, peak 0.50 GiB\n" in text
    assert "multirun_outputs/run" in text
    assert "start    embedding, backbone of other/best.ckpt" in text
    assert "memory   predicted 3.30 of 19.69 GiB: activations 2.20, parameters 1.00\n" in text


def test_how_the_run_was_planned_is_told_where_it_was_not_as_usual():
    usual = dict(STATUS["plan"])
    unusual = {"devices": 4, "checkpointing": "full", "optimizer_state": "int8", "sharding": "full"}
    said = "micro-batch 8 x 4 x 4 devices, checkpointing full, optimizer state int8, sharded, peak"
    assert said in printed(STATUS | {"plan": usual | unusual})
    every = ("4 devices", "checkpointing", "optimizer state", "sharded")
    for key, words in zip(unusual, every, strict=True):
        text = printed(STATUS | {"plan": usual | {key: unusual[key]}})
        assert [one for one in every if one in text] == [words]


@pytest.mark.parametrize(
    ("measured", "predicted", "said"),
    [
        (0.5, None, ", 12 s, 0.5 s each\n"),
        (None, 0.5, ", 12 s\n"),
        (None, None, ", 12 s\n"),
    ],
)
def test_a_step_that_was_not_measured_or_not_predicted_has_no_number(measured, predicted, said):
    status = STATUS | {"step_seconds": measured, "plan": STATUS["plan"] | {"step_seconds": predicted}}
    assert said in printed(status)


def test_a_micro_batch_that_had_to_be_cut_is_told():
    assert "micro-batch 8 x 4, in the end 2," in printed(STATUS | {"micro_batch": 2})
    assert "in the end" not in printed(STATUS)


def test_what_happened_to_the_run_has_a_line_each_and_of_many_the_last_ones():
    events = [{"step": n, "text": f"out of memory {n}"} for n in range(1, 12)] + [
        {"step": None, "text": "config changed"}
    ]
    lines = [line for line in printed(STATUS | {"events": events}).splitlines() if line.startswith("event ")]
    assert lines[0] == "event    (4 more, see status.json)"
    assert lines[1] == "event    step 5: out of memory 5"
    assert lines[-1] == "event    config changed"
    assert "event" not in printed(STATUS)


def test_the_seconds_of_a_run_that_was_resumed_are_those_of_its_last_attempt():
    assert "12 s, 0.0123 s each (predicted 0.01), in attempt 3\n" in printed(STATUS | {"attempts": [{}, {}]})
    assert "attempt" not in printed(STATUS | {"attempts": []})


def test_a_leak_is_named():
    line = audit_line({"clean": False, "shared": [LEAK]})
    assert line == ("LEAKY, waived by data.allow_leaky=true: train and test share 10 entities, 2 copied windows")


RUL = STATUS["results"]["rul_prediction"] | {"headline": "mse"}
COMPLETED = SweepRow("data.split.test=[rig]", "completed", {"results": {"rul_prediction": RUL}, "seconds": 7.2}, "")
FAILED = SweepRow("data.split.test=[motor]", "failed DATA", {"state": "failed"}, "no such file")


def swept(*rows):
    console = Console(file=io.StringIO(), width=120)
    print_sweep(list(rows), console)
    return console.file.getvalue()


def test_a_sweep_is_one_row_a_run_with_what_it_varied_its_state_and_its_margin():
    assert cells(swept(COMPLETED, FAILED))[:2] == [
        ["data.split.test=[rig]", "completed", "0.0312 (+0.069)", "7"],
        ["data.split.test=[motor]", "failed DATA", "", ""],
    ]


def test_what_a_run_of_a_sweep_said_stands_below_the_table():
    assert swept(COMPLETED, FAILED).splitlines()[-1] == "data.split.test=[motor]: no such file"
    assert "data.split.test=[rig]:" not in swept(COMPLETED, FAILED)


def test_a_sweep_without_a_result_has_no_column_for_one():
    assert cells(swept(FAILED)) == [["data.split.test=[motor]", "failed DATA", ""]]
    assert "naive" not in swept(FAILED)


def test_what_is_typed_in_brackets_is_printed_as_typed():
    """rich would take it for markup."""
    row = SweepRow("data.only.fault=[bold]", "failed", {}, "[red]no[/red] such file")
    assert cells(swept(row))[0][0] == "data.only.fault=[bold]"
    assert "data.only.fault=[bold]: [red]no[/red] such file" in swept(row)


def test_a_leak_of_unknown_weights_is_named():
    shared = LEAK | {"splits": ["training.init_from", "test"], "entities": 0, "copied_windows": 0, "unknown": True}
    line = audit_line({"clean": False, "shared": [shared]})
    assert line.endswith("what training.init_from and test share is unknown")
