"""``vibench-data prepare eeg`` as a user runs it, on small folders laid out as the public corpora are."""

import re
from datetime import datetime

import numpy as np
import pytest
from numpy.random import default_rng

from vibench.data.eeg.annotations import write_events
from vibench.data.eeg.edf import write_edf
from vibench.data.eeg.scalp import CHANNELS
from vibench.data.store import Store

pytest.importorskip("scipy")

START = datetime(2016, 1, 1, 19, 39, 33)
SECONDS, RATE_HZ = 10, 64
QUICK = ("data.preprocessing.rate_hz=32", "data.preprocessing.high_hz=15", "data.preprocessing.notch_hz=null")
BIPOLAR = ["FP1-F7", "F7-T7", "T7-P7", "P7-O1"]
TUSZ = "# version = csv_v1.0.0\nchannel,start_time,stop_time,label,confidence\n"


def edf(path, labels, marks=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    signal = default_rng(len(path.name)).normal(0, 30, (SECONDS * RATE_HZ, len(labels)))
    write_edf(path, signal, labels, RATE_HZ, start=START, patient="X", annotations=marks)
    return path


@pytest.fixture
def run(command, tmp_path):
    """``run(0, "raw=bids")``: with the status that it has to have, and no traceback."""

    def call(status, *arguments, quick=QUICK):
        done = command("data", "prepare", "eeg", *arguments, *quick, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return call


@pytest.fixture
def bids(tmp_path):
    """Two patients: one with two seizures, one without, and a record that no file speaks of."""
    for subject, events in (("sub-01", [(1, 3), (6, 8)]), ("sub-02", []), ("sub-03", None)):
        path = edf(tmp_path / "bids" / subject / "eeg" / f"{subject}_task-sz_run-01_eeg.edf", CHANNELS)
        if events is not None:
            told = path.with_name(path.name.replace("_eeg.edf", "_events.tsv"))
            write_events(told, events, duration_s=SECONDS, start=START, confidences=None)
    return tmp_path / "bids"


@pytest.fixture
def tusz(tmp_path):
    """Two patients in the folders of TUSZ, one of them without Fz and with a seizure on one channel."""
    old = [f"EEG {name.upper()}-REF" for name in CHANNELS]
    for stem, labels, rows in (
        ("aaaaaaac_s001_t000", old, "TERM,0.0000,10.0000,bckg,1.0000\n"),
        ("aaaaaaad_s002_t001", [name for name in old if "FZ" not in name], "TERM,2.5000,7.5000,seiz,1.0000\n"),
    ):
        path = edf(tmp_path / "tusz" / "train" / stem[:8] / f"{stem[9:13]}_2002" / "01_tcp_ar" / f"{stem}.edf", labels)
        path.with_suffix(".csv_bi").write_text(TUSZ + rows)
    return tmp_path / "tusz"


@pytest.fixture
def chb(tmp_path):
    """Two folders of CHB-MIT, which are of one girl, with electrodes that are differences already."""
    for name, text in (
        ("chb01", "Number of Seizures in File: 1\nSeizure Start Time: 3 seconds\nSeizure End Time: 5 seconds\n"),
        ("chb21", "Number of Seizures in File: 0\n"),
    ):
        edf(tmp_path / "chb" / name / f"{name}_03.edf", BIPOLAR)
        (tmp_path / "chb" / name / f"{name}-summary.txt").write_text(f"File Name: {name}_03.edf\n{text}")
    return tmp_path / "chb"


def table(said):
    """The cells of the one row that inspect prints, by the heads of their columns."""
    lines = [line for line in said.splitlines() if line[:1] in "┃│"]
    head, row = ([cell.strip() for cell in line[1:-1].replace("┃", "│").split("│")] for line in lines)
    return dict(zip(head, row, strict=True))


def told(store):
    return {
        r.entity: (None if r.events is None else (r.events / r.rate_hz).tolist(), r.columns["seizures"])
        for r in store.recordings
    }


# what is read


def test_a_tree_of_bids_becomes_a_store(run, bids, tmp_path):
    said = run(0, "raw=bids").stdout
    assert "2 records: BIDS events\n" in said
    assert "1 records: no file beside it and no annotation in it says\n" in said
    assert "3 records, 0 skipped\n" in said
    store = Store(tmp_path / "eeg.h5")
    assert told(store) == {
        "sub-01": ([[1, 3], [6, 8]], "yes"),
        "sub-02": ([], "no"),
        "sub-03": (None, "unknown"),
    }
    assert [store.channels("eeg"), {r.rate_hz for r in store.recordings}] == [19, {32.0}]
    assert {r.length for r in store.recordings} == {SECONDS * 32}


def test_the_table_counts_seizures_and_records_of_which_nothing_is_known(run, bids):
    cells = table(run(0, "raw=bids").stdout)
    assert (cells["system"], cells["rate Hz"], cells["channels"]) == ("eeg", "32", "19")
    assert (cells["recordings"], cells["entities"], cells["minutes"]) == ("3", "3", "0.5")
    assert cells["events"] == "2, 0.1 min; 1 recordings unknown"


def test_a_tree_of_tusz_becomes_a_store_and_tells_what_was_interpolated(run, tusz, tmp_path):
    said = run(0, f"raw={tusz}", "store=out/tusz.h5").stdout
    assert "2 records: TUSZ csv_bi\n" in said
    assert "Fz was made of its neighbours in 1 records\n" in said
    store = Store(tmp_path / "out" / "tusz.h5")
    assert told(store) == {"aaaaaaac": ([], "no"), "aaaaaaad": ([[2.5, 7.5]], "yes")}
    fz, f3, f4 = (CHANNELS.index(name) for name in ("Fz", "F3", "F4"))
    signal = store.signal(store.recordings[1], 0, 320)
    assert np.allclose(signal[:, fz], (signal[:, f3] + signal[:, f4]) / 2, atol=0.01)


def test_a_tree_of_chb_mit_becomes_a_store_of_one_patient_and_says_how_to_go_on(run, chb, tmp_path):
    own = ("data.preprocessing.channels=[Fp1-F7,T7-P7]", "data.preprocessing.interpolate=[]")
    said = run(0, f"raw={chb}", *own).stdout
    assert "2 records: CHB-MIT summary\n" in said
    assert table(said)["entities"] == "1"
    store = Store(tmp_path / "eeg.h5")
    assert [(r.id, r.entity, r.columns["seizures"]) for r in store.recordings] == [
        ("chb01/chb01_03", "chb01", "yes"),
        ("chb21/chb21_03", "chb01", "yes"),
    ]
    assert (store.recordings[0].events / 32).tolist() == [[3, 5]]
    next_line = said.splitlines()[-1]
    assert (
        next_line == f"next: vibench-train experiment=seizure_v3 data.store=eeg.h5 {own[0]} {own[1]} {' '.join(QUICK)}"
    )


def test_the_command_that_is_named_next_composes(run, command, bids, tmp_path):
    arguments = run(0, "raw=bids").stdout.splitlines()[-1].removeprefix("next: vibench-train ").split()
    composed = command("train", *arguments, "hardware=cpu", "--cfg", "job", cwd=tmp_path)
    assert composed.returncode == 0, composed.stderr


def test_a_key_that_is_changed_changes_the_store_and_stands_in_it(run, bids, tmp_path):
    run(0, "raw=bids")
    run(0, "raw=bids", "store=other.h5", "data.preprocessing.low_hz=2")
    first, second = (Store(tmp_path / name) for name in ("eeg.h5", "other.h5"))
    signals = [store.signal(store.recordings[0], 0, 320) for store in (first, second)]
    assert np.abs(signals[1] - signals[0]).max() > 1
    assert (first.preparation["low_hz"], second.preparation["low_hz"]) == (0.5, 2)
    assert first.preparation["channels"] == CHANNELS


def test_inspect_tells_the_same_of_the_store(run, command, bids, tmp_path):
    said = run(0, "raw=bids").stdout
    again = command("data", "inspect", "eeg.h5", cwd=tmp_path)
    assert again.returncode == 0
    assert again.stdout in said


# what is broken


def test_a_broken_file_refuses_the_whole_folder_and_writes_nothing(run, bids, tmp_path):
    (broken,) = (bids / "sub-02" / "eeg").glob("*.edf")
    broken.write_bytes(broken.read_bytes()[:3000])
    said = run(2, "raw=bids").stderr
    assert "1 files cannot be read, nothing was written:" in said
    assert re.search(rf"{broken.name} ends within its header, after 3000 of \d+ bytes; fetch or export it again", said)
    assert "leave them out with skip_broken=true" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bids"]


def test_a_broken_file_can_be_left_out_and_is_named(run, bids, tmp_path):
    edf(bids / "sub-04" / "sub-04_eeg.edf", ["O1", "O2"])
    said = run(0, "raw=bids", "skip_broken=true").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("skipped ")]
    assert re.search(r"sub-04_eeg\.edf lacks Fp1, F3, .*; it has O1, O2;", line)
    assert "3 records, 1 skipped\n" in said
    assert len(Store(tmp_path / "eeg.h5").recordings) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "raw is missing: the folder that holds the files; use prepare eeg raw=DIR"),
        (("raw=absent",), "raw=absent is not a folder"),
        (("raw=none",), r"raw=none holds no record \(\.edf, \.bdf, \.rec\)"),
        (("raw=none", "sore=x.h5"), "sore=x.h5 is not a setting of prepare eeg; there are raw, skip_broken, store"),
        (("raw=none", "normal_rate_hz=12000"), "normal_rate_hz=12000 is not a setting of prepare eeg"),
        (("raw=none", "skip_broken=yes"), "skip_broken=yes is neither true nor false"),
        (("raw=none", "data.window=5"), "data.window=5 is not a setting of prepare eeg"),
        (
            ("raw=none", "data.preprocessing.notch=50"),
            r"data\.preprocessing\.notch does not exist; did you mean data\.preprocessing\.notch_hz\?",
        ),
        (("raw=none", "data.preprocessing.rate_hz=0"), r"data\.preprocessing\.rate_hz=0.* is out of range"),
        (("raw=none", "data.preprocessing.high_hz=400"), r"data\.preprocessing\.high_hz=400 is not below half of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_is_refused_with_a_remedy(run, tmp_path, arguments, message):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no record")
    said = run(2, *arguments, quick=()).stderr.strip().splitlines()
    assert re.match(f"vibench-data: {message}", said[-1]), said


def test_all_that_is_wrong_with_the_preprocessing_is_told_at_once(run, bids):
    wrong = ("data.preprocessing.low_hz=90", "data.preprocessing.high_hz=80", "data.preprocessing.channels=[Fz,Fz]")
    said = run(2, "raw=bids", *wrong, quick=()).stderr
    for words in ("low_hz=90 is not below", "channels names Fz twice", "interpolate names Pz"):
        assert words in said
