"""Windows are the recording's own samples, normalised as asked, with labels or without: against slow loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data.conftest import raw, walk
from vibench.config.data import Normalisation
from vibench.data.build import build
from vibench.data.store import Store
from vibench.data.synthetic import demo_store
from vibench.data.windows import safe_scale, window_starts
from vibench.errors import DataError

WINDOW, HORIZON = 32, 32
KINDS = pytest.mark.parametrize("kind", list(Normalisation), ids=lambda kind: kind.name)


def mixed():
    """Two systems of 2 and 3 channels, ten bearings, recordings of several lengths, some without labels."""
    for number in range(10):
        name = f"b{number}"
        system, channels = (("two", 2), ("three", 3))[number % 2]
        for part, samples in enumerate((150, 201)):
            yield raw(
                f"{name}-{part}",
                name,
                signal=walk(f"{name}-{part}", samples, channels),
                system=system,
                rate_hz=100.0 * channels,
                anomaly=None if number in (2, 3) else number > 4,
                rul_s=None if part else 100.0 + number,
                columns={"fault": "" if number in (2, 3) else ("healthy" if number <= 4 else "inner")},
            )


@pytest.fixture
def mixed_data(built, all_targets):
    """Build the mixed recordings, with all four tasks unless told otherwise."""
    return lambda wanted=all_targets, **values: built(mixed(), wanted, stride=20, **values)


def every(split):
    return split.__getitems__(list(range(len(split))))


def statistics(kind, data, recording, window):
    """Mean and deviation per channel, by loops over the samples they are to be taken from."""
    store, train = data.splits["train"].store, data.splits["train"]
    if kind is Normalisation.none:
        return 0.0, 1.0
    if kind is Normalisation.train:
        used = {i: train.recordings[i] for i in train.places[:, 0].tolist()}
        pool = [store.signal(r, 0, r.length) for r in used.values() if r.system == recording.system]
    elif kind is Normalisation.recording:
        pool = [store.signal(recording, 0, recording.length)]
    else:
        pool = [window]
    samples = np.concatenate(pool).astype(np.float64)
    return samples.mean(0), samples.std(0)


@KINDS
def test_every_sample_of_every_window_is_the_recordings_own(mixed_data, kind):
    data = mixed_data(normalisation=kind)
    for split in data.splits.values():
        batch = every(split)
        for row, (number, start) in enumerate(split.places.tolist()):
            recording = split.recordings[number]
            span = split.store.signal(recording, start, start + WINDOW + HORIZON).astype(np.float64)
            mean, deviation = statistics(kind, data, recording, span[:WINDOW])
            expected = ((span - mean) / deviation).T
            c = expected.shape[0]
            assert batch.signal[row, :c].numpy() == pytest.approx(expected[:, :WINDOW], abs=2e-5)
            forecast = batch.targets["signal_prediction"][row, :c].numpy()
            assert forecast == pytest.approx(expected[:, WINDOW:], abs=2e-5)  # the next samples, without a gap


@KINDS
def test_the_scale_undoes_the_normalisation(mixed_data, kind):
    split = mixed_data(normalisation=kind).splits["test"]
    batch = every(split)
    restored = batch.signal * batch.scale[..., None]
    for row, (number, start) in enumerate(split.places.tolist()):
        window = split.store.signal(split.recordings[number], start, start + WINDOW).T
        # up to the mean: differences of samples come back in the unit of the recording
        assert np.diff(restored[row, : len(window)].numpy()) == pytest.approx(np.diff(window), abs=1e-3)


def test_channels_a_system_does_not_have_are_zero_and_not_counted(mixed_data):
    data = mixed_data()
    assert data.n_channels == 3
    seen = set()
    for split in data.splits.values():
        batch = every(split)
        for row, number in enumerate(split.places[:, 0].tolist()):
            channels = {"two": 2, "three": 3}[split.recordings[number].system]
            seen.add(channels)
            assert batch.channels[row] == channels
            assert (batch.signal[row, channels:] == 0).all()
            assert (batch.signal[row, :channels] != 0).any(dim=1).all()
            assert batch.present["signal_prediction"][row].tolist() == [c < channels for c in range(3)]
            assert (batch.targets["signal_prediction"][row, channels:] == 0).all()
    assert seen == {2, 3}


def test_rate_system_and_entity_are_those_of_the_recording(mixed_data):
    data = mixed_data()
    entity_of = {}
    for split in data.splits.values():
        batch = every(split)
        for row, number in enumerate(split.places[:, 0].tolist()):
            recording = split.recordings[number]
            assert batch.rate_hz[row] == recording.rate_hz
            assert split.store.systems[batch.system[row]] == recording.system
            entity_of.setdefault(int(batch.entity[row]), set()).add(recording.entity)
    assert len(entity_of) == 10  # a number for each
    assert all(len(names) == 1 for names in entity_of.values())


def test_a_missing_label_is_not_present(mixed_data):
    missing = 0
    for split in mixed_data().splits.values():
        batch = every(split)
        for row, number in enumerate(split.places[:, 0].tolist()):
            recording = split.recordings[number]
            for task, there in [
                ("classification", recording.columns["fault"] != ""),
                ("anomaly_detection", recording.anomaly is not None),
                ("rul_prediction", recording.rul_s is not None),
            ]:
                assert bool(batch.present[task][row]) is there
                missing += not there
    assert missing > 10


def test_labels_are_the_recordings_own_with_healthy_as_class_0(mixed_data):
    data = mixed_data()
    assert data.classes == ["healthy", "inner"]
    for split in data.splits.values():
        batch = every(split)
        for row, number in enumerate(split.places[:, 0].tolist()):
            recording = split.recordings[number]
            if recording.columns["fault"]:
                assert data.classes[batch.targets["classification"][row]] == recording.columns["fault"]
                assert bool(batch.targets["anomaly_detection"][row]) == recording.anomaly


def test_the_remaining_life_is_that_at_the_end_of_the_window(mixed_data, shipped):
    cap = shipped.task["rul_prediction"].max_rul_s
    split = mixed_data().splits["train"]
    batch = every(split)
    for row, (number, start) in enumerate(split.places.tolist()):
        recording = split.recordings[number]
        if recording.rul_s is not None:
            left = recording.rul_s - (start + WINDOW) / recording.rate_hz
            assert batch.targets["rul_prediction"][row] == pytest.approx(left / cap)


def test_shapes_and_types_are_those_of_the_contract(mixed_data):
    batch = every(mixed_data().splits["test"])
    b = len(batch)
    assert (batch.signal.shape, batch.signal.dtype) == ((b, 3, WINDOW), torch.float32)
    assert (batch.channels.dtype, batch.system.dtype, batch.entity.dtype) == (torch.int64,) * 3
    assert (batch.rate_hz.dtype, batch.scale.shape) == (torch.float32, (b, 3))
    assert batch.targets["signal_prediction"].shape == (b, 3, HORIZON)
    assert batch.targets["classification"].dtype == torch.int64
    assert {task: p.shape for task, p in batch.present.items()} == {
        "classification": (b,),
        "anomaly_detection": (b,),
        "rul_prediction": (b,),
        "signal_prediction": (b, 3),
    }


def test_window_starts_are_those_of_a_slow_loop():
    for start, stop, span, stride in [(0, 100, 10, 10), (0, 100, 30, 7), (5, 35, 30, 4), (5, 34, 30, 4), (3, 3, 1, 1)]:
        slow = [s for s in range(start, stop) if (s - start) % stride == 0 and s + span <= stop]
        assert list(window_starts(start, stop, span, stride)) == slow


# normalisation


def changed_at(entity):
    """The mixed recordings, one bearing's of them times a hundred."""
    for recording in mixed():
        yield replace(recording, signal=recording.signal * 100) if recording.entity == entity else recording


