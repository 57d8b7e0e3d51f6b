"""The simulated machines show what the literature says of real ones, and a store of them is always the same bytes."""

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.random import default_rng

from vibench.data.build import build
from vibench.data.store import Store
from vibench.data.synthetic import (
    FAULTS,
    MOTOR,
    PATH,
    RIG,
    SLIP,
    Specimen,
    damage_over_life,
    demo_store,
    impulse_times,
    impulses,
    load_zone,
    recordings,
    simulate,
)
from vibench.data.writing import write_store
from vibench.errors import DataError

MACHINES = pytest.mark.parametrize("machine", [MOTOR, RIG], ids=lambda machine: machine.name)
DAMAGED = pytest.mark.parametrize("fault", FAULTS[1:])
SECONDS, SEEDS = 4, range(4)
WITHIN = 0.012  # of an order: the speed of a recording varies by 0.002 and the slip by SLIP a strike


def order_of(machine, fault):
    """Strikes per turn of the shaft, from the geometry."""
    bearing = machine.bearing
    return {"outer": bearing.bpfo, "inner": bearing.bpfi, "ball": 2 * bearing.bsf}[fault]


def envelope_spectrum(signal, rate_hz, centre_hz, half_width_hz=800):
    """Frequencies and amplitudes of the envelope of a band: zero outside it, analytic signal, magnitude, FFT."""
    spectrum = np.fft.fft(signal)
    frequency = np.fft.fftfreq(len(signal), 1 / rate_hz)
    spectrum[np.abs(frequency - centre_hz) > half_width_hz] = 0  # the negative frequencies too: analytic
    envelope = np.abs(2 * np.fft.ifft(spectrum))
    window = np.hanning(len(signal))
    return np.fft.rfftfreq(len(signal), 1 / rate_hz), np.abs(np.fft.rfft((envelope - envelope.mean()) * window))


@pytest.fixture(scope="module")
def spectrum_of():
    """(orders of the shaft, amplitudes over their median), mean over specimens; computed once per machine and fault."""
    done = {}

    def call(machine, fault, channel=0):
        if (machine.name, fault, channel) not in done:
            condition, total = machine.conditions[0], 0
            for seed in SEEDS:
                rng = default_rng(seed)
                specimen = Specimen.draw(rng)
                signal = simulate(machine, specimen, fault, 1.5, condition, SECONDS, rng)[:, channel]
                centre = machine.resonances_hz[channel] * specimen.tuning * PATH.get(fault, 1.0)
                frequency, amplitude = envelope_spectrum(signal.astype(float), machine.rate_hz, centre)
                total = total + amplitude / len(SEEDS)
            orders = frequency / (condition[0] / 60)
            shown = (orders > 2.5) & (orders < 1.4 * machine.bearing.bpfi)  # above the lines of shaft and cage
            done[machine.name, fault, channel] = orders[shown], total[shown] / np.median(total[shown])
        return done[machine.name, fault, channel]

    return call


def line(spectrum, order):
    """Highest amplitude near an order, in units of the median."""
    orders, amplitude = spectrum
    return amplitude[np.abs(orders / order - 1) < WITHIN].max()


@MACHINES
@DAMAGED
def test_the_envelope_peaks_at_the_frequency_of_the_fault(machine, fault, spectrum_of):
    orders, amplitude = spectrum_of(machine, fault)
    assert orders[amplitude.argmax()] == pytest.approx(order_of(machine, fault), rel=WITHIN)
    assert amplitude.max() > 20


@MACHINES
@DAMAGED
def test_every_sensor_hears_the_fault(machine, fault, spectrum_of):
    for channel in range(1, len(machine.gains)):
        orders, amplitude = spectrum_of(machine, fault, channel)
        assert orders[amplitude.argmax()] == pytest.approx(order_of(machine, fault), rel=WITHIN)


