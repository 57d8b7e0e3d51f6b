"""Records in real EDF files to a store: every key counts, whose they are, and what becomes of a file that is broken."""

from dataclasses import fields, replace
from datetime import datetime

import numpy as np
import pytest
from numpy.random import default_rng

from tests.data.conftest import patient
from vibench.config.data import DemoEEGConfig, EEGDataConfig, PreprocessingConfig
from vibench.data.build import build
from vibench.data.eeg.annotations import write_events
from vibench.data.eeg.edf import EDFRecording, open_edf, write_edf
from vibench.data.eeg.preparation import check_preparation, preparation_of
from vibench.data.eeg.preprocessing import Preprocessing
from vibench.data.eeg.records import demo_eeg_store, prepare_eeg, samples_of, spooled
from vibench.data.store import Store
from vibench.data.writing import write_store
from vibench.errors import DataError

pytest.importorskip("scipy")

START = datetime(2016, 1, 1, 19, 39, 33)
RAW_HZ = 128
ELECTRODES = ["F3", "F4", "C3"]
ASKED = PreprocessingConfig(
    channels=["F3", "F4", "Fz"],
    interpolate=["Fz"],
    rate_hz=64,
    low_hz=0.5,
    high_hz=20,
    notch_hz=15,
    max_gap_s=1,
)
OTHER = {  # a value that does something else to the file below
    "channels": ["F4", "F3", "Fz"],
    "interpolate": [],
    "rate_hz": 50,
    "low_hz": None,
    "high_hz": None,
    "notch_hz": None,
    "max_gap_s": 0.1,
}
EACH_KEY = pytest.mark.parametrize("key", [f.name for f in fields(PreprocessingConfig)])


def samples(seconds=8, seed=0, channels=3):
    """A walk with mains in it, in microvolts."""
    n = int(seconds * RAW_HZ)
    steps = default_rng(seed).standard_normal((n, channels)).cumsum(0)
    return steps + 20 * np.sin(2 * np.pi * 15 * np.arange(n) / RAW_HZ)[:, None]


def edf(path, *, seconds=8, seed=0, labels=ELECTRODES, marks=(), patient="X"):
    path.parent.mkdir(parents=True, exist_ok=True)
    signal = samples(seconds, seed, len(labels))
    write_edf(path, signal, labels, RAW_HZ, start=START, patient=patient, annotations=marks)
    return path


def bids(folder, subject, *events, seconds=8, **more):
    """A record with its events, as BIDS has them."""
    path = edf(folder / subject / "eeg" / f"{subject}_task-sz_eeg.edf", seconds=seconds, **more)
    told = path.with_name(f"{subject}_task-sz_events.tsv")
    write_events(told, list(events), duration_s=seconds, start=START, confidences=None)
    return path


@pytest.fixture
def prepared(tmp_path):
    """Prepare the folder ``raw`` and open the store."""

    def call(config=ASKED, **options):
        done, reader = prepare_eeg(tmp_path / "raw", tmp_path / "eeg.h5", config, **options)
        return Store(tmp_path / "eeg.h5"), done, reader

    return call


class Lossy(EDFRecording):
    """A file whose recorder lost samples. No sample of an EDF file says of itself that it is none."""

    lost = slice(300, 340)
    channel = 0

    def microvolts(self, start, stop):
        found = super().microvolts(start, stop)
        gone = np.zeros(self.length, bool)
        gone[self.lost] = True
        found[gone[start:stop], self.channel] = np.nan
        return found


def lossy(recording, lost):
    made = Lossy(**{f.name: getattr(recording, f.name) for f in fields(EDFRecording)})
    made.lost = lost
    return made


# every key counts


def outcome(path, config, folder, lost=slice(300, 340)):
    """The signal as it would stand in a store, or why there is none. 40 samples, 0.3 s, of a channel are lost."""
    try:
        recording = open_edf(path, config.channels, config.interpolate)
        spool, _ = spooled(lossy(recording, lost), config, folder / "signal.f32")
    except DataError as error:
        return str(error)
    return np.concatenate(list(spool.blocks()))


@EACH_KEY
def test_every_key_of_the_preprocessing_changes_what_stands_in_the_store(tmp_path, key):
    """A new key needs another value in OTHER, that does something."""
    path = edf(tmp_path / "x.edf")
    before = outcome(path, ASKED, tmp_path)
    after = outcome(path, replace(ASKED, **{key: OTHER[key]}), tmp_path)
    assert isinstance(before, np.ndarray), before
    assert isinstance(after, str) or after.shape != before.shape or not np.allclose(after, before, atol=1)
    assert np.array_equal(outcome(path, ASKED, tmp_path), before)  # and nothing else does