def test_training_statistics_are_of_training_samples_only(built):
    split = {"train": [f"b{i}" for i in range(6)], "val": ["b6", "b7"], "test": ["b8", "b9"]}
    values = {"split": split, "normalisation": Normalisation.train}
    before = every(built(mixed(), **values).splits["train"]).signal
    for entity in ("b6", "b9"):
        assert torch.equal(every(built(changed_at(entity), **values).splits["train"]).signal, before)
    assert not torch.equal(every(built(changed_at("b0"), **values).splits["train"]).signal, before)


def test_training_statistics_of_a_split_in_time_stop_where_the_training_stops(built):
    signal = walk("cut", 1000)
    values = {"split": {"by": "time"}, "allow_leaky": True, "normalisation": Normalisation.train}
    before = built([raw("cut", signal=signal)], **values).splits["train"]
    signal[600:] = 777  # 60 % are trained on
    after = built([raw("cut", signal=signal)], **values).splits["train"]
    assert torch.equal(every(before).signal, every(after).signal)


def test_a_system_without_training_windows_cannot_take_their_statistics(built):
    values = {"split": {"train": ["b0", "b2"], "test": ["b1"]}, "normalisation": Normalisation.train}
    with pytest.raises(DataError, match=r"data\.normalisation=train has no training window of system three; use"):
        built(mixed(), **values)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@KINDS
