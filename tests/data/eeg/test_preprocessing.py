"""Filtered samples are those of the whole record at once, however it is cut, and of the frequencies asked for."""

import sys

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.signal import filtfilt, firwin, lfilter, resample_poly, welch

from tests.conftest import real_data
from vibench.data.eeg.preprocessing import Preprocessing
from vibench.errors import DataError

RATE = 256
BONN_HZ = 173.61


def wanted(**values):
    """Equal rates and no filter, unless asked for."""
    return Preprocessing(
        **{"rate_hz": RATE, "low_hz": None, "high_hz": None, "notch_hz": None, "max_gap_s": 1} | values
    )


def of_clinics(**values):
    return wanted(**{"low_hz": 0.5, "high_hz": 120, "notch_hz": 60} | values)


def whole(processing, samples, rate_hz=RATE, **block):
    """All blocks in one, of samples that lie in memory."""
    samples = np.asarray(samples, np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    blocks = list(processing.blocks(lambda start, stop: samples[start:stop], len(samples), rate_hz, **block))
    assert {b.dtype for b in blocks} == {np.dtype(np.float32)}
    return np.concatenate(blocks)


def time_of(seconds, rate_hz=RATE):
    return np.arange(int(seconds * rate_hz)) / rate_hz


def sine(frequency_hz, seconds=40, rate_hz=RATE):
    return 100 * np.sin(2 * np.pi * frequency_hz * time_of(seconds, rate_hz) + 0.3)


def noise(seconds, channels=2, rate_hz=RATE, seed=0):
    """A walk plus noise: offset, drift and all frequencies."""
    rng = default_rng(seed)
    steps = rng.standard_normal((int(seconds * rate_hz), channels))
    return (1000 + steps.cumsum(0) + 20 * rng.standard_normal(steps.shape)).astype(np.float32)


def db(part, of):
    return 20 * np.log10(np.abs(part).max() / np.abs(of).max())


# Nothing asked for


def test_without_filters_and_at_equal_rates_samples_pass_untouched():
    samples = noise(10)
    assert np.array_equal(whole(wanted(), samples, block=700), samples)


def test_blocks_are_about_as_long_as_asked_for():
    samples = noise(40)
    lengths = [len(b) for b in wanted().blocks(lambda a, b: samples[a:b], len(samples), RATE, block=1000)]
    assert (set(lengths[:-1]), sum(lengths)) == ({1000}, len(samples))


def test_every_sample_is_read_once_and_in_order():
    samples, asked = noise(60), []

    def read(start, stop):
        asked.append((start, stop))
        return samples[start:stop]

    list(of_clinics().blocks(read, len(samples), 200, block=2000))
    assert len(asked) > 2
    assert [start for start, _ in asked] == [0, *(stop for _, stop in asked[:-1])]


# Filters


@pytest.mark.parametrize("frequency_hz", [1, 3, 10, 58, 100])
def test_a_sine_in_the_band_keeps_its_size_and_its_phase(frequency_hz):
    samples = sine(frequency_hz)
    middle = slice(8 * RATE, -8 * RATE)
    assert np.allclose(whole(of_clinics(), samples)[middle, 0], samples[middle], atol=0.4)


@pytest.mark.parametrize("frequency_hz", [0.02, 59.9, 60, 127.9])
def test_what_lies_outside_is_gone(frequency_hz):
    samples = sine(frequency_hz, seconds=60)
    middle = slice(8 * RATE, -8 * RATE)
    assert db(whole(of_clinics(), samples)[middle], samples) < -40


def test_an_offset_of_an_amplifier_is_gone_up_to_the_edges():
    assert np.abs(whole(of_clinics(), np.full(5000, 2e5))).max() < 0.02  # a step of float32 there


def test_an_impulse_is_symmetric():
    impulse = np.zeros(40 * RATE)
    impulse[20 * RATE] = 1000
    answer = whole(of_clinics(), impulse)[:, 0]
    assert np.argmax(answer) == 20 * RATE
    assert np.allclose(answer[1:], answer[:0:-1], atol=1e-3)


def test_no_more_than_the_edges_asked_for_is_taken_away():
    slow, mains, fast = sine(0.1), sine(60), sine(126)
    middle = slice(9 * RATE, -9 * RATE)
    for values, kept in [({"low_hz": None}, slow), ({"notch_hz": None}, mains), ({"high_hz": None}, fast)]:
        assert np.allclose(whole(of_clinics(**values), kept)[middle, 0], kept[middle], atol=0.4)


def test_blocks_are_the_whole_mirrored_record_filtered_at_once():
    samples, processing = noise(30), of_clinics()
    reach = len(processing.kernel) // 2
    mirrored = np.pad(samples.astype(float), ((reach, reach), (0, 0)), "reflect")
    reference = lfilter(processing.kernel, 1, mirrored, axis=0)[2 * reach :]
    assert np.allclose(whole(processing, samples, block=1000), reference, atol=1e-4)


def test_in_the_middle_of_the_band_it_is_what_any_zero_phase_filter_gives():
    samples = filtfilt(firwin(513, [4, 40], pass_zero=False, fs=RATE), 1, noise(40), axis=0)
    middle = slice(8 * RATE, -8 * RATE)
    assert np.abs(whole(of_clinics(), samples) - samples)[middle].max() < 0.01 * samples[middle].std()


@pytest.mark.parametrize("values", [{"low_hz": 128}, {"high_hz": 200}, {"notch_hz": 127.5}, {"low_hz": 0}])
def test_an_edge_that_the_rate_cannot_have_is_refused(values):
    (name, value), *_ = values.items()
    with pytest.raises(DataError, match=rf"{name}={value} is not between .* Hz; half of rate_hz=256 limits it"):
        of_clinics(**values)


def test_a_band_that_holds_nothing_is_refused():
    with pytest.raises(DataError, match=r"low_hz=40 is not below high_hz=30"):
        of_clinics(low_hz=40, high_hz=30)


def test_a_missing_scipy_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(DataError, match=r"needs scipy; pip install 'vibench\[eeg\]'"):
        of_clinics()


# Any cut gives the same


@pytest.mark.parametrize("rate_hz", [256, 512, 249.7, 100, 173.61])
def test_any_cut_gives_the_same(rate_hz):
    samples = noise(70, rate_hz=rate_hz)
    samples[5000:5040, 1] = np.nan
    samples[[0, 1, -1], 0] = np.inf
    at_once = whole(of_clinics(), samples, rate_hz, block=len(samples))
    for block in (1, 2500, 5017):
        assert np.abs(whole(of_clinics(), samples, rate_hz, block=block) - at_once).max() <= 1e-4


def test_a_record_shorter_than_the_filters_is_filtered_too():
    for length in (1, 2, 300):
        filtered = whole(of_clinics(), noise(2)[:length], 200)
        assert filtered.shape == (of_clinics().length(length, 200), 2)
        assert np.isfinite(filtered).all()


def test_a_record_without_samples_is_refused():
    with pytest.raises(DataError, match="the record has no samples"):
        whole(wanted(), np.zeros(0))


# Resampling


@pytest.mark.parametrize("rate_hz", [512, 500, 249.7, 200, 173.61, 100.3])
def test_a_slow_sine_is_itself_at_another_rate(rate_hz):
    samples = whole(wanted(), sine(7, 30, rate_hz), rate_hz)[:, 0]
    there = sine(7, len(samples) / RATE)[RATE:-RATE]
    assert np.allclose(samples[RATE:-RATE], there, atol=0.2)  # of 100: the ripple of 60 dB


@pytest.mark.parametrize("rate_hz", [512, 249.7, 173.61])
def test_an_offset_stays_an_offset(rate_hz):
    assert np.allclose(whole(wanted(), np.full(4000, 3e5), rate_hz), 3e5, rtol=1e-6)


def test_what_the_lower_rate_cannot_hold_does_not_fold_back():
    samples = sine(200, 30, 512)  # would be at 56 Hz
    assert db(whole(wanted(), samples, 512)[RATE:-RATE], samples) < -58


@pytest.mark.parametrize("rate_hz", [512, 100, 200])
def test_it_is_what_scipy_resamples(rate_hz):
    samples = filtfilt(firwin(201, 30, fs=rate_hz), 1, noise(20, rate_hz=rate_hz) - 1000, axis=0)
    reference = resample_poly(samples, RATE, rate_hz)[RATE:-RATE]
    assert np.abs(whole(wanted(), samples, rate_hz)[RATE:-RATE] - reference).max() < 0.005 * reference.std()


@pytest.mark.parametrize(("rate_hz", "raw", "samples"), [(256, 1001, 1001), (512, 1001, 501), (249.7, 2497, 2560)])
def test_there_is_a_sample_at_every_step_within_the_record(rate_hz, raw, samples):
    assert wanted().length(raw, rate_hz) == samples
    assert len(whole(wanted(), np.zeros(raw), rate_hz)) == samples


def test_a_rate_next_to_the_one_asked_for_passes_untouched_where_nobody_could_tell():
    samples = noise(10)
    assert np.array_equal(whole(wanted(), samples, 256.0001), samples)


def test_a_day_that_would_end_too_late_is_refused():
    raw_hz = 256 * (1 + 2e-6)
    assert wanted().length(256 * 3600, raw_hz) == 256 * 3600
    with pytest.raises(DataError, match=r"after 86400 s it would be 0\.17 s off, 0\.1 are allowed"):
        wanted().length(256 * 86400, raw_hz)


# Lost samples


def test_one_lost_sample_does_not_erase_its_channel():
    samples = noise(20)
    damaged = samples.copy()
    damaged[2000, 0] = np.nan
    processing = of_clinics()
    assert np.abs(whole(processing, damaged) - whole(of_clinics(), samples)).max() < 50
    assert processing.interpolated == 1


def test_a_gap_is_a_line_in_time_and_an_edge_the_nearest_sample():
    ramp = np.stack([np.arange(1000.0), np.arange(1000.0)[::-1]], 1)
    damaged = ramp.copy()
    damaged[300:420, 0], damaged[:7, 1], damaged[-9:, 1] = np.nan, -np.inf, np.nan
    repaired = whole(wanted(), damaged, block=350)
    ramp[:7, 1], ramp[-9:, 1] = ramp[7, 1], ramp[-10, 1]
    assert np.array_equal(repaired, ramp.astype(np.float32))


def test_the_count_of_lost_samples_is_that_of_the_last_record():
    processing, damaged = wanted(), noise(20)
    damaged[995:1005], damaged[4000, 1] = np.nan, np.nan
    for block in (1000, 9999):
        whole(processing, damaged, block=block)
        assert processing.interpolated == 21
    whole(processing, noise(5))
    assert processing.interpolated == 0


@pytest.mark.parametrize("block", [800, 1000, 1100, 99_999])
def test_a_gap_that_is_too_long_is_refused_by_its_channel_and_time(block):
    damaged = noise(20)
    damaged[1024 : 1024 + RATE + 1, 1] = np.nan
    message = r"channel 1 \(counted from 0\) has no finite sample for 1 s or more from 4\.000 s on; .* max_gap_s=1"
    with pytest.raises(DataError, match=message):
        whole(wanted(), damaged, block=block)
    damaged[1024, 1] = 0  # exactly as long as allowed
    assert np.isfinite(whole(wanted(), damaged, block=block)).all()


@pytest.mark.parametrize("seconds", [0.5, 20])
def test_a_channel_without_a_finite_sample_is_refused(seconds):
    damaged = noise(seconds)
    damaged[:, 0] = np.nan
    with pytest.raises(DataError, match=r"channel 0 \(counted from 0\) has no finite sample for .* from 0\.000 s on"):
        whole(wanted(), damaged, block=1000)


# Measured


@pytest.mark.parametrize("rate_hz", [256, 128])
def test_resampled_measured_eeg_keeps_its_spectrum_below_the_cut(rate_hz):
    files = sorted((real_data("bonn_eeg") / "E_S").glob("*.txt"))[:20]
    samples = np.stack([np.loadtxt(path) for path in files], 1)  # of seizures, (4097, files)
    resampled = whole(wanted(rate_hz=rate_hz), samples, BONN_HZ)
    cut_hz = min(rate_hz, BONN_HZ) / 2
    before, after = (
        welch(x, rate, nperseg=int(4 * rate), axis=0) for x, rate in ((samples, BONN_HZ), (resampled, rate_hz))
    )
    kept = np.arange(0.5, 0.93 * cut_hz)
    there = [np.interp(kept, f, power.mean(1)) for f, power in (before, after)]
    assert np.abs(10 * np.log10(there[1] / there[0])).max() < 0.5
    above = after[0] > 1.07 * cut_hz
    assert not above.any() or after[1][above].max() < 1e-5 * after[1].max()
