"""From synthetic patients to a proven run and to the seizures of a record, as a user does it."""

import csv
import dataclasses
import json
import math
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from vibench.config import frozen
from vibench.config.data import Normalisation
from vibench.config.plain import plain
from vibench.data.build import build
from vibench.data.eeg.annotation_tables import bids_events
from vibench.data.eeg.edf import open_edf, write_edf
from vibench.data.eeg.records import spooled
from vibench.data.store import Store
from vibench.data.writing import RawRecording, write_store
from vibench.model import build_model, targets
from vibench.prediction import find, load_detector, probabilities
from vibench.tasks.postprocessing import Postprocessing
from vibench.tasks.stitching import Stitched
from vibench.training.checkpoints import load_weights, read_checkpoint

for extra in ("edfio", "scipy", "timescoring", "matplotlib"):
    pytest.importorskip(extra)

TASK = "seizure_detection"
RATE_HZ = 32
SMALL = (  # the system of experiment=seizure_demo, every part of it, in seconds
    *("experiment=seizure_demo", "hardware=cpu", "d_model=8"),
    *("data.patients=6", "data.records_per_patient=1", "data.record_s=120", "data.raw_rate_hz=128"),
    *(f"data.preprocessing.rate_hz={RATE_HZ}", "data.preprocessing.high_hz=12", "data.window=480", "data.stride=160"),
    *("embedding.channels=[8,8]", "embedding.stride=16", "backbone.node_width=4", "backbone.head_dim=2"),
    *("backbone.node_layers=1", "backbone.edge_width=2", "backbone.edge_head_dim=2", "backbone.edge_d_state=2"),
    *("backbone.encoding_dim=4", "backbone.gnn_layers=1", "training.global_batch_size=14", "training.warmup_steps=1"),
    "training.epochs=2",
    "backbone.top_k=18",  # all: of electrodes that are equally alike, rounding would choose
)