@MACHINES
def test_a_healthy_bearing_has_no_line_at_any_fault_frequency(machine, spectrum_of):
    spectrum = spectrum_of(machine, "healthy")
    assert max(line(spectrum, order_of(machine, fault)) for fault in FAULTS[1:]) < 4


@MACHINES
def test_only_an_inner_race_fault_has_sidebands_at_the_speed_of_the_shaft(machine, spectrum_of):
    inner, outer = (spectrum_of(machine, fault) for fault in ("inner", "outer"))
    for side in (-1, 1):
        assert line(inner, machine.bearing.bpfi + side) > 8
        assert line(outer, machine.bearing.bpfo + side) < 4


@MACHINES
def test_a_ball_fault_has_sidebands_at_the_speed_of_the_cage(machine, spectrum_of):
    # the strength follows the load zone once per turn of the cage, which is what FTF sidebands show
    spectrum, order, cage = spectrum_of(machine, "ball"), 2 * machine.bearing.bsf, machine.bearing.ftf
    assert line(spectrum, order - cage) > 8
    assert line(spectrum, order + cage) > 8
    assert line(spectrum, order + 1.5 * cage) < 4


@pytest.mark.parametrize(("order", "shaft_hz"), [(3.58, 30.0), (7.39, 25.0), (5.0, 1.0)])
def test_impulses_come_order_times_per_turn_with_the_slip_of_the_field(order, shaft_hz):
    times = impulse_times(order, shaft_hz, 4000 / (order * shaft_hz), default_rng(1))
    intervals = np.diff(times) * order * shaft_hz
    assert len(times) == pytest.approx(4000, rel=0.005)
    assert intervals.mean() == pytest.approx(1, rel=0.002)
    assert intervals.std() == pytest.approx(SLIP, rel=0.1)


def test_slip_adds_up_instead_of_averaging_out():
    # a random walk, not jitter about a fixed grid: after 100 strikes the phase has wandered by 10 slips
    ends = [impulse_times(1, 1, 130, default_rng(seed))[[0, 100]] @ [-1, 1] for seed in range(300)]
    assert np.std(ends) == pytest.approx(10 * SLIP, rel=0.2)


@MACHINES
@DAMAGED
def test_the_strikes_of_a_fault_come_at_its_order(machine, fault):
    times, strengths = impulses(machine, fault, 25.0, 20, default_rng(0))
    assert len(times) / 20 / 25 == pytest.approx(order_of(machine, fault), rel=0.005)
    assert len(strengths) == len(times)
    assert (strengths > 0).all()


def test_an_outer_race_fault_is_struck_equally_hard_and_an_inner_race_fault_is_not():
    outer, inner = (impulses(MOTOR, fault, 30.0, 2, default_rng(0))[1] for fault in ("outer", "inner"))
    assert np.ptp(outer) == 0
    assert inner.min() < 0.2
    assert inner.max() > 0.9


def test_the_load_zone_is_full_at_its_middle_and_nothing_opposite():
    angle = np.linspace(0, np.pi, 50)
    assert load_zone(np.array([0.0, 2 * np.pi]))[0] == 1
    assert load_zone(np.array([np.pi])) == 0
    assert (np.diff(load_zone(angle)) <= 0).all()
    assert load_zone(-angle) == pytest.approx(load_zone(angle))


def test_damage_starts_at_nothing_grows_all_the_way_and_faster_after_the_onset():
    damage = np.array([damage_over_life(t, 0.3) for t in np.linspace(0, 1, 101)])
    assert damage[0] == 0
    assert damage[-1] == pytest.approx(2)
    assert (np.diff(damage) > 0).all()
    assert damage[100] - damage[90] > 5 * (damage[30] - damage[20])


def test_shaft_harmonics_stand_at_the_speed_of_the_machine():
    rng = default_rng(0)
    signal = simulate(MOTOR, Specimen.draw(rng), "healthy", 0, (1800, 0), 4, rng)[:, 0]
    spectrum = np.abs(np.fft.rfft(signal * np.hanning(len(signal))))
    assert np.fft.rfftfreq(len(signal), 1 / MOTOR.rate_hz)[spectrum.argmax()] == pytest.approx(30, rel=0.01)


