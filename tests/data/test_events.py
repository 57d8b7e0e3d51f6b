"""Seizures and how signals were prepared come back from a store as they went in; unknown is not none."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from tests.data.conftest import patient, raw
from vibench.config.data import Normalisation
from vibench.data import store as module
from vibench.data.normalisation import check_samples, scaling_of
from vibench.data.splits import Segment
from vibench.data.store import Store
from vibench.data.writing import RawRecording, Spool, write_store
from vibench.errors import DataError


@pytest.fixture
def written(tmp_path):
    """Write recordings to a store and open it."""

    def call(*recordings, preparation=None):
        write_store(tmp_path / "made.h5", recordings, preparation)
        return Store(tmp_path / "made.h5")

    return call


# events


def test_events_come_back_with_their_recording(written):
    store = written(patient("a", 90, (3, 17), (40, 90)), patient("b", 50, (0, 1)), patient("c", 70, (10, 20), (30, 40)))
    found = {r.id: r.events.tolist() for r in store.recordings}
    assert found == {"a": [[3, 17], [40, 90]], "b": [[0, 1]], "c": [[10, 20], [30, 40]]}
    assert store.recordings[0].events.dtype == np.int64


def test_none_is_not_unknown(written):
    store = written(patient("none", 90), patient("unknown", 90, unknown=True), patient("one", 90, (1, 2)))
    none, unknown, one = (r.events for r in store.recordings)
    assert (none.shape, unknown, one.tolist()) == ((0, 2), None, [[1, 2]])


def test_a_store_in_which_somebody_has_looked_and_found_nothing_says_so(written):
    assert [r.events.shape for r in written(patient("a", 90), patient("b", 90)).recordings] == [(0, 2)] * 2


def test_a_store_without_events_is_as_it_was(written, tmp_path):
    store = written(raw("a"), raw("b"))
    assert [r.events for r in store.recordings] == [None, None]
    with h5py.File(tmp_path / "made.h5") as file:
        assert set(file) == {"recordings", "systems"}
        assert "preparation" not in file.attrs


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.none() | st.lists(st.tuples(st.integers(0, 40), st.integers(41, 80)), max_size=3), min_size=1, max_size=6
    )
)
def test_whatever_is_known_of_some_recordings_comes_back(tmp_path_factory, known):
    path = tmp_path_factory.mktemp("store") / "made.h5"
    write_store(path, [patient(f"r{i}", 80, *(spans or ()), unknown=spans is None) for i, spans in enumerate(known)])
    found = [r.events for r in Store(path).recordings]
    assert [None if spans is None else list(map(tuple, spans.tolist())) for spans in found] == known


def test_an_interrupted_store_of_events_is_refused(written, tmp_path):
    written(patient("a", 90, (3, 17)))
    with h5py.File(tmp_path / "made.h5", "r+") as file:
        del file["events/spans"]
    with pytest.raises(DataError, match=r"made\.h5 cannot be read as a store: .*spans.*; delete it and make it again"):
        Store(tmp_path / "made.h5")


def test_more_recordings_known_than_there_are_is_refused(written, tmp_path):
    written(patient("a", 90, (3, 17)))
    with h5py.File(tmp_path / "made.h5", "r+") as file:
        del file["events/known"]
        file["events/known"] = np.array([True, True])
    with pytest.raises(DataError, match=r"made\.h5 cannot be read as a store: .*; delete it and make it again"):
        Store(tmp_path / "made.h5")


# samples at the end of a recording


@pytest.mark.parametrize(("start", "stop"), [(0, 99), (5, 99), (49, 50), (50, 99), (70, 99)])
def test_a_recording_gives_no_sample_of_the_next_one(written, start, stop):
    first, second = patient("a", 50), patient("b", 60)
    store = written(first, second)
    found = store.signal(store.recordings[0], start, stop)
    assert np.array_equal(found, first.signal[start:50].astype(np.float32))


# how signals were made


def test_what_was_done_to_signals_comes_back_in_plain_types(written):
    told = {"channels": ["Fp1", "Fz-Cz"], "low_hz": 0.5, "notch_hz": None, "rate_hz": 256.0, "interpolate": []}
    assert written(patient("a", 90), preparation=told).preparation == told


def test_a_store_of_raw_signals_says_nothing_of_it(written):
    assert written(raw("a")).preparation == {}


# longer than memory


@pytest.fixture
def small_blocks(monkeypatch):
    """Handle 7 samples at once."""
    for name in ("store", "writing"):
        monkeypatch.setattr(f"vibench.data.{name}.BLOCK", 7)


def spooled(path, signal, parts=(0, 3, 4, 30)):
    spool = Spool(path, signal.shape[1])
    for start, stop in zip(parts, (*parts[1:], len(signal)), strict=True):
        spool.append(signal[start:stop])
    return spool


@pytest.mark.parametrize("length", [1, 6, 7, 8, 49, 50])
def test_a_spool_gives_back_what_was_appended_in_blocks(tmp_path, small_blocks, length):
    signal = default_rng(0).standard_normal((length, 3))
    spool = spooled(tmp_path / "signal.f32", signal)
    blocks = list(spool.blocks())
    assert (spool.length, spool.channels) == (length, 3)
    assert [len(block) for block in blocks] == [7] * (length // 7) + [length % 7] * (length % 7 > 0)
    assert np.array_equal(np.concatenate(blocks), signal.astype(np.float32))
    assert len(list(spool.blocks())) == len(blocks)  # as often as anybody likes


def test_a_spool_begins_empty_where_a_file_was(tmp_path):
    (tmp_path / "signal.f32").write_bytes(b"left behind.")
    spool = Spool(tmp_path / "signal.f32", 1)
    spool.append(np.ones((2, 1)))
    assert (tmp_path / "signal.f32").stat().st_size == 8


def test_a_spooled_recording_is_written_as_one_that_lies_in_memory(tmp_path, small_blocks):
    signal = default_rng(0).standard_normal((50, 2))
    fields = {
        "id": "r",
        "entity": "r",
        "system": "eeg",
        "source": "r.edf",
        "rate_hz": 8.0,
        "events": np.array([[1, 9]]),
    }
    for name, samples in (("memory", signal), ("spool", spooled(tmp_path / "signal.f32", signal))):
        others = [patient("a", 13), RawRecording(signal=samples, **fields), patient("b", 9)]
        write_store(tmp_path / f"{name}.h5", others)
    assert (tmp_path / "memory.h5").read_bytes() == (tmp_path / "spool.h5").read_bytes()
    store = Store(tmp_path / "spool.h5")
    assert np.array_equal(store.signal(store.recordings[1], 0, 50), signal.astype(np.float32))


def test_a_spool_with_another_number_of_channels_is_refused(tmp_path):
    wide = RawRecording(
        signal=spooled(tmp_path / "s.f32", np.ones((40, 3))),
        id="r",
        entity="r",
        system="eeg",
        source="r.edf",
        rate_hz=8.0,
    )
    with pytest.raises(DataError, match=r"r\.edf has 3 channels, the other recordings of system eeg have 2"):
        write_store(tmp_path / "made.h5", [patient("a", 13), wide])
    assert not (tmp_path / "made.h5").exists()


def test_a_spool_that_holds_what_is_no_number_is_refused_by_name(tmp_path, small_blocks):
    signal = np.ones((40, 2))
    signal[[33, 38], 1] = np.nan
    broken = RawRecording(
        signal=spooled(tmp_path / "s.f32", signal), id="r", entity="r", system="eeg", source="r.edf", rate_hz=8.0
    )
    with pytest.raises(
        DataError, match=r"r\.edf has 2 samples that are not finite numbers, the first at sample 33 of channel 1;"
    ):
        write_store(tmp_path / "made.h5", [broken])


def test_the_blocks_of_a_recording_are_its_samples(written, small_blocks):
    store = written(patient("a", 50), patient("b", 9))
    recording = store.recordings[0]
    whole = store.signal(recording, 0, 50)
    assert np.array_equal(np.concatenate(list(store.blocks(recording))), whole)
    assert np.array_equal(np.concatenate(list(store.blocks(recording, 5, 23))), whole[5:23])
    assert max(map(len, store.blocks(recording))) == module.BLOCK == 7


def test_a_sample_that_is_no_number_is_named_by_its_place_in_the_record(written, small_blocks, tmp_path):
    written(patient("a", 9), patient("b", 50))
    with h5py.File(tmp_path / "made.h5", "r+") as file:
        file["systems/eeg/signal"][[9 + 20, 9 + 41], 1] = np.nan
    store = Store(tmp_path / "made.h5")
    with pytest.raises(
        DataError, match=r"recording b \(from b\.raw\) has 2 samples .* the first at sample 20 of channel 1"
    ):
        check_samples(store, store.recordings)


@pytest.mark.parametrize("kind", [Normalisation.recording, Normalisation.train], ids=lambda kind: kind.name)
def test_mean_and_scale_are_the_same_however_a_record_is_read(written, monkeypatch, kind):
    store = written(patient("a", 50), patient("b", 9), patient("c", 30))
    train = [Segment(0, 0, 50), Segment(2, 4, 30)]
    whole = scaling_of(kind, store, store.recordings, train, 2)
    monkeypatch.setattr("vibench.data.store.BLOCK", 7)
    assert scaling_of(kind, store, store.recordings, train, 2) == pytest.approx(whole, rel=1e-6)
    pool = np.concatenate([store.signal(store.recordings[s.recording], s.start, s.stop) for s in train])
    if kind is Normalisation.recording:
        pool = store.signal(store.recordings[0], 0, 50)
    assert whole[0] == pytest.approx(np.stack([pool.mean(0), pool.std(0)]), rel=1e-5)