@pytest.mark.parametrize("level", [0.0, 0.1, 9.81, 12345.678])
def test_a_channel_that_does_not_move_is_neither_nan_nor_blown_up(built, kind, level):
    recordings = []
    for name in "abcde":
        signal = walk(name, 3000, 2)
        signal[:, 1] = level
        recordings.append(raw(name, signal=signal))
    for split in built(recordings, window=1024, stride=1024, normalisation=kind).splits.values():
        batch = every(split)
        assert batch.signal.isfinite().all()
        assert (batch.scale > 0).all()
        if kind is not Normalisation.none:  # its mean is its only value: what is left is the rounding of float32
            assert batch.signal[:, 1].abs().max() <= max(1e-3, 1e-6 * level)
            assert (batch.scale[:, 1] == 1).all()


@pytest.mark.parametrize(
    "kind", [Normalisation.window, Normalisation.recording, Normalisation.train], ids=lambda k: k.name
)
def test_a_small_movement_about_a_large_offset_keeps_its_shape(built, kind):
    recordings = [raw(name, signal=1000 + 0.1 * walk(name, 3000, 2)) for name in "abcde"]
    data = built(recordings, window=1024, stride=1024, normalisation=kind)
    split = data.splits["train"]
    batch = every(split)
    for row, (number, start) in enumerate(split.places.tolist()):
        window = split.store.signal(split.recordings[number], start, start + 1024).astype(np.float64)
        mean, deviation = statistics(kind, data, split.recordings[number], window)
        # float32 keeps 1000 to 6e-5, which is 1e-3 of the deviation here
        assert batch.signal[row].numpy() == pytest.approx(((window - mean) / deviation).T, abs=5e-3)


def test_what_does_not_move_is_divided_by_one():
    assert safe_scale(np.zeros(4), np.array([0.0, 2.0, np.nan, 1e-13])).tolist() == [1, 2, 1, 1]


# order and batches


def test_a_batch_is_its_windows_one_by_one(mixed_data):
    split = mixed_data().splits["train"]
    indices = [5, 0, len(split) - 1, 5]
    batch = split.__getitems__(indices)
    for row, index in enumerate(indices):
        assert_equal(batch.part(row, row + 1), split[index])


def assert_equal(first, second):
    for name in ("signal", "channels", "rate_hz", "system", "entity", "scale"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for task in first.targets:
        assert torch.equal(first.targets[task], second.targets[task]), task
        assert torch.equal(first.present[task], second.present[task]), task


def assert_same_batches(first, second):
    first, second = list(first), list(second)
    assert [len(batch) for batch in first] == [len(batch) for batch in second]
    for one, other in zip(first, second, strict=True):
        assert_equal(one, other)


def test_without_a_seed_the_windows_come_in_order_and_the_last_batch_is_kept(mixed_data):
    data = mixed_data()
    batches = list(data.loader("train", 7))
    split = data.splits["train"]
    assert [len(batch) for batch in batches] == [7] * (len(split) // 7) + ([len(split) % 7] if len(split) % 7 else [])
    assert torch.equal(torch.cat([batch.signal for batch in batches]), every(split).signal)


def test_the_order_of_shuffled_windows_follows_from_the_seed_alone(mixed_data):
    data = mixed_data()
    first = list(data.loader("train", 7, seed=3))
    torch.manual_seed(99)  # which is nobody's seed here
    torch.rand(5)
    assert_same_batches(first, data.loader("train", 7, seed=3))
    other = torch.cat([batch.signal for batch in data.loader("train", 7, seed=4)])
    assert not torch.equal(other, torch.cat([batch.signal for batch in first]))


def test_shuffling_shows_every_window_once_and_each_epoch_in_another_order(mixed_data):
    data = mixed_data()
    loader, whole = data.loader("train", 7, seed=3), every(data.splits["train"]).signal
    epochs = [torch.cat([batch.signal for batch in loader]) for _ in range(2)]
    assert not torch.equal(*epochs)
    for epoch in epochs:
        assert sorted(map(bytes, epoch.numpy())) == sorted(map(bytes, whole.numpy()))


@pytest.mark.parametrize("seed", [None, 3])
def test_worker_processes_read_the_same_batches(built, seed):
    alone = built(mixed())
    helped = built(mixed(), workers=2)
    assert helped.workers == 2
    assert_same_batches(alone.loader("train", 7, seed=seed), helped.loader("train", 7, seed=seed))


def test_building_twice_gives_the_same_splits(mixed_data):
    first, second = mixed_data(), mixed_data()
    for name, split in first.splits.items():
        assert np.array_equal(split.places, second.splits[name].places)
    assert first.certificate == second.certificate


def test_windows_of_the_simulated_store_are_its_samples(tiny):
    config = replace(tiny().data, normalisation=Normalisation.none)
    data = build(config, {})
    store = Store(demo_store(config))
    split = data.splits["test"]
    by_id = {r.id: r for r in store.recordings}
    batch = every(split)
    for row, (number, start) in enumerate(split.places.tolist()):
        samples = store.signal(by_id[split.recordings[number].id], start, start + 256)
        assert np.array_equal(batch.signal[row, : samples.shape[1]].numpy(), samples.T)