@EACH_KEY
def test_a_store_that_was_prepared_otherwise_is_refused_with_the_key_and_both_values(tmp_path, prepared, key):
    bids(tmp_path / "raw", "sub-1", (2, 4))
    store, _, _ = prepared()
    check_preparation(store, ASKED)
    asked = replace(ASKED, **{key: OTHER[key]})
    with pytest.raises(
        DataError, match=r"eeg\.h5 was prepared otherwise: .*; use the values that are there"
    ) as refused:
        check_preparation(store, asked)
    there = preparation_of(ASKED)
    assert f"data.preprocessing.{key}={OTHER[key]}, there {there[key]};" in str(refused.value)


def test_all_that_was_prepared_otherwise_is_named_at_once(tmp_path, prepared):
    bids(tmp_path / "raw", "sub-1", (2, 4))
    store, _, _ = prepared()
    with pytest.raises(DataError, match="was prepared otherwise") as refused:
        check_preparation(store, PreprocessingConfig(**OTHER))
    assert all(f"data.preprocessing.{key}=" in str(refused.value) for key in OTHER)


def test_a_store_of_other_signals_is_no_store_of_eeg(eeg_of, seizures_of, tmp_path):
    write_store(tmp_path / "eeg.h5", [patient(name, 100, (10, 50)) for name in "abc"])
    config = eeg_of(tmp_path / "eeg.h5")
    with pytest.raises(DataError, match=r"eeg\.h5 holds no EEG; make a store with `vibench-data prepare eeg raw=DIR`"):
        build(config, seizures_of(config))


def test_the_store_says_how_it_was_prepared(tmp_path, prepared):
    bids(tmp_path / "raw", "sub-1", (2, 4))
    store, _, _ = prepared()
    assert store.preparation == preparation_of(ASKED)
    assert set(store.preparation) == {f.name for f in fields(PreprocessingConfig)}


# the signal


def test_the_signal_is_that_of_the_preprocessing(tmp_path, prepared):
    path = bids(tmp_path / "raw", "sub-1", (2, 4))
    store, _, _ = prepared()
    (recording,) = store.recordings
    steps = Preprocessing(rate_hz=64, low_hz=0.5, high_hz=20, notch_hz=15, max_gap_s=1)
    file = open_edf(path, ASKED.channels, ASKED.interpolate)
    expected = np.concatenate(list(steps.blocks(file.microvolts, file.length, file.rate_hz)))
    assert (recording.rate_hz, recording.length, store.channels("eeg")) == (64, 512, 3)
    assert np.array_equal(store.signal(recording, 0, 512), expected)


def test_one_lost_sample_does_not_erase_its_channel(tmp_path):
    path = edf(tmp_path / "x.edf")
    recording = open_edf(path, ASKED.channels, ASKED.interpolate)
    whole, _ = spooled(recording, ASKED, tmp_path / "whole.f32")
    spool, filled = spooled(lossy(recording, slice(500, 501)), ASKED, tmp_path / "lossy.f32")
    before, after = (np.concatenate(list(each.blocks())) for each in (whole, spool))
    assert filled == 1
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() < 0.2 * before.std()
    assert np.abs(after - before)[:, 1:].max() == 0


def test_a_gap_that_is_too_long_is_refused_with_the_file_and_the_place(tmp_path):
    recording = lossy(open_edf(edf(tmp_path / "x.edf"), ASKED.channels, ASKED.interpolate), slice(256, 400))
    with pytest.raises(DataError, match=r"x\.edf: channel 0 .* for 1\.12 s or more from 2\.000 s on; .*max_gap_s=1"):
        spooled(recording, ASKED, tmp_path / "s.f32")


# events


@pytest.mark.parametrize(
    ("events", "spans"),
    [
        ([(1.0, 2.0)], [[8, 16]]),
        ([(1.06, 2.07)], [[8, 17]]),
        ([(0.0, 10.0)], [[0, 80]]),
        ([(3.0, 3.001)], [[24, 25]]),  # no event is lost
        ([(9.99, 10.0)], [[79, 80]]),
        ([], []),
    ],
)
def test_events_become_samples_of_which_each_has_one_at_least(events, spans):
    found = samples_of(events, 8.0, 80)
    assert found.tolist() == spans
    assert (found.shape[1], found.dtype) == (2, np.int64)


def test_every_record_brings_its_seizures_or_that_nothing_is_known(tmp_path, prepared):
    raw = tmp_path / "raw"
    bids(raw, "sub-1", (2, 4), (6, 7.5))
    bids(raw, "sub-2")
    edf(raw / "sub-3" / "sub-3_eeg.edf")
    edf(raw / "sub-4" / "sub-4_eeg.edf", marks=[(1.0, 2.0, "seizure")])
    store, done, reader = prepared()
    found = {r.entity: None if r.events is None else r.events.tolist() for r in store.recordings}
    assert found == {"sub-1": [[128, 256], [384, 480]], "sub-2": [], "sub-3": None, "sub-4": [[64, 192]]}
    answers = {r.entity: r.columns["seizures"] for r in store.recordings}
    assert answers == {"sub-1": "yes", "sub-2": "no", "sub-3": "unknown", "sub-4": "yes"}
    said = {"BIDS events": 2, "EDF+ annotations": 1, "no file beside it and no annotation in it says": 1}
    assert dict(reader.sources) == said
    assert done.recordings == 4


