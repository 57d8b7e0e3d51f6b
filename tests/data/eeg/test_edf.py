"""EDF, EDF+ and BDF files, written by edfio, read a few seconds at a time; and each way in which one can be damaged."""

import os
import tracemalloc
from datetime import datetime, time
from pathlib import Path

import edfio
import numpy as np
import pytest
from numpy.random import default_rng

from vibench.data.eeg.edf import open_edf, write_edf
from vibench.errors import DataError

START = datetime(2016, 1, 1, 19, 39, 33)
STATM = Path("/proc/self/statm")
SIGNALS, RECORDS = 236, 244  # places in the header: number of data records, and their duration


def noise(seconds=4, rate_hz=64, channels=2, seed=0):
    return default_rng(seed).normal(0, 50, (round(seconds * rate_hz), channels))


def written(path, signal, labels, rate_hz=64, *, unit="uV", kind=edfio.Edf, **more):
    """A file as a recorder might write it."""
    of = edfio.EdfSignal if kind is edfio.Edf else edfio.BdfSignal
    kind(
        [
            of(samples, rate_hz, label=label, physical_dimension=unit, physical_range=(-400, 400))
            for label, samples in zip(labels, np.asarray(signal).T, strict=True)
        ],
        **more,
    ).write(path)
    return path


def patched(path, place, text, length=8):
    """The file with other text in its header."""
    content = bytearray(path.read_bytes())
    content[place : place + length] = text.encode().ljust(length)
    path.write_bytes(content)
    return path


def of_signal(path, field, index, text, length=8):
    """The file with another field of a signal in its header."""
    before = {"label": 0, "unit": 96, "physical_min": 104, "physical_max": 112, "digital_min": 120, "digital_max": 128}
    count = int(path.read_bytes()[252:256])
    return patched(path, 256 + before[field] * count + length * index, text, length)


# what is read


@pytest.mark.parametrize(("kind", "name"), [(edfio.Edf, "x.edf"), (edfio.Edf, "x.rec"), (edfio.Bdf, "x.bdf")])
def test_the_samples_are_those_that_edfio_reads(tmp_path, kind, name):
    path = written(tmp_path / name, noise(channels=3), ["EEG FP1-REF", "ECG", "EEG F7-REF"], kind=kind)
    theirs = (edfio.read_edf if kind is edfio.Edf else edfio.read_bdf)(path)
    recording = open_edf(path, ["F7", "Fp1", "Fp1-F7"], [])
    fp1, f7 = theirs.signals[0].data, theirs.signals[2].data
    expected = np.stack([f7, fp1, fp1 - f7], 1)
    ours = recording.microvolts(0, recording.length)
    assert (ours.dtype, ours.shape) == (np.float32, (256, 3))
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert (recording.rate_hz, recording.length, recording.duration_s) == (64, 256, 4)


def test_24_bits_keep_the_sign_and_the_extremes(tmp_path):
    digital = np.array([-8388608, -1, 0, 1, 8388607, -65536, 65535, 256], np.int32)
    signal = edfio.BdfSignal.from_digital(digital, 8, label="Fz", physical_dimension="uV")
    edfio.Bdf([signal]).write(tmp_path / "x.bdf")
    assert open_edf(tmp_path / "x.bdf", ["Fz"], []).microvolts(0, 8)[:, 0].tolist() == digital.tolist()