@pytest.fixture(scope="module")
def demo(tiny):
    """Config of a store with every condition and lives of 12 snapshots."""
    return tiny("data.conditions=6", "data.snapshots_per_life=12").data


@pytest.fixture(scope="module")
def simulated(demo):
    return list(recordings(demo))


@pytest.fixture(scope="module")
def lives(simulated):
    """Entity -> its recordings in order."""
    found = defaultdict(list)
    for recording in simulated:
        if recording.rul_s is not None:
            found[recording.entity].append(recording)
    return found


def kurtosis(signal):
    centred = signal - signal.mean()
    return (centred**4).mean() / (centred**2).mean() ** 2


def test_the_vibration_grows_along_every_life(lives):
    for life in lives.values():
        rms = [np.sqrt((r.signal[:, 0].astype(float) ** 2).mean()) for r in life]
        assert np.mean(rms[-2:]) > 1.1 * np.mean(rms[:2]), life[0].entity


def test_the_vibration_becomes_impulsive_along_every_life(lives):
    for life in lives.values():
        sharpness = [kurtosis(r.signal[:, 0].astype(float)) for r in life]
        assert max(sharpness[4:]) > sharpness[0] + 1, life[0].entity


def test_the_remaining_life_falls_evenly_and_ends_above_zero(lives):
    assert len(lives) == 6
    for life in lives.values():
        rul_s = np.array([r.rul_s for r in life])
        assert np.diff(rul_s) == pytest.approx(-rul_s[0] / 12)
        assert rul_s[-1] == pytest.approx(rul_s[0] / 12)
        assert 5400 <= rul_s[0] <= 10800


def test_lives_have_no_class_and_the_bearings_no_remaining_life(simulated):
    for recording in simulated:
        assert (recording.rul_s is None) == (recording.columns["fault"] != "")
        assert recording.anomaly is (
            None if not recording.columns["fault"] else recording.columns["fault"] != "healthy"
        )


def test_there_are_two_systems_that_differ_in_rate_and_channels(simulated):
    assert {(r.system, r.rate_hz, r.signal.shape[1]) for r in simulated} == {("motor", 12_000, 2), ("rig", 25_600, 3)}
    assert all(len(r.signal) == int(0.1 * r.rate_hz) for r in simulated)


def test_every_system_has_every_class_on_several_bearings_and_every_bearing_runs_at_several_speeds(simulated):
    speeds = defaultdict(set)
    for r in simulated:
        if r.columns["fault"]:
            speeds[r.system, r.columns["fault"], r.entity].add(r.columns["rpm"])
    assert Counter(key[:2] for key in speeds) == {(s, fault): 3 for s in ("motor", "rig") for fault in FAULTS}
    assert {len(rpm) for rpm in speeds.values()} == {6}


def test_every_recording_has_a_name_of_its_own_and_no_two_are_alike(simulated):
    assert len({r.id for r in simulated}) == len({r.signal.tobytes() for r in simulated}) == len(simulated)


def test_bearings_of_one_kind_differ(demo):
    drawn = [Specimen.draw(default_rng(seed)) for seed in range(5)]
    for field in fields(Specimen):
        assert len({getattr(specimen, field.name) for specimen in drawn}) == 5


def test_more_bearings_leave_those_there_were_as_they_were(demo, simulated):
    more = {r.id: r for r in recordings(replace(demo, bearings_per_class=4, lives=7))}
    assert len(more) == len(simulated) + 8 * 6 + 12
    for recording in simulated:
        assert np.array_equal(more[recording.id].signal, recording.signal)
        assert more[recording.id].rul_s == recording.rul_s


