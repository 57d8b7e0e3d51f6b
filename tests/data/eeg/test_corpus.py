"""Simulated EEG shows what the literature says of real one, and a corpus of it is always the same files."""

import csv
import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.signal import welch

from vibench.data.eeg import artefacts, waves
from vibench.data.eeg import corpus as module
from vibench.data.eeg.annotations import seizures_of
from vibench.data.eeg.corpus import APART_S, MARGIN_S, how_many, labels, placed, write_corpus
from vibench.data.eeg.edf import open_edf
from vibench.data.eeg.scalp import CHANNELS, OPPOSITE, PLACES, distances, place
from vibench.data.eeg.simulated import PER_MINUTE, Patient, Seizure, simulate
from vibench.errors import DataError

edfio = pytest.importorskip("edfio")

RATE = 256
SEEDS = range(6)
FOCI = pytest.mark.parametrize("focus", ["T7", "F4", "P3"])
ARGUMENTS = {
    "seed": 0,
    "patients": 3,
    "records_per_patient": 2,
    "record_s": 60,
    "seizures_per_hour": 60,
    "rate_hz": 128,
}


def quiet(**values):
    """A patient without artefacts."""
    patient = Patient.draw(default_rng(1), generalised=True)
    return replace(patient, **{"per_minute": dict.fromkeys(PER_MINUTE, 0.0), "hum_uv": 0.0} | values)


def spectrum(wave, seconds=4):
    """Frequencies, and power density (C, frequencies)."""
    return welch(wave, RATE, nperseg=int(seconds * RATE), axis=-1)


def band_power(wave, low_hz, high_hz):
    frequency, power = spectrum(wave, min(4, wave.shape[-1] / RATE))
    return power[:, (frequency >= low_hz) & (frequency < high_hz)].sum(1)


def at(name):
    return CHANNELS.index(name)


def strongest_hz(wave):
    """Of one channel, between bins of a second."""
    power = np.abs(np.fft.rfft((wave - wave.mean()) * np.hanning(len(wave)), 16 * RATE))
    return np.argmax(power) / 16


# The scalp


def test_electrodes_lie_where_the_10_20_system_has_them():
    assert np.allclose(np.linalg.norm(PLACES, axis=1), 1)
    for name, other in OPPOSITE.items():
        assert np.allclose(place(name) * [-1, 1, 1], place(other), atol=1e-9)
    assert place("Fp1")[1] > place("F3")[1] > place("C3")[1] > place("P3")[1] > place("O1")[1]
    assert place("T7")[0] < place("C3")[0] < place("Cz")[0] == 0 < place("C4")[0]
    assert np.argsort(distances(place("Cz")))[0] == at("Cz")


# The brain


@pytest.mark.parametrize("exponent", [1.2, 1.8])
def test_the_background_falls_with_one_over_f(exponent):
    wave = waves.background(default_rng(0), 240 * RATE, RATE, exponent)
    frequency, power = spectrum(wave)
    fitted = (frequency > 2) & (frequency < 60)
    slope = np.polyfit(np.log(frequency[fitted]), np.log(power[:, fitted].mean(0)), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.08)
    assert wave.std() == pytest.approx(1, abs=0.15)


def test_neighbours_see_the_same_background_and_far_electrodes_another():
    seen = np.corrcoef(waves.background(default_rng(0), 240 * RATE, RATE, 1.5))
    assert seen[at("F3"), at("C3")] > 0.4
    assert abs(seen[at("Fp1"), at("O2")]) < 0.15