@pytest.mark.parametrize("kind", [edfio.Edf, edfio.Bdf])
def test_every_slice_is_that_part_of_the_whole(tmp_path, kind):
    path = written(
        tmp_path / "x.edf", noise(), ["Fp1", "Fz"], kind=kind, annotations=[edfio.EdfAnnotation(1, None, "x")]
    )
    recording = open_edf(path, ["Fz", "Fp1"], [])
    whole = recording.microvolts(0, 256)
    for start, stop in [(0, 0), (64, 64), (256, 256), (0, 1), (63, 65), (64, 128), (10, 200), (255, 256), (1, 256)]:
        assert np.array_equal(recording.microvolts(start, stop), whole[start:stop])


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("uV", 1), ("", 1), ("UV", 1), ("mV", 1e3), ("V", 1e6), ("nV", 1e-3)],
)
def test_the_unit_becomes_microvolts(tmp_path, unit, factor):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], unit=unit)
    expected = edfio.read_edf(path).signals[1].data * factor
    np.testing.assert_allclose(open_edf(path, ["Fz"], []).microvolts(0, 256)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("unit", [b"\xb5V", "µV".encode(), "μV".encode()])
def test_a_micro_sign_is_read_in_each_encoding(tmp_path, unit):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"])
    plain = open_edf(path, ["Fp1"], []).microvolts(0, 256)
    path.write_bytes(path.read_bytes().replace(b"uV".ljust(8), unit.ljust(8)))
    assert np.array_equal(open_edf(path, ["Fp1"], []).microvolts(0, 256), plain)


def test_a_signal_upside_down_is_turned(tmp_path):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"])
    upright = open_edf(path, ["Fp1"], []).microvolts(0, 256)
    of_signal(of_signal(path, "physical_min", 0, "400"), "physical_max", 0, "-400")
    np.testing.assert_allclose(open_edf(path, ["Fp1"], []).microvolts(0, 256), -upright, atol=1e-3)


def test_signals_that_are_not_wanted_may_have_any_rate_unit_and_scale(tmp_path):
    fast = edfio.EdfSignal(noise(rate_hz=256)[:, 0], 256, label="ECG", physical_dimension="bpm")
    slow = edfio.EdfSignal(noise()[:, 0], 64, label="Fz", physical_dimension="uV")
    edfio.Edf([fast, slow]).write(tmp_path / "x.edf")
    path = of_signal(of_signal(tmp_path / "x.edf", "physical_min", 0, "0"), "physical_max", 0, "0")
    recording = open_edf(path, ["Fz"], [])
    np.testing.assert_allclose(recording.microvolts(0, 256)[:, 0], slow.data, atol=1e-3)
    assert (recording.rate_hz, recording.length) == (64, 256)


def test_the_rate_is_the_decimal_that_the_header_says(tmp_path):
    signal = edfio.EdfSignal(noise(seconds=3, rate_hz=100)[:, 0], 100, label="Fz")
    edfio.Edf([signal], data_record_duration=0.3).write(tmp_path / "x.edf")
    recording = open_edf(tmp_path / "x.edf", ["Fz"], [])
    assert (recording.rate_hz, recording.length, recording.duration_s) == (100, 300, 3)


def test_an_electrode_that_was_made_of_its_neighbours_is_named(tmp_path):
    path = written(tmp_path / "x.edf", noise(), ["F3", "F4"])
    recording = open_edf(path, ["F3", "Fz", "F4"], ["Fz", "Pz"])
    samples = recording.microvolts(0, 256)
    assert recording.interpolated == ["Fz"]
    np.testing.assert_allclose(samples[:, 1], (samples[:, 0] + samples[:, 2]) / 2, atol=1e-4)


def test_bytes_behind_the_last_record_are_not_read(tmp_path):
    """chb17b_69.edf of CHB-MIT has 256 of them."""
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"])
    whole = open_edf(path, ["Fz"], []).microvolts(0, 256)
    path.write_bytes(path.read_bytes() + bytes(255))
    assert np.array_equal(open_edf(path, ["Fz"], []).microvolts(0, 256), whole)


def test_start_patient_and_annotations_are_those_of_edf_plus(tmp_path):
    marks = [edfio.EdfAnnotation(2.5, None, "eyes öpen"), edfio.EdfAnnotation(0.25, 1.5, "seizure")]
    path = written(
        tmp_path / "x.edf",
        noise(),
        ["Fp1", "Fz"],
        patient=edfio.Patient(code="MCH-02", sex="F"),
        recording=edfio.Recording(startdate=START.date()),
        starttime=time(19, 39, 33, 500_000),
        annotations=marks,
    )
    recording = open_edf(path, ["Fz"], [])
    assert recording.start == START.replace(microsecond=500_000)
    assert recording.patient == "MCH-02"
    assert recording.annotations == [(0.25, 1.5, "seizure"), (2.5, None, "eyes öpen")]


@pytest.mark.parametrize("code", ["X", "x", "unknown", "Anonymous"])
def test_a_code_that_says_nothing_is_no_patient(tmp_path, code):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], patient=edfio.Patient(code=code), annotations=[])
    assert open_edf(path, ["Fz"], []).patient is None