def test_a_patient_with_a_seizure_in_any_record_has_seizures(tmp_path, prepared):
    for number, marks in enumerate([(), [(1.0, 2.0, "seizure")], ()]):
        edf(tmp_path / "raw" / "sub-1" / f"sub-1_run-{number}_eeg.edf", marks=marks)
    store, _, _ = prepared()
    assert [r.columns["seizures"] for r in store.recordings] == ["yes"] * 3
    assert [r.events is None for r in store.recordings] == [True, False, True]


# whose they are, and which files


def test_ids_and_sources_are_those_of_the_files(tmp_path, prepared):
    edf(tmp_path / "raw" / "ann" / "night.edf")
    edf(tmp_path / "raw" / "bob" / "night.EDF")
    (tmp_path / "raw" / "notes.txt").write_text("not a record")
    (tmp_path / "raw" / ".hidden.edf").write_text("not a record")
    store, done, _ = prepared()
    assert [(r.id, r.entity, r.system) for r in store.recordings] == [
        ("ann/night", "ann", "eeg"),
        ("bob/night", "bob", "eeg"),
    ]
    assert store.recordings[0].source == str(tmp_path / "raw" / "ann" / "night.edf")
    assert (done.skipped, done.broken) == ([], [])


@pytest.fixture
def chb(tmp_path, prepared):
    """Four patients of CHB-MIT in five folders."""
    for name in ("chb01", "chb02", "chb03", "chb04", "chb21"):
        for number in (1, 2):
            edf(tmp_path / "raw" / name / f"{name}_0{number}.edf", marks=[(2.0, 3.0, "seizure")], seed=int(name[3:]))
    return prepared()[0]


def test_the_girl_who_was_recorded_twice_is_never_in_two_splits(eeg_of, seizures_of, chb):
    home = set()
    every = {"background_per_partial": None, "ictal_per_partial": None}
    for seed in range(12):
        config = eeg_of(chb.path, preprocessing=ASKED, window=64, stride=64, split={"seed": seed}, **every)
        data = build(config, seizures_of(config))
        splits = {
            name: {r.id.partition("/")[0] for r in (split.recordings[i] for i in set(split.places[:, 0].tolist()))}
            for name, split in data.splits.items()
        }
        (name,) = [name for name, folders in splits.items() if "chb21" in folders]
        assert "chb01" in splits[name]
        assert data.certificate["clean"]
        home.add(name)
    assert len(home) > 1


def test_her_second_name_is_no_patient_that_could_be_tested(eeg_of, seizures_of, chb):
    config = eeg_of(chb.path, preprocessing=ASKED, split={"train": ["chb01"], "test": ["chb21"]})
    with pytest.raises(
        DataError, match=r"data\.split\.test names chb21, which is no entity .*; there are chb01, chb02"
    ):
        build(config, seizures_of(config))


def test_records_of_a_patient_in_two_splits_are_refused(eeg_of, seizures_of, chb):
    names = {"train": ["chb21/chb21_01"], "val": ["chb02/chb02_01"], "test": ["chb01/chb01_01"]}
    config = eeg_of(chb.path, preprocessing=ASKED, window=64, stride=64, split={"by": "id"} | names)
    with pytest.raises(DataError, match=r"the splits leak: train and test share 1 entities \(chb01\)"):
        build(config, seizures_of(config))


def test_electrodes_that_were_made_of_others_are_counted(tmp_path, prepared):
    bids(tmp_path / "raw", "sub-1")
    bids(tmp_path / "raw", "sub-2", labels=["F3", "F4", "Fz"])
    _, _, reader = prepared()
    assert dict(reader.interpolated) == {"Fz": 1}
    assert reader.filled == {}


# what is broken


def test_a_broken_record_is_refused_and_nothing_is_written(tmp_path, prepared):
    bids(tmp_path / "raw", "sub-1", (2, 4))
    whole = bids(tmp_path / "raw", "sub-2").read_bytes()
    (tmp_path / "raw" / "sub-2" / "eeg" / "sub-2_task-sz_eeg.edf").write_bytes(whole[:-500])
    edf(tmp_path / "raw" / "sub-3.edf", labels=["O1", "O2"])
    with pytest.raises(DataError, match=r"2 files cannot be read, nothing was written:") as refused:
        prepared()
    assert "sub-2_task-sz_eeg.edf is cut short" in str(refused.value)
    assert "sub-3.edf lacks F3, F4, Fz; it has O1, O2" in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_broken_record_can_be_left_out(tmp_path, prepared):
    bids(tmp_path / "raw", "sub-1", (2, 4))
    edf(tmp_path / "raw" / "sub-3.edf", labels=["O1", "O2"])
    store, done, reader = prepared(skip_broken=True)
    assert [r.entity for r in store.recordings] == ["sub-1"]
    ((file, said),) = done.broken
    assert file.name == "sub-3.edf"
    assert "lacks F3" in said
    assert sum(reader.sources.values()) == done.recordings == 1