def test_another_seed_gives_other_samples_under_other_names(demo, simulated):
    other = list(recordings(replace(demo, machine_seed=1)))
    assert {r.entity for r in other}.isdisjoint(r.entity for r in simulated)  # else a model would not know them again
    assert not any(np.array_equal(a.signal, b.signal) for a, b in zip(other, simulated, strict=True))


# the store in the cache

PROCESS = """
import pathlib, sys
from vibench.config.data import DemoConfig, Normalisation, SplitConfig
from vibench.data.synthetic import demo_store
split = SplitConfig(by="entity", fractions=[0.6, 0.2, 0.2], train=[], val=[], test=[], seed=0)
config = DemoConfig(
    window=256, stride=256, normalisation=Normalisation.none, label="fault", only={}, split=split,
    labels_per_class=None, allow_leaky=False,
    allow_short=False, workers=0, cache_dir=sys.argv[1], machine_seed=0, bearings_per_class=3, conditions=1,
    duration_s=0.1, lives=6, snapshots_per_life=4,
)
print(demo_store(config))
"""


def started(folder):
    return subprocess.Popen([sys.executable, "-c", PROCESS, str(folder)], stdout=subprocess.PIPE, text=True)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_store_is_the_same_bytes_in_another_folder_process_and_second(tiny, tmp_path):
    here = demo_store(replace(tiny().data, cache_dir=str(tmp_path / "here")))
    began = time.time()
    with started(tmp_path / "there") as process:
        there = process.communicate(timeout=60)[0].strip()
    again = tmp_path / "again.h5"
    time.sleep(max(0, 1.1 - (time.time() - began)))  # a time stamp in the file would be another now
    write_store(again, recordings(tiny().data))
    assert (tmp_path / "there" / here.name).samefile(there)
    assert sha256(here) == sha256(tmp_path / "there" / here.name) == sha256(again)


def test_a_store_in_the_cache_is_not_written_again(tiny, tmp_path):
    config = replace(tiny().data, cache_dir=str(tmp_path))
    path = demo_store(config)
    os.utime(path, (1, 1))
    before = path.stat()
    assert demo_store(config) == path
    assert (path.stat().st_mtime, path.stat().st_ino) == (before.st_mtime, before.st_ino)


@pytest.mark.parametrize(
    "change",
    [
        {"machine_seed": 1},
        {"bearings_per_class": 4},
        {"conditions": 2},
        {"duration_s": 0.11},
        {"lives": 7},
        {"snapshots_per_life": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_samples_is_another_store(tiny, cache, change):
    config = tiny().data
    changed = demo_store(replace(config, **change))
    assert changed != demo_store(config)
    assert [r.id for r in Store(changed).recordings] == [r.id for r in recordings(replace(config, **change))]


def test_what_does_not_change_the_samples_is_the_same_store(tiny, cache):
    config = tiny().data
    assert demo_store(replace(config, window=64, stride=7)) == demo_store(config)


def test_two_processes_that_simulate_at_once_both_end_with_a_whole_store(tmp_path, tiny):
    processes = [started(tmp_path) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(paths) == 1
    store = Store(tmp_path / paths.pop())
    assert [path.name for path in tmp_path.iterdir()] == [store.path.name]
    for recording, wanted in zip(store.recordings, recordings(tiny().data), strict=True):
        assert np.array_equal(store.signal(recording, 0, recording.length), wanted.signal)


def test_a_damaged_store_in_the_cache_is_named_with_a_remedy_that_works(tiny, tmp_path):
    config = replace(tiny().data, cache_dir=str(tmp_path))
    path = demo_store(config)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=path.name) as refused:
        build(config, {})
    assert "vibench-data prepare" not in str(refused.value)  # which cannot write a simulated store


def test_a_cache_that_cannot_be_written_is_refused_by_its_key(demo):
    with pytest.raises(DataError, match=r"data\.cache_dir=/proc/nowhere cannot be written: .*; name another"):
        demo_store(replace(demo, cache_dir="/proc/nowhere"))