def test_the_text_of_a_plain_edf_file_is_no_code(tmp_path):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"])
    assert open_edf(patched(path, 8, "Jane Doe", 80), ["Fz"], []).patient is None


@pytest.mark.parametrize(
    ("date", "clock", "start"),
    [
        ("01.01.16", "19.39.33", START),
        ("01-01-16", "19:39:33", START),
        ("31.12.99", "00.00.01", datetime(1999, 12, 31, 0, 0, 1)),
        ("31.02.16", "19.39.33", None),
        ("", "19.39.33", None),
        ("01.01.16", "yy.hh.ss", None),
        ("01.01.85", "00.00.00", None),  # with Startdate X
        ("01.01.85", "11.12.13", datetime(1985, 1, 1, 11, 12, 13)),
    ],
)
def test_the_start_is_none_where_the_header_does_not_say(tmp_path, date, clock, start):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"])
    assert open_edf(patched(patched(path, 168, date), 176, clock), ["Fz"], []).start == start


def discontinuous(path, clocks):
    """A file of one-second records with a clock of its own in each."""
    written(path, noise(seconds=len(clocks)), ["Fp1", "Fz"], annotations=[])
    content = path.read_bytes().replace(b"EDF+C", b"EDF+D")
    for k, clock in enumerate(clocks):
        old, new = (f"+{when:g}\x14\x14\0".encode() for when in (k, clock))
        content = content.replace(old, new, 1)
    path.write_bytes(content)
    return path


def test_a_discontinuous_file_without_a_gap_is_read(tmp_path):
    assert open_edf(discontinuous(tmp_path / "x.edf", [0, 1, 2]), ["Fz"], []).length == 192


@pytest.mark.parametrize("clocks", [[0, 1, 7], [0, 1, 1]])
def test_a_discontinuous_file_with_a_gap_is_refused(tmp_path, clocks):
    path = discontinuous(tmp_path / "x.edf", clocks)
    with pytest.raises(DataError, match=r"x\.edf is not continuous \(EDF\+D\): .* split it at its gaps"):
        open_edf(path, ["Fz"], [])


def test_annotations_in_latin_letters_or_of_two_lines_are_read(tmp_path):
    """edfio refuses the first ones and skips the others."""
    marks = [edfio.EdfAnnotation(1, None, "muede"), edfio.EdfAnnotation(2, 1.5, "a\nseizure")]
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], annotations=marks)
    expected = [(1, None, "muede"), (2, 1.5, "a seizure")]
    assert open_edf(path, ["Fz"], []).annotations == expected
    path.write_bytes(path.read_bytes().replace(b"muede", b"m\xfcde "))
    assert open_edf(path, ["Fz"], []).annotations == [(1, None, "m?de"), expected[1]]


def test_annotations_are_read_where_the_seconds_of_a_record_are_rounded(tmp_path):
    """24,576 * 0.1 / 0.1 is more than 24,576, and edfio then asks for a record behind the last one."""
    path = tmp_path / "x.edf"
    mark = edfio.EdfAnnotation(2457.5, 1, "at the end")
    written(path, np.zeros((24_576, 1)), ["Fz"], 10, annotations=[mark], data_record_duration=0.1)
    recording = open_edf(path, ["Fz"], [])
    assert (recording.annotations, recording.duration_s) == ([mark], 2457.6)


@pytest.mark.parametrize("kind", [edfio.Edf, edfio.Bdf])
def test_annotations_may_lie_before_the_signals_and_between_them(tmp_path, kind):
    marks = [edfio.EdfAnnotation(1, 2, "x")]
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], kind=kind, annotations=marks)
    samples = open_edf(path, ["Fp1", "Fz"], []).microvolts(10, 99)
    edf = (edfio.read_edf if kind is edfio.Edf else edfio.read_bdf)(path)
    fp1, fz, texts = edf._signals
    for order in ((fp1, texts, fz), (texts, fp1, fz)):
        edf._signals = order
        edf.write(tmp_path / "y.edf")
        recording = open_edf(tmp_path / "y.edf", ["Fp1", "Fz"], [])
        assert recording.annotations == marks
        assert np.array_equal(recording.microvolts(10, 99), samples)