@pytest.mark.parametrize("alpha_hz", [8.5, 11.0])
def test_alpha_peaks_at_the_back_and_comes_and_goes(alpha_hz):
    patient = quiet(alpha_hz=alpha_hz, alpha_uv=25.0)
    samples = simulate(default_rng(2), duration_s=120, rate_hz=RATE, seizures=[], patient=patient).T
    frequency, power = spectrum(samples)
    near = (frequency > 6) & (frequency < 14)
    assert frequency[near][np.argmax(power[at("O1"), near])] == pytest.approx(alpha_hz, abs=0.5)
    alpha = band_power(samples, alpha_hz - 1, alpha_hz + 1)
    assert min(alpha[at("O1")], alpha[at("O2")]) > 5 * max(alpha[at("Fp1")], alpha[at("Fp2")])
    shown = waves.alpha(default_rng(2), 120 * RATE, RATE, alpha_hz)[at("O1")].reshape(-1, 4 * RATE).std(1)
    assert shown.min() < 0.3 * shown.max()


@pytest.mark.parametrize("seed", SEEDS)
def test_generalised_seizures_are_three_a_second_with_harmonics(seed):
    wave = waves.generalised(default_rng(seed), 40 * RATE, RATE)[at("Fz")]
    first, last = wave[2 * RATE : 10 * RATE], wave[-10 * RATE : -2 * RATE]
    assert 2.9 < strongest_hz(first) < 3.6
    assert strongest_hz(last) < strongest_hz(first)
    frequency, power = spectrum(first[None])
    around = {k: power[0, np.abs(frequency - k * strongest_hz(first)) < 0.5].max() for k in (1, 1.5, 2, 2.5, 3)}
    assert min(around[1], around[2], around[3]) > 5 * max(around[1.5], around[2.5])


def test_generalised_seizures_are_everywhere_at_once_and_largest_in_front():
    wave = waves.generalised(default_rng(0), 20 * RATE, RATE)
    size = wave.std(1)
    assert CHANNELS[np.argmax(size)] == "Fz"
    assert 0.2 < size.min() / size.max() < 0.5
    assert np.corrcoef(wave[:, 4 * RATE :]).min() > 0.3
    begun = np.argmax(np.abs(wave) > 0.25 * np.abs(wave).max(1, keepdims=True), axis=1) / RATE
    assert np.ptp(begun) < 0.5


@FOCI
@pytest.mark.parametrize("seed", SEEDS)
def test_focal_seizures_grow_and_slow_down(focus, seed):
    wave = waves.focal(default_rng(seed), 60 * RATE, RATE, focus)[at(focus)]
    first, middle, last = wave[RATE : 7 * RATE], wave[25 * RATE : 31 * RATE], wave[-9 * RATE : -3 * RATE]
    assert 5 < strongest_hz(first) < 9
    assert strongest_hz(first) > 1.3 * strongest_hz(middle) > 1.6 * strongest_hz(last)
    assert strongest_hz(last) < 3.2
    assert first.std() < 0.5 * middle.std()


@FOCI
@pytest.mark.parametrize("seed", SEEDS)
def test_focal_seizures_spread_from_their_focus_to_the_other_side(focus, seed):
    wave = waves.focal(default_rng(seed), 60 * RATE, RATE, focus)
    seconds = np.abs(wave).reshape(len(CHANNELS), 60, RATE).max(2)
    reached_s = {
        name: int(np.argmax(row > 0.4)) for name, row in zip(CHANNELS, seconds, strict=True) if row.max() > 0.4
    }
    near = CHANNELS[np.argsort(distances(place(focus)))[1]]
    assert reached_s[focus] < reached_s[near] < reached_s[OPPOSITE[focus]]
    assert 15 < reached_s[OPPOSITE[focus]] < 50
    assert seconds[:, 1].argmax() == at(focus)


def test_some_focal_seizures_end_at_once_and_some_fade():
    last = [np.abs(waves.focal(default_rng(s), 20 * RATE, RATE, "T7")[at("T7"), -RATE:]).max() for s in range(12)]
    assert min(last) < 0.3
    assert max(last) > 0.7


