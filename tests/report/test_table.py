"""What a run prints at its end."""

import io

from rich.console import Console

from vibench.report.table import audit_line, print_result

STATUS = {
    "results": {
        "classification": {"metrics": {"accuracy": 0.75, "auroc": 0.9}, "samples": 204, "entities": 8},
        "rul_prediction": {"metrics": {"mse": 0.0312}, "samples": 408, "entities": 2},
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
    "steps": 40,
    "promised_steps": 80,
    "early_stop": "val/loss no better for 3 validations",
    "skipped_steps": 1,
    "seconds": 12.3,
    "device": "cpu (2 threads)",
    "peak_gib": 0.5,
    "plan": {"precision": "fp16", "micro_batch": 8, "accumulation": 4},
}
LEAK = {"splits": ["train", "test"], "entities": 10, "overlapping_windows": 0, "copied_windows": 2}


def printed(status):
    console = Console(file=io.StringIO(), width=120)
    print_result(status, "multirun_outputs/run", console)
    return console.file.getvalue()


def test_the_table_holds_task_metric_value_samples_and_entities():
    lines = printed(STATUS).splitlines()
    row = next(line for line in lines if "accuracy" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["classification", "accuracy", "0.7500", "204", "8"]
    assert any("rul_prediction" in line and "0.0312" in line and "408" in line for line in lines)


def test_below_it_stand_split_audit_steps_device_and_place():
    text = printed(STATUS)
    assert "by entity: train 1836 windows of 30 entities, test 612 windows of 10 entities" in text
    assert "clean: no entity and no sample is shared" in text
    assert "3 recordings shorter than a window were left out" in text
    assert "the test holds none of: healthy; means are over the classes it holds" in text
    assert "40 of 80 steps, stopped early: val/loss no better for 3 validations" in text
    assert "1 without an update (fp16 overflow)" in text
    assert "cpu (2 threads), fp16, micro-batch 8 x 4" in text
    assert "multirun_outputs/run" in text


def test_a_leak_is_named():
    line = audit_line({"clean": False, "shared": [LEAK]})
    assert line == ("LEAKY, waived by data.allow_leaky=true: train and test share 10 entities, 2 copied windows")