def test_an_annotation_signal_in_which_nothing_stands_says_nothing(tmp_path):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], annotations=[])
    content = path.read_bytes()
    for second in range(4):
        content = content.replace(b"+%d\x14\x14" % second, bytes(4))
    path.write_bytes(content)
    assert open_edf(path, ["Fz"], []).annotations == []


# what is refused


def refused(path, message, channels=("Fz",)):
    with pytest.raises(DataError, match=message) as caught:
        open_edf(path, list(channels), [])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is not an EDF or BDF file: it begins with nothing, it is empty; fetch or export it again"),
        (b"hello, world\n" * 40, r"is not an EDF or BDF file: it begins with b'hello, w'"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"is not an EDF or BDF file: it begins with b'version '"),
        (b"0".ljust(100), r"ends within its header, after 100 bytes"),
        (b"0".ljust(256), r"its header is damaged: the number of signals is ''"),
    ],
)
def test_what_is_no_edf_file_is_refused(tmp_path, content, message):
    (tmp_path / "x.edf").write_bytes(content)
    refused(tmp_path / "x.edf", message)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path):
    refused(tmp_path / "x.edf", "cannot be read: No such file")
    refused(tmp_path, "cannot be read: Is a directory")


@pytest.mark.parametrize("kind", [edfio.Edf, edfio.Bdf])
@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (300, r"ends within its header, after 300 of 768 bytes"),
        (768, r"is cut short: it holds 0 whole data records of 1 s, its header says 4"),
        (-1, r"is cut short: it holds 3 whole data records of 1 s, its header says 4; fetch or export it again"),
    ],
)
def test_a_file_that_is_cut_short_is_refused(tmp_path, kind, kept, message):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], kind=kind)
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, message)


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        (SIGNALS, "5", r"is cut short: it holds 4 whole data records of 1 s, its header says 5"),
        (SIGNALS, "3", r"holds 4 data records and its header says 3"),
        (SIGNALS, "-1", r"was never closed by its recorder: .* \(-1\), so nobody can tell whether the 4 .* are all"),
        (SIGNALS, "-2", r"its header is damaged: the number of data records is '-2'"),
        (SIGNALS, "many", r"its header is damaged: the number of data records is 'many'"),
        (RECORDS, "0", r"holds no signal"),
        (RECORDS, "-1", r"holds no signal"),
        (RECORDS, "one", r"its header is damaged: the duration of a data record is 'one'"),
        (184, "512", r"its header has 512 bytes for 2 signals, not 256 for each"),
    ],
)
def test_a_header_that_contradicts_the_file_is_refused(tmp_path, place, text, message):
    refused(patched(written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"]), place, text), message)


def test_a_header_without_data_is_refused(tmp_path):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"])
    path.write_bytes(path.read_bytes()[:768])
    refused(patched(path, SIGNALS, "0"), r"holds a header and no data")


def test_a_damaged_number_of_samples_is_refused(tmp_path):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"])
    refused(patched(path, 256 + 216 * 2 + 8, "6?"), r"the number of samples of signal 2 is '6\?'")


@pytest.mark.parametrize("unit", ["degC", "%", "MV", "uA"])
def test_a_unit_that_is_not_volts_is_refused(tmp_path, unit):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], unit=unit)
    refused(path, rf"x\.edf: Fz is in '{unit}', which is not a unit of EEG; it may be uV, mV, V or nV")


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("physical_min", "400"),
        ("digital_min", "32767"),
        ("digital_max", "-40000"),
        ("physical_max", "inf"),
        ("digital_min", "x"),
        ("digital_min", "-3E768"),
    ],
)
def test_a_scale_without_an_extent_is_refused_with_its_channel(tmp_path, field, text):
    path = of_signal(written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"]), field, 1, text)
    refused(path, r"x\.edf: Fz cannot be scaled: ")
    assert open_edf(path, ["Fp1"], []).length == 256


def test_channels_at_two_rates_are_refused(tmp_path):
    slow, fast = (edfio.EdfSignal(noise(rate_hz=r)[:, 0], r, label=n) for n, r in (("Fp1", 64), ("Fz", 128)))
    edfio.Edf([slow, fast]).write(tmp_path / "x.edf")
    refused(tmp_path / "x.edf", r"has the channels at different rates: Fp1 64 Hz, Fz 128 Hz", ["Fp1", "Fz"])


def test_missing_channels_are_refused_with_the_file(tmp_path):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], annotations=[])
    refused(path, r"x\.edf lacks Cz, Pz; it has Fp1, Fz;", ["Cz", "Fz", "Pz"])