def test_a_focal_seizure_leaves_the_brain_calm_for_a_while():
    patient = quiet(focus="T7", alpha_uv=0.0)
    seizure = Seizure(onset_s=20, duration_s=20)
    samples = simulate(default_rng(0), duration_s=120, rate_hz=RATE, seizures=[seizure], patient=patient)
    after, later = samples[41 * RATE : 46 * RATE], samples[80 * RATE :]
    assert after.std() < 0.8 * later.std()


# What must not be called a seizure


def sized(make, seed, *arguments):
    wave = make(default_rng(seed), RATE, *arguments)
    return wave, np.abs(wave).max(1)


@pytest.mark.parametrize("make", [artefacts.blink, artefacts.flutter], ids=["blink", "flutter"])
@pytest.mark.parametrize("seed", SEEDS)
def test_eyes_are_seen_in_front_only(make, seed):
    _, size = sized(make, seed)
    assert {CHANNELS[i] for i in np.argsort(size)[-2:]} == {"Fp1", "Fp2"}
    assert size[at("O1")] < 0.05 * size[at("Fp1")]
    assert 30 < size.max() < 200


def test_eyelids_flutter_as_fast_as_spike_and_wave():
    flutters = [artefacts.flutter(default_rng(seed), RATE)[0] for seed in range(12)]
    assert all(2 < strongest_hz(wave) < 4.7 for wave in flutters)


@pytest.mark.parametrize("make", [artefacts.muscle, artefacts.chewing], ids=["muscle", "chewing"])
@pytest.mark.parametrize("seed", SEEDS)
def test_muscle_is_fast_and_far_from_the_vertex(make, seed):
    wave, size = sized(make, seed)
    assert band_power(wave, 18, 128).sum() > 0.9 * band_power(wave, 1, 128).sum()
    assert band_power(wave, 60, 128).sum() > 0.1 * band_power(wave, 1, 128).sum()
    assert size[at("Cz")] < 0.5 * size.max()
    assert CHANNELS[size.argmax()] in ("T7", "T8", "F7", "F8")


@pytest.mark.parametrize("make", [artefacts.pop, artefacts.wobble], ids=["pop", "wobble"])
def test_a_loose_electrode_is_alone(make):
    sizes = [sized(make, seed)[1] for seed in range(12)]
    assert all((size > 0).sum() == 1 for size in sizes)
    assert len({int(size.argmax()) for size in sizes}) > 4


@pytest.mark.parametrize("seed", SEEDS)
def test_movement_is_slow_and_wide(seed):
    wave, size = sized(artefacts.sway, seed)
    assert band_power(wave, 0, 2).sum() > 0.8 * band_power(wave, 0, 128).sum()
    assert (size > 0.1 * size.max()).sum() > 8


@pytest.mark.parametrize("seed", SEEDS)
def test_benign_rhythms_keep_their_frequency_and_their_place(seed):
    alpha, size = sized(waves.alpha_burst, seed, 10.0)
    assert CHANNELS[size.argmax()] in ("O1", "O2", "Pz")
    halves = np.array_split(alpha[size.argmax()], 2)
    assert [strongest_hz(half) for half in halves] == pytest.approx([10, 10], abs=0.6)
    theta, size = sized(waves.drowsy_theta, seed)
    assert CHANNELS[size.argmax()] in ("T7", "T8")
    assert 4.5 < strongest_hz(theta[size.argmax()]) < 7.5


@pytest.mark.parametrize("focus", [None, "T8"])
def test_discharges_are_those_of_seizures_but_shorter(focus):
    told = [waves.discharge(default_rng(seed), RATE, focus) for seed in range(12)]
    assert max(wave.shape[1] for wave in told) < 2.8 * RATE < 3 * RATE
    assert {CHANNELS[np.abs(wave).max(1).argmax()] for wave in told} == {focus or "Fz"}