def test_the_seizures_of_a_record_that_is_left_out_are_not_counted_for_its_patient(tmp_path, prepared):
    edf(tmp_path / "raw" / "sub-1_run-1_eeg.edf")
    edf(tmp_path / "raw" / "sub-1_run-2_eeg.edf", labels=["O1", "O2"], marks=[(1.0, 2.0, "seizure")])
    store, _, _ = prepared(skip_broken=True)
    assert [r.columns["seizures"] for r in store.recordings] == ["unknown"]


def test_a_record_whose_annotations_are_wrong_is_broken(tmp_path, prepared):
    bids(tmp_path / "raw", "sub-1", (2, 40))
    with pytest.raises(DataError, match=r"sub-1_task-sz_events\.tsv: line 2: a seizure from 2 s to 40 s runs over"):
        prepared()


def test_a_folder_without_a_record_is_refused(tmp_path, prepared):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("not a record")
    with pytest.raises(DataError, match=r"holds no record \(\.edf, \.bdf, \.rec\); give the folder that holds the raw"):
        prepared()


def test_no_record_that_can_be_read_is_refused(tmp_path, prepared):
    edf(tmp_path / "raw" / "sub-3.edf", labels=["O1", "O2"])
    with pytest.raises(DataError, match="none of the 1 files holds a recording that can be read, nothing was written"):
        prepared(skip_broken=True)


# the synthetic corpus


@pytest.fixture(scope="module")
def demo(resolved):
    return resolved(
        "data=demo_eeg", "task=seizure_detection", "data.patients=3", "data.records_per_patient=1", "data.record_s=120",
        "data.raw_rate_hz=128", "data.preprocessing.channels=[F3,C3]", "data.preprocessing.interpolate=[]",
    ).data  # fmt: skip


CORPUS = {
    "corpus_seed": 1,
    "patients": 4,
    "records_per_patient": 2,
    "record_s": 121.0,
    "seizures_per_hour": 20.0,
    "raw_rate_hz": 130.0,
}


def test_every_key_of_the_synthetic_corpus_is_tried_below():
    own = {f.name for f in fields(DemoEEGConfig)} - {f.name for f in fields(EEGDataConfig)}
    assert own == set(CORPUS) | {"cache_dir"}


@pytest.mark.parametrize("key", CORPUS)
def test_every_key_of_the_synthetic_corpus_makes_another_one(demo, tmp_path, key):
    longer = {"record_s": 300.0} if key == "seizures_per_hour" else {}  # or there is no room for more
    config = replace(demo, cache_dir=str(tmp_path), **longer)
    first, second = demo_eeg_store(config), demo_eeg_store(replace(config, **{key: CORPUS[key]}))
    assert first != second
    before, after = Store(first), Store(second)
    signals = [[s.signal(r, 0, r.length) for r in s.recordings] for s in (before, after)]
    events = [[r.events.tolist() for r in s.recordings] for s in (before, after)]
    same = all(np.array_equal(a, b) for a, b in zip(*signals, strict=False))
    assert not same or events[0] != events[1] or len(before.recordings) != len(after.recordings)
    assert len(list(tmp_path.glob("demo-eeg-*/"))) == 2


def test_the_corpus_is_made_once_and_prepared_once_for_each_preprocessing(demo, tmp_path):
    config = replace(demo, cache_dir=str(tmp_path))
    store = demo_eeg_store(config)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert demo_eeg_store(config) == store
    other = demo_eeg_store(replace(config, preprocessing=replace(config.preprocessing, low_hz=1.0)))
    assert other != store
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert (Store(store).preparation["low_hz"], Store(other).preparation["low_hz"]) == (0.5, 1.0)


def test_the_synthetic_patients_can_be_split_as_they_are(demo, seizures_of, tmp_path):
    config = replace(demo, cache_dir=str(tmp_path))
    data = build(config, seizures_of(config))
    assert data.certificate["clean"]
    assert {name: len(part["entities"]) for name, part in data.certificate["splits"].items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert data.classes == ["yes"]


def test_a_cache_that_cannot_be_written_is_refused_by_its_key(demo, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache_dir=.*/file/cache cannot be written: .*; name another"):
        demo_eeg_store(replace(demo, cache_dir=str(tmp_path / "file" / "cache")))