@pytest.fixture(scope="session")
def finished(command, resolved, tmp_path_factory):
    """A run that was trained by the command: what it said, its directory, status, config, and the files of its test."""
    folder = tmp_path_factory.mktemp("seizures")
    done = command("train", *SMALL, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    run = folder / "run"
    status, split = (json.loads((run / name).read_text()) for name in ("status.json", "split.json"))
    wanted = split["splits"]["test"]["entities"]
    files = [Path(r.source) for r in Store(Path(split["store"])).recordings if r.entity in wanted]
    return SimpleNamespace(run=run, done=done, status=status, config=resolved(*SMALL), files=files)


@pytest.fixture(scope="session")
def data(finished):
    return build(finished.config.data, targets(finished.config))


@pytest.fixture(scope="session")
def detector(finished):
    return load_detector(finished.run)


@pytest.fixture
def predict(command, finished, tmp_path):
    """``predict(0, file)``: with the status that it has to have, and no traceback."""

    def call(status, *arguments, run=None):
        done = command("predict", str(run or finished.run), *map(str, arguments), cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return call


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def name_of(file):
    return file.stem.removesuffix("_eeg")


# the run


def test_the_run_is_complete_and_proven(finished, data):
    status = finished.status
    assert (status["state"], status["split"]["clean"]) == ("completed", True)
    result = status["results"][TASK]
    assert list(result["metrics"]) == list(finished.config.task[TASK].METRICS)
    assert all(math.isfinite(value) for value in result["metrics"].values())
    assert result["samples"] == len(data.splits["test"])
    assert result["entities"] == 2
    for text in ("event_f1", "sensitivity_2_5fa", "taes_f1", "audit    clean"):
        assert text in finished.done.stdout
    assert "Traceback" not in finished.done.stderr
    assert "Warning" not in finished.done.stderr


def test_as_many_steps_were_promised_and_done_as_the_drawn_epochs_have(finished, data):
    assert len(data.draw) < len(data.splits["train"])
    steps = 2 * -(-len(data.draw) // 14)
    assert finished.status["promised_steps"] == finished.status["steps"] == steps
    assert f"an epoch draws {len(data.draw)}" in finished.done.stderr + finished.done.stdout
    with (finished.run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert max(int(row["step"]) for row in rows) == steps


def test_the_checkpoint_carries_the_thresholds_of_the_validation_and_the_weight_of_a_seizure(finished, data):
    path = finished.run / finished.status["checkpoint"]
    weights = read_checkpoint(path)["state_dict"]
    chosen = weights[f"model.tasks.{TASK}.chosen"]
    fresh = build_model(finished.config, n_channels=19, n_classes=1)
    assert fresh.tasks[TASK].threshold == 0.5
    assert not torch.equal(fresh.tasks[TASK].chosen, chosen)  # a validation has chosen
    load_weights(fresh, read_checkpoint(path), path)
    assert torch.equal(fresh.tasks[TASK].chosen, chosen)
    fresh.tasks[TASK].meet(data)
    assert weights[f"model.tasks.{TASK}.positive_weight"] == fresh.tasks[TASK].positive_weight > 1


def test_a_validation_is_logged_with_every_metric(finished):
    with (finished.run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row[f"val/{TASK}/sample_f1"]]
    assert len(rows) == 2
    assert all(rows[0][f"val/{TASK}/{name}"] for name in finished.config.task[TASK].METRICS)


# a record


def test_a_record_becomes_a_table_a_picture_and_a_line(finished, predict, tmp_path):
    file = finished.files[0]
    said = predict(0, file)
    written = table(tmp_path / f"{name_of(file)}_desc-vibench_events.tsv")
    assert {row["recordingDuration"] for row in written} == {"120"}
    assert {row["dateTime"] for row in written} == {"2020-01-01 09:00:00"}
    found = [(float(row["onset"]), float(row["duration"])) for row in written if row["eventType"] == "sz"]
    assert found
    assert all(0 <= onset < onset + lasts <= 120 for onset, lasts in found)
    assert all(0 < float(row["confidence"]) <= 1 for row in written if row["eventType"] == "sz")
    onset, lasts = found[0]
    assert f"{onset:.1f} to {onset + lasts:.1f} s" in said.stdout
    assert "chosen by the validation of the run" in said.stdout
    picture = (tmp_path / f"{name_of(file)}_desc-vibench_events.svg").read_text()
    ElementTree.fromstring(picture)
    assert len(picture) > 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name_of(file)}_desc-vibench_events.{end}" for end in ("svg", "tsv")
    ]


def test_the_table_is_read_back_as_annotations_of_the_record(finished, predict, tmp_path):
    predict(0, finished.files[0], "out=found")
    stem = tmp_path / "found" / name_of(finished.files[0])
    shutil.copy(f"{stem}_desc-vibench_events.tsv", f"{stem}_events.tsv")  # by somebody who trusts it
    again = bids_events(tmp_path / "found" / finished.files[0].name)
    written = table(tmp_path / "found" / f"{name_of(finished.files[0])}_desc-vibench_events.tsv")
    assert [(event.onset_s, round(event.end_s - event.onset_s, 6)) for event in again.events] == [
        (float(row["onset"]), round(float(row["duration"]), 6)) for row in written
    ]


def test_two_records_are_two_rows_of_one_table_and_are_scored_by_what_lies_beside_them(finished, predict, tmp_path):
    said = predict(0, *finished.files, "out=deep/folder").stdout
    rows = [[cell.strip() for cell in line[1:-1].split("│")] for line in said.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows if row[0]] == [file.name for file in finished.files]
    assert all(row[3] == "1" for row in rows if row[0])  # annotated
    assert all(row[1] == "0.03" for row in rows if row[0])  # hours
    assert len(list((tmp_path / "deep" / "folder").iterdir())) == 4


@pytest.fixture
def copied(finished, tmp_path):
    """A record without what lies beside it, and without its annotations."""
    file = finished.files[0]
    signal = open_edf(file, finished.config.data.preprocessing.channels, []).microvolts(0, 15360)

    def call(name="night.edf", *, samples=15360, channels=None, rate_hz=128):
        path = tmp_path / name
        names = channels or finished.config.data.preprocessing.channels
        start = datetime(2021, 2, 3, 4, 5, 6)
        write_edf(path, signal[:samples, : len(names)], names, rate_hz, start=start, patient="X")
        return path

    return call


def test_a_record_that_nobody_has_looked_through_is_not_scored(copied, predict):
    said = predict(0, copied(), "out=found").stdout
    (row,) = [line for line in said.splitlines() if "night.edf" in line]
    assert [cell.strip() for cell in row[1:-1].split("│")][3:6] == ["-", "-", "-"]


def test_a_record_shorter_than_a_window_is_predicted(copied, predict, tmp_path):
    predict(0, copied(samples=5 * 128), "out=found")  # 5 s of 15 s
    written = table(tmp_path / "found" / "night_desc-vibench_events.tsv")
    assert {row["recordingDuration"] for row in written} == {"5"}
    assert sum(float(row["duration"]) for row in written) <= 5


# the same whatever is at hand


@pytest.fixture(scope="module")
def record(finished, detector, tmp_path_factory):
    """A store of one record of the test."""
    folder = tmp_path_factory.mktemp("record")
    wanted = detector.data.preprocessing
    spool, _ = spooled(open_edf(finished.files[0], wanted.channels, wanted.interpolate), wanted, folder / "x.f32")
    fields = {"id": "x", "system": "eeg", "entity": "x", "source": "x.edf", "rate_hz": float(RATE_HZ)}
    write_store(folder / "x.h5", [RawRecording(signal=spool, **fields)])
    return Store(folder / "x.h5")


def whole(detector, store, size):
    return np.concatenate(list(probabilities(detector, store, size)))


def test_the_probability_is_the_same_in_pieces_of_any_size(detector, record):
    expected = whole(detector, record, 1)
    assert len(expected) == record.recordings[0].length == 120 * RATE_HZ
    assert expected.std() > 1e-3
    for size in (3, 10_000):
        np.testing.assert_allclose(whole(detector, record, size), expected, atol=1e-5)


def test_the_events_are_the_same_in_pieces_of_any_size(detector, record, monkeypatch):
    """At a threshold that the probability crosses often, and with nothing done to what is above it."""
    middle = float(np.median(whole(detector, record, 8)))
    bare = Postprocessing(off_ratio=1.0, opening=1, closing=1, min_duration_s=0.0, merge_gap_s=0.0)
    monkeypatch.setattr(detector.task, "grid", np.array([middle]))
    monkeypatch.setattr(detector.task, "postprocessing", bare)
    expected = None
    for size in (1, 3, 10_000):
        found, curve = find(dataclasses.replace(detector, batch=size), record, lambda share: None)
        if expected is None:
            expected = found, curve
        assert [event for event, _ in found] == [event for event, _ in expected[0]]
        np.testing.assert_allclose([sure for _, sure in found], [sure for _, sure in expected[0]], atol=1e-5)
        np.testing.assert_allclose(curve, expected[1], atol=1e-5)
    assert len(expected[0]) > 1
    probability = whole(detector, record, 8)
    cut = detector.task.postprocessing.events(probability, middle, RATE_HZ) / RATE_HZ
    assert [event for event, _ in expected[0]] == list(map(tuple, cut.tolist()))
    for (start, stop), sure in expected[0]:
        inside = probability[round(start * RATE_HZ) : round(stop * RATE_HZ)]
        assert inside.max() - 1e-6 <= sure


def test_what_is_predicted_of_a_record_is_what_the_test_has_scored(finished, detector, data, record):
    split = data.splits["test"]
    (number,) = [i for i, r in enumerate(split.recordings) if r.source == str(finished.files[0])]
    rows = np.flatnonzero(split.places[:, 0] == number).tolist()
    batch, stitched = split.__getitems__(rows), Stitched()
    with torch.no_grad():
        probability = detector.model(batch)[TASK].sigmoid().numpy()
    for row, start in enumerate(batch.start.tolist()):
        stitched.add(start, probability[row], batch.targets[TASK][row].bool().numpy(), batch.present[TASK][row].numpy())
    np.testing.assert_allclose(whole(detector, record, 8), stitched.probability(), atol=1e-5)


def test_the_progress_rises_to_its_end(detector, record):
    told = []
    list(probabilities(detector, record, 5, told.append))
    assert told == sorted(told)
    assert told[-1] == 1


def test_a_record_shorter_than_a_window_has_a_probability_for_each_sample(detector, tmp_path):
    signal = default_rng(0).normal(0, 20, (70, 19))
    fields = {"id": "x", "system": "eeg", "entity": "x", "source": "x.edf", "rate_hz": float(RATE_HZ)}
    write_store(tmp_path / "x.h5", [RawRecording(signal=signal, **fields)])
    found = whole(detector, Store(tmp_path / "x.h5"), 4)
    assert found.shape == (70,)
    assert np.isfinite(found).all()


# what cannot be done: 1 of some files, 2 of all


def test_a_file_that_is_no_edf_is_named_and_the_others_are_done(finished, predict, tmp_path):
    (tmp_path / "notes.edf").write_text("not a record")
    said = predict(1, tmp_path / "notes.edf", finished.files[0], "out=found")
    assert "vibench-predict: " in said.stderr
    assert "notes.edf is not an EDF or BDF file" in said.stderr
    assert finished.files[0].name in said.stdout
    assert len(list((tmp_path / "found").iterdir())) == 2


def test_a_missing_channel_is_named(copied, predict, tmp_path):
    file = copied("few.edf", channels=["Fp1", "F3", "C3"])
    said = predict(1, file, "out=found").stderr
    assert "few.edf lacks P3, O1, F7" in said
    assert "it has Fp1, F3, C3" in said
    assert list((tmp_path / "found").iterdir()) == []  # nothing is left behind


def another(finished, tmp_path, **changes):
    """A completed run of another kind."""
    run = tmp_path / "other"
    shutil.copytree(finished.run, run)
    frozen.freeze(plain(dataclasses.replace(finished.config, **changes)), run)
    return run


def test_a_run_that_detects_no_seizures_is_refused(finished, resolved, predict, tmp_path):
    machines = resolved("task=classification", "hardware=cpu", "training.monitor=loss")
    run = another(finished, tmp_path, task=machines.task, data=machines.data)
    said = predict(2, finished.files[0], run=run).stderr
    assert "other detects no seizures (task: classification); name a run that does" in said


def test_a_run_whose_scale_is_that_of_its_training_is_refused(finished, predict, tmp_path):
    scaled = dataclasses.replace(finished.config.data, normalisation=Normalisation.train)
    said = predict(2, finished.files[0], run=another(finished, tmp_path, data=scaled)).stderr
    assert "has data.normalisation=train, which needs its training data; train with recording or window" in said


def test_a_run_that_is_not_completed_is_refused(finished, predict, tmp_path):
    run = another(finished, tmp_path)
    (run / "status.json").write_text(json.dumps(finished.status | {"state": "failed"}))
    assert "is a run that is failed, not completed" in predict(2, finished.files[0], run=run).stderr


def test_damaged_weights_are_refused(finished, predict, tmp_path):
    run = another(finished, tmp_path)
    path = run / finished.status["checkpoint"]
    path.write_bytes(path.read_bytes()[:-9])
    assert "cannot be read as a checkpoint" in predict(2, finished.files[0], run=run).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no record is named; use vibench-predict RUN FILE.edf..."),
        (("absent.edf",), "absent.edf does not exist; name an EDF file"),
        (("--verbose",), "--verbose is no option; there are out=DIR and --help"),
        (("FILE", "out=a", "out=b"), "out is given 2 times; give it once"),
        (("FILE", "FILE"), "2 records would write "),
        (("FILE", "out=taken"), "out=taken cannot be made: File exists; name a folder that can be written"),
        (("FILE", "out=taken/deep"), "out=taken/deep cannot be made: Not a directory; name a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_is_refused_with_a_remedy(finished, predict, tmp_path, arguments, message):
    (tmp_path / "taken").write_text("")
    said = predict(2, *(str(finished.files[0]) if text == "FILE" else text for text in arguments)).stderr
    assert said.splitlines()[0].startswith(f"vibench-predict: {message}"), said


def test_a_run_that_is_none_is_refused(finished, predict, tmp_path):
    said = predict(2, finished.files[0], run=tmp_path).stderr
    assert "holds no run: there is no config.yaml; name the directory of a run" in said


@pytest.mark.parametrize("arguments", [["out=found"], ["-x"]])
def test_without_a_run_what_is_missing_is_said(command, tmp_path, arguments):
    done = command("predict", *arguments, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "no record is named; use vibench-predict RUN FILE.edf..." in done.stderr


def test_what_is_written_beside_a_record_is_no_annotation_of_it(finished, command, tmp_path):
    file = tmp_path / finished.files[0].name
    shutil.copy(finished.files[0], file)
    told = tmp_path / f"{name_of(file)}_events.tsv"
    told.write_text("onset\tduration\teventType\n3\t4\tsz\n")
    before = bids_events(file)
    done = command("predict", str(finished.run), file.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told.read_text().endswith("3\t4\tsz\n")
    told.unlink()
    assert before is not None
    assert bids_events(file) is None


@pytest.mark.parametrize(("arguments", "status"), [((), 2), (("--help",), 0), (("-h",), 0)])
def test_help_is_printed(command, tmp_path, arguments, status):
    done = command("predict", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout.startswith("usage: vibench-predict RUN FILE.edf...")) == (status, True)