@pytest.mark.parametrize("mains_hz", [50.0, 60.0])
def test_the_mains_hum(mains_hz):
    patient = quiet(mains_hz=mains_hz, hum_uv=2.0)
    frequency, power = spectrum(simulate(default_rng(0), duration_s=30, rate_hz=RATE, seizures=[], patient=patient).T)
    fast = frequency > 30
    assert (frequency[fast][power[:, fast].argmax(1)] == mains_hz).mean() > 0.9


def test_patients_differ():
    patients = [Patient.draw(default_rng(seed), generalised=False) for seed in range(20)]
    assert len({patient.focus for patient in patients}) > 5
    for name in ("background_uv", "alpha_hz", "seizure_uv", "activity", "mains_hz"):
        assert len({getattr(patient, name) for patient in patients}) > 1
    assert len({tuple(patient.per_minute.values()) for patient in patients}) == 20


@pytest.mark.parametrize("generalised", [True, False])
def test_a_record_with_everything_in_it_fits_sixteen_bits(generalised):
    patient = Patient.draw(default_rng(0), generalised=generalised)
    patient = replace(patient, per_minute={name: high for name, (_, high) in PER_MINUTE.items()})
    seizures = [Seizure(onset_s=20, duration_s=60)]
    samples = simulate(default_rng(0), duration_s=120, rate_hz=RATE, seizures=seizures, patient=patient)
    assert (samples.shape, samples.dtype) == ((120 * RATE, 19), np.float32)
    assert np.isfinite(samples).all()
    assert 100 < np.abs(samples).max() < 3000  # a tenth of a microvolt is a bit then


# Where the seizures are


def test_every_third_record_has_no_seizure_and_the_first_has_one():
    counts = [how_many(record, 0.1) for record in range(300)]
    assert counts[0] == 1
    assert not any(counts[1::3])
    assert sum(counts) == 30


def test_more_seizures_an_hour_are_more_seizures():
    assert [sum(how_many(record, mean) for record in range(30)) for mean in (0, 0.5, 2)] == [0, 15, 60]


@pytest.mark.parametrize(("record_s", "wanted", "found"), [(300, 2, 2), (300, 9, 3), (3600, 12, 12), (36, 1, 1)])
def test_seizures_are_apart_from_each_other_and_from_the_edges(record_s, wanted, found):
    for seed in range(50):
        seizures = placed(default_rng(seed), wanted, record_s)
        assert len(seizures) == found
        assert all(15 <= seizure.duration_s <= 90 for seizure in seizures)
        spans = [
            0 - APART_S + MARGIN_S,
            *(x for s in seizures for x in (s.onset_s, s.end_s)),
            record_s + APART_S - MARGIN_S,
        ]
        assert min(np.diff(spans)[::2]) > APART_S - 0.03  # hundredths are rounded


# The files


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "corpus"
    write_corpus(folder, **ARGUMENTS)
    return folder


