"""A store gives back what was written, refuses what is damaged, and appears whole or not at all."""

import multiprocessing
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
from numpy.random import default_rng

from tests.data.conftest import raw
from vibench.data.store import Store
from vibench.data.writing import write_store
from vibench.errors import DataError

MADE = [
    raw("a1", "a", samples=100, channels=2, anomaly=True, rul_s=12.5, columns={"fault": "inner", "load": "0"}),
    raw(
        "b1",
        "b",
        samples=7,
        channels=3,
        system="engine",
        rate_hz=25_600.5,
        anomaly=False,
        columns={"fault": "gesund ü"},
    ),
    raw("a2", "a", samples=41, channels=2, rul_s=0.0, source="folder/ä,b.csv"),
]


@pytest.fixture
def path(tmp_path):
    assert write_store(tmp_path / "made.h5", MADE) == 3
    return tmp_path / "made.h5"


def changed(path, change):
    """Let ``change`` edit the HDF5 file."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_signals_come_back_as_they_were_written(path):
    store = Store(path)
    for recording, made in zip(store.recordings, MADE, strict=True):
        signal = store.signal(recording, 0, recording.length)
        assert signal.dtype == np.float32
        assert np.array_equal(signal, made.signal.astype(np.float32))


def test_every_column_comes_back_as_it_was_written(path):
    columns = ("fault", "load")
    for recording, made in zip(Store(path).recordings, MADE, strict=True):
        for name in ("id", "system", "entity", "source", "rate_hz", "anomaly", "rul_s"):
            assert getattr(recording, name) == getattr(made, name), name
        assert recording.columns == {name: made.columns.get(name, "") for name in columns}  # empty where unknown
        assert (recording.length, recording.label) == (len(made.signal), None)


def test_recordings_lie_one_after_another_in_the_signal_of_their_system(path):
    assert [(r.system, r.start) for r in Store(path).recordings] == [("rig", 0), ("engine", 0), ("rig", 100)]


def test_systems_are_named_with_their_channels(path):
    store = Store(path)
    assert store.systems == ["engine", "rig"]
    assert [store.channels(name) for name in store.systems] == [3, 2]
    assert sorted(store.columns) == ["fault", "load"]


def test_every_window_is_what_h5py_reads_there(path):
    store, rng = Store(path), default_rng(0)
    with h5py.File(path) as file:
        for recording in store.recordings:
            for _ in range(20):
                start, stop = sorted(rng.integers(0, recording.length + 1, 2).tolist())
                told = file[f"systems/{recording.system}/signal"][recording.start + start : recording.start + stop]
                assert np.array_equal(store.signal(recording, start, stop), told)


def test_a_window_is_a_view_of_the_file_that_cannot_be_written_to(path):
    window = Store(path).signal(Store(path).recordings[0], 0, 5)
    with pytest.raises(ValueError, match="read-only"):
        window[0] = 1


def test_signals_are_stored_contiguous_and_without_compression(path):
    with h5py.File(path) as file:
        for group in file["systems"].values():
            assert (group["signal"].chunks, group["signal"].compression) == (None, None)


def test_other_float_types_and_memory_orders_are_written_as_the_same_samples(tmp_path):
    numbers = default_rng(0).integers(-99, 99, (50, 2))
    kinds = [
        numbers.astype(">f4"),
        np.asfortranarray(numbers, np.float64),
        numbers.astype(np.int16),
        numbers[::-1][::-1],
    ]
    write_store(tmp_path / "kinds.h5", [raw(f"r{i}", signal=signal) for i, signal in enumerate(kinds)])
    store = Store(tmp_path / "kinds.h5")
    for recording in store.recordings:
        assert np.array_equal(store.signal(recording, 0, 50), numbers)


def test_a_store_that_was_sent_to_another_process_still_reads(path):
    store = Store(path)
    recording = store.recordings[2]
    here = store.signal(recording, 3, 9).copy()  # a map is open when it is pickled
    assert len(pickle.dumps(store)) == len(pickle.dumps(Store(path)))  # which does not travel
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(store.signal, (recording, 3, 9)), here)


def test_reading_needs_no_torch(path):
    code = f"import sys; from vibench.data.store import Store; Store({str(path)!r}); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# damage


def test_a_file_that_is_not_hdf5_is_refused(tmp_path):
    (tmp_path / "text.h5").write_text("not a store")
    with pytest.raises(DataError, match=r"text\.h5 cannot be read as a store: .*; delete it and make it again"):
        Store(tmp_path / "text.h5")


@pytest.mark.parametrize("name", ["absent.h5", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"cannot be read as a store|does not exist; make it") as refused:
        Store(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


def test_a_foreign_hdf5_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = np.arange(9)
    with pytest.raises(DataError, match=r"foreign\.h5 is an HDF5 file but not a vibench store"):
        Store(tmp_path / "foreign.h5")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_store_that_lost_its_end_is_refused(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"made\.h5 cannot be read as a store"):
        Store(path)


def test_a_store_of_another_version_is_refused_with_both_versions(path):
    changed(path, lambda file: file.attrs.modify("version", 7))
    with pytest.raises(DataError, match=r"made\.h5 has store version 7, this is 1; delete it and make it again"):
        Store(path)


@pytest.mark.parametrize(
    "part", ["systems", "recordings", "recordings/rate_hz", "recordings/entity", "systems/rig/signal"]
)
def test_a_store_that_lacks_a_part_is_refused(path, part):
    changed(path, lambda file: file.__delitem__(part))
    with pytest.raises(DataError, match=r"made\.h5"):
        Store(path)


@pytest.mark.parametrize(("column", "value"), [("length", 42), ("start", 101), ("start", -1)])
def test_a_recording_outside_its_signal_is_refused_by_name(path, column, value):
    changed(path, lambda file: file[f"recordings/{column}"].__setitem__(2, value))
    with pytest.raises(DataError, match=r"made\.h5: recording a2 lies outside its signal"):
        Store(path)


def test_a_recording_of_negative_length_is_refused_by_name(path):
    changed(path, lambda file: file["recordings/length"].__setitem__(2, -5))
    with pytest.raises(DataError, match=r"made\.h5: recording a2 "):
        Store(path)


def test_a_recording_of_an_unknown_system_is_refused_by_name(path):
    changed(path, lambda file: file["recordings/system"].__setitem__(1, b"nowhere"))
    with pytest.raises(DataError, match=r"made\.h5: recording b1 lies outside its signal"):
        Store(path)


def test_columns_of_different_length_are_refused(path):
    def shorten(file):
        table = file["recordings"]
        rates = table["rate_hz"][:2]
        del table["rate_hz"]
        table["rate_hz"] = rates

    changed(path, shorten)
    with pytest.raises(DataError, match=r"made\.h5"):
        Store(path)


def test_a_compressed_signal_is_refused_since_it_cannot_be_mapped(path):
    def compress(file):
        signal = file["systems/rig/signal"][:]
        del file["systems/rig/signal"]
        file.create_dataset("systems/rig/signal", data=signal, compression="gzip")

    changed(path, compress)
    with pytest.raises(DataError, match=r"made\.h5: signal of system rig is not contiguous float32"):
        Store(path)


# writing


@pytest.mark.parametrize(("value", "channel"), [(np.nan, 0), (np.inf, 1), (-np.inf, 1)])
def test_a_sample_that_is_not_finite_is_refused_with_file_and_place(tmp_path, value, channel):
    signal = np.zeros((50, 2))
    signal[13, channel] = value
    signal[20] = np.nan
    with pytest.raises(
        DataError,
        match=rf"b\.csv has 3 samples that are not finite numbers, the first at sample 13 of channel {channel}",
    ):
        write_store(tmp_path / "made.h5", [raw("a"), raw("b", signal=signal, source="b.csv")])
    assert list(tmp_path.iterdir()) == []


def test_recordings_of_one_system_with_different_channels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"b\.raw has 3 channels, the other recordings of system rig have 2"):
        write_store(tmp_path / "made.h5", [raw("a", channels=2), raw("b", channels=3)])


def test_no_recording_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"made\.h5: nothing to write"):
        write_store(tmp_path / "made.h5", [])
    assert list(tmp_path.iterdir()) == []


def test_a_recording_without_samples_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"b\.raw"):
        write_store(tmp_path / "made.h5", [raw("b", samples=0)])


def failing(after):
    yield from MADE[:after]
    raise RuntimeError("the disk caught fire")


@pytest.mark.parametrize("after", [0, 2])
def test_a_failing_reader_leaves_neither_a_store_nor_temporary_files(tmp_path, after):
    with pytest.raises(RuntimeError, match="the disk caught fire"):
        write_store(tmp_path / "made.h5", failing(after))
    assert list(tmp_path.iterdir()) == []


def test_a_store_survives_a_rewrite_that_fails(path):
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="the disk caught fire"):
        write_store(path, failing(2))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["made.h5"]


def test_a_store_that_is_open_keeps_its_samples_while_it_is_replaced(path):
    store = Store(path)
    window = store.signal(store.recordings[0], 0, 100)
    write_store(path, [raw("other", samples=100, channels=2)])
    assert np.array_equal(window, MADE[0].signal.astype(np.float32))
    assert [r.id for r in Store(path).recordings] == ["other"]


def test_missing_folders_are_made(tmp_path):
    write_store(tmp_path / "new" / "folder" / "made.h5", MADE)
    assert len(Store(tmp_path / "new" / "folder" / "made.h5").recordings) == 3


def test_an_entity_in_two_systems_is_refused(tmp_path):
    recordings = [raw("a", "bearing", system="one"), raw("b", "bearing", system="two")]
    with pytest.raises(DataError, match=r"b\.raw: entity bearing is in two systems; name every entity once"):
        write_store(tmp_path / "made.h5", recordings)
    assert list(tmp_path.iterdir()) == []


def test_a_system_whose_name_would_nest_groups_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the system CWRU/12k has a / in its name"):
        write_store(tmp_path / "made.h5", [raw("a", system="CWRU/12k")])