@pytest.mark.parametrize(
    "entry",
    [
        b"nonsense",
        b"+x\x14seizure\x14",
        b"+1\x15y\x14seizure\x14",
        b"+inf\x14seizure\x14",
        b"+1\x15-9999999999\x14x\x14",
        b"+1.5\x1ea seizure\x14",
    ],
)
def test_a_damaged_annotation_is_refused(tmp_path, entry):
    path = written(
        tmp_path / "x.edf", noise(), ["Fp1", "Fz"], annotations=[edfio.EdfAnnotation(1.5, 2, "a seizure, long")]
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"+1.5\x152\x14a seizure, long\x14", entry.ljust(23, b"\0")))
    assert path.read_bytes() != content
    refused(path, r"x\.edf: the annotation .* is damaged; export the file again")


@pytest.mark.parametrize("kind", [edfio.Edf, edfio.Bdf])
def test_whatever_byte_is_wrong_the_file_is_read_or_refused_in_one_line(tmp_path, kind):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"], kind=kind, annotations=[edfio.EdfAnnotation(1, 2, "x")])
    content, rng, read = path.read_bytes().replace(b"F+C", b"F+D"), default_rng(0), 0
    said = []
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.integers(1024)] = rng.choice(list(b"019.-E \0\x14\x15X\xff"))
        damaged[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            recording = open_edf(path, ["Fz", "Fp1"], [])
            assert np.isfinite(recording.microvolts(0, recording.length)).all()
            read += 1
        except DataError as error:
            said.append(str(error))
    assert read
    assert said
    assert all(str(path) in line and "\n" not in line for line in said)


def test_a_file_that_shrinks_or_goes_while_it_is_in_use_is_said_to(tmp_path):
    path = written(tmp_path / "x.edf", noise(), ["Fp1", "Fz"])
    recording = open_edf(path, ["Fz"], [])
    os.truncate(path, 900)
    with pytest.raises(DataError, match=r"x\.edf was cut short while it was in use"):
        recording.microvolts(0, 256)
    path.unlink()
    with pytest.raises(DataError, match=r"x\.edf cannot be read any more: No such file"):
        recording.microvolts(0, 256)


@pytest.fixture(scope="module", params=[edfio.Edf, edfio.Bdf])
def day(request, tmp_path_factory):
    """24 h of 20 channels at 256 Hz, 0.9 or 1.3 GB; the file has a hole where the samples would be."""
    names = [f"C{k}" for k in range(20)]
    more = {"kind": request.param, "annotations": [], "data_record_duration": 10}
    path = written(tmp_path_factory.mktemp("day") / "x.edf", np.zeros((2560, 20)), names, 256, **more)
    header = int(path.read_bytes()[184:192])
    os.truncate(patched(path, SIGNALS, "8640"), header + 8640 * (path.stat().st_size - header))
    return path


def test_a_file_of_a_day_is_not_read_into_memory(day):
    tracemalloc.start()
    try:
        recording = open_edf(day, ["C0", "C1"], [])
        samples = recording.microvolts(23 * 3600 * 256, (23 * 3600 + 60) * 256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (recording.duration_s, samples.shape) == (86_400, (15_360, 2))
    assert peak < 10 * 2**20


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
def test_nothing_of_a_file_of_a_day_stays_resident(day):
    """Blocks of 256 s as they are prepared; 60 or 90 MB of the file lie under them."""

    def resident():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    recording = open_edf(day, ["C0", "C19"], [])
    recording.microvolts(0, 65_536)
    before = resident()
    grown = []
    for hour in range(24):
        recording.microvolts(hour * 921_600, hour * 921_600 + 65_536)
        grown.append(resident() - before)
    assert max(grown) < 10 * 2**20


# what is written


def test_what_is_written_is_read_back(tmp_path):
    signal = noise(seconds=3, channels=3)
    marks = [(0.5, 1.25, "seizure"), (2.0, None, "eyes closed")]
    path = tmp_path / "x.edf"
    write_edf(path, signal, ["Fp1", "Fp1-F7", "Fz"], 64, start=START, patient="MCH 02", annotations=marks)
    recording = open_edf(path, ["Fz", "Fp1-F7", "Fp1"], [])
    np.testing.assert_allclose(recording.microvolts(0, 192), signal[:, ::-1], atol=np.abs(signal).max() / 30_000)
    assert (recording.start, recording.patient, recording.annotations) == (START, "MCH_02", marks)
    assert edfio.read_edf(path).reserved == "EDF+C"
    assert [p.name for p in tmp_path.iterdir()] == ["x.edf"]


def test_an_existing_file_is_replaced_and_a_flat_channel_stays_flat(tmp_path):
    path = tmp_path / "x.edf"
    path.write_bytes(b"old")
    write_edf(path, np.zeros((64, 1)), ["Fz"], 64, start=START, patient="", annotations=[])
    recording = open_edf(path, ["Fz"], [])
    np.testing.assert_allclose(recording.microvolts(0, 64), 0, atol=1e-4)
    assert recording.patient is None


@pytest.mark.parametrize(
    ("samples", "rate_hz"),
    [(64, 64), (96, 64), (32, 64), (2500, 250), (4097, 173.61), (1000, 249.9), (100, 0.5), (640, 1 / 3), (7, 1000)],
)
def test_length_and_rate_survive_where_they_are_not_whole_seconds(tmp_path, samples, rate_hz):
    write_edf(tmp_path / "x.edf", noise(samples, 1, 1), ["Fz"], rate_hz, start=START, patient="a", annotations=[])
    recording = open_edf(tmp_path / "x.edf", ["Fz"], [])
    assert recording.length == samples
    assert recording.rate_hz == pytest.approx(rate_hz, rel=1e-6)


def test_the_resolution_follows_the_amplitude(tmp_path):
    signal = np.stack([np.linspace(-0.4, 0.4, 64), np.linspace(-90_000, 90_000, 64)], 1)
    write_edf(tmp_path / "x.edf", signal, ["Fp1", "Fz"], 64, start=START, patient="a", annotations=[])
    error = np.abs(open_edf(tmp_path / "x.edf", ["Fp1", "Fz"], []).microvolts(0, 64) - signal).max(0)
    assert error[0] < 2e-5
    assert error[1] < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal": np.full((64, 1), np.nan)}, "cannot be written: a sample of nan microvolts"),
        ({"signal": np.full((64, 1), 1e8)}, r"cannot be written: a sample of 1e\+08 microvolts"),
        ({"signal": np.zeros((257, 1)), "rate_hz": 256}, "257 samples at 256 Hz cannot be cut into equal data records"),
        ({"start": datetime(1970, 1, 1)}, "cannot be written: EDF only allows dates from 1985"),
        ({"channels": ["a name that is too long"]}, "cannot be written: .*exceeds maximum field length"),
        ({"patient": "Jürgen"}, "cannot be written: .*ascii"),
        ({"annotations": [(1.0, -2.0, "x")]}, "cannot be written: .*must be positive"),
    ],
)
def test_what_does_not_fit_the_format_is_refused_and_nothing_is_left(tmp_path, change, message):
    given = {
        "signal": np.zeros((64, 1)),
        "channels": ["Fz"],
        "rate_hz": 64,
        "start": START,
        "patient": "a",
        "annotations": [],
    }
    with pytest.raises(DataError, match=message):
        write_edf(tmp_path / "x.edf", **given | change)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"x\.edf cannot be written: .*No such file"):
        write_edf(tmp_path / "no/x.edf", np.zeros((64, 1)), ["Fz"], 64, start=START, patient="a", annotations=[])


def test_without_edfio_it_is_said_what_to_install(tmp_path, monkeypatch):
    path = written(tmp_path / "there.edf", noise(), ["Fz", "Cz"])
    monkeypatch.setitem(__import__("sys").modules, "edfio", None)
    refused(path, r"reading .*there\.edf needs edfio; pip install 'vibench\[eeg\]'")
    with pytest.raises(DataError, match=r"writing .*x\.edf needs edfio; pip install 'vibench\[eeg\]'"):
        write_edf(tmp_path / "x.edf", np.zeros((64, 1)), ["Fz"], 64, start=START, patient="a", annotations=[])