def digests(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


def records(corpus):
    return sorted(corpus.rglob("*.edf"))


def test_the_folders_are_those_of_bids(corpus):
    names = {str(path.relative_to(corpus)) for path in corpus.rglob("*.*")}
    stems = {f"sub-0{p}/eeg/sub-0{p}_task-szMonitoring_run-0{r}" for p in (1, 2, 3) for r in (1, 2)}
    assert names == {f"{stem}_{end}" for stem in stems for end in ("eeg.edf", "events.tsv")}
    assert os.listdir(corpus.parent) == ["corpus"]


def test_the_same_arguments_write_the_same_bytes(corpus, tmp_path):
    write_corpus(tmp_path / "again", **ARGUMENTS)
    assert digests(tmp_path / "again") == digests(corpus)


def test_another_seed_writes_other_patients(corpus, tmp_path):
    write_corpus(tmp_path / "other", **ARGUMENTS | {"seed": 4, "patients": 1})
    other, these = digests(tmp_path / "other"), digests(corpus)
    assert not set(other) & set(these)  # by their names it is known whom a model has seen
    assert not {content for name, content in other.items() if name.endswith(".edf")} & set(these.values())


def test_more_patients_and_records_do_not_change_those_there_are(corpus, tmp_path):
    write_corpus(tmp_path / "fewer", **ARGUMENTS | {"patients": 2, "records_per_patient": 1})
    assert digests(tmp_path / "fewer").items() <= digests(corpus).items()


def test_no_two_records_share_their_random_numbers(corpus):
    samples = [edfio.read_edf(path).signals[8].data for path in records(corpus)]
    seen = np.corrcoef(samples) - np.eye(len(samples))
    assert np.abs(seen).max() < 0.2


def test_others_can_read_the_files_and_their_annotations(corpus):
    for path in records(corpus):
        file = edfio.read_edf(path)
        with path.with_name(path.name.replace("_eeg.edf", "_events.tsv")).open() as table:
            rows = [row for row in csv.DictReader(table, delimiter="\t") if row["eventType"] != "bckg"]
        assert [(a.onset, a.duration, a.text) for a in file.annotations] == [
            (float(row["onset"]), float(row["duration"]), "seizure") for row in rows
        ]
        assert [signal.sampling_frequency for signal in file.signals] == [128] * 20
        assert (file.num_signals, file.duration, file.patient.code) == (20, 60, path.name[:6])
        assert len(rows) == int("run-01" in path.name)


def test_every_clinic_has_its_own_names_and_all_are_understood(corpus):
    first = [path for path in records(corpus) if "run-01" in path.name]
    assert [edfio.read_edf(path).labels for path in first] == [tuple(labels(number)) for number in range(3)]
    assert [labels(number)[6] for number in range(3)] == ["T7", "EEG T3-REF", "EEG T3-LE"]
    for path in first:
        recording = open_edf(path, CHANNELS, [])
        assert recording.microvolts(0, 7680).shape == (7680, 19)
        assert len(seizures_of(recording).events) == 1


def test_the_type_of_a_seizure_is_told(corpus):
    for patient, kind in (("sub-01", "sz_foc"), ("sub-02", "sz_gen_nm")):
        (table,) = corpus.rglob(f"{patient}*run-01_events.tsv")
        assert kind in table.read_text()


def test_samples_are_not_clipped(corpus):
    for path in records(corpus):
        for signal in edfio.read_edf(path).signals:
            assert signal.digital.min() > -32768
            assert signal.digital.max() < 32767
            assert np.ptp(signal.physical_range) / 65535 < 0.2  # microvolts of a bit


def test_a_folder_that_exists_is_not_written_over(corpus):
    with pytest.raises(DataError, match="corpus exists already; delete it, or name a new folder"):
        write_corpus(corpus, **ARGUMENTS)


def test_a_corpus_that_fails_leaves_nothing(monkeypatch, tmp_path):
    def full(path, *_, **__):
        raise DataError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(module, "write_events", full)
    with pytest.raises(DataError, match="No space left"):
        write_corpus(tmp_path / "corpus", **ARGUMENTS)
    assert not list(tmp_path.iterdir())


def test_of_two_who_write_the_same_the_first_wins(monkeypatch, tmp_path):
    write = module.write_events

    def while_another_finishes(*arguments, **values):
        (tmp_path / "corpus" / "sub-01").mkdir(parents=True, exist_ok=True)
        write(*arguments, **values)

    monkeypatch.setattr(module, "write_events", while_another_finishes)
    write_corpus(tmp_path / "corpus", **ARGUMENTS | {"patients": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_record_too_short_for_a_seizure_is_refused(tmp_path):
    with pytest.raises(DataError, match="record_s=30 is too short for a seizure; use 35 or more"):
        write_corpus(tmp_path / "corpus", **ARGUMENTS | {"record_s": 30})
    write_corpus(tmp_path / "corpus", **ARGUMENTS | {"record_s": 30, "seizures_per_hour": 0, "patients": 1})
    assert len(records(tmp_path / "corpus")) == 2
