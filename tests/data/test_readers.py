"""CWRU and FEMTO files, each with the traps that the published files have, made anew for the test."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.io import savemat

from tests.conftest import real_data
from vibench.data import cwru, femto
from vibench.data.prepare import NotWantedError, files_below, prepare
from vibench.data.store import Store
from vibench.errors import DataError


def sensors(number, samples=60, fan_end=None, seed=0, **more):
    """Variables of a CWRU file as MATLAB holds them: columns under zero-padded names."""
    rng = default_rng([number, seed])
    signal = {
        f"X{number:03d}_DE_time": rng.standard_normal((samples, 1)),
        f"X{number:03d}_FE_time": rng.standard_normal((fan_end or samples, 1)),
    }
    return signal | more


def saved(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / name, content)
    return folder / name


def read(path, normal_rate_hz=48_000):
    return cwru.reader(normal_rate_hz)(path)


# CWRU: one file


def test_drive_end_and_fan_end_become_the_two_channels(tmp_path):
    content = sensors(105, X105_BA_time=np.ones((60, 1)), X105RPM=np.array([[1797]]))
    recording = read(saved(tmp_path, "105.mat", content))
    assert np.array_equal(recording.signal[:, 0], content["X105_DE_time"].ravel())
    assert np.array_equal(recording.signal[:, 1], content["X105_FE_time"].ravel())
    assert recording.signal.shape == (60, 2)  # the base sensor, BA, is not in every file


def test_what_a_file_recorded_follows_from_its_number(tmp_path):
    recording = read(saved(tmp_path, "130.mat", sensors(130, X130RPM=1796.0)))
    assert (recording.id, recording.system, recording.rate_hz) == ("130", "cwru", 12_000)
    assert (recording.anomaly, recording.rul_s, recording.source) == (True, None, str(tmp_path / "130.mat"))
    assert recording.columns == {
        "fault": "outer",
        "fault_size": "outer_007",
        "mils": "007",
        "end": "DE",
        "position": "6",
        "load": "0",
        "rpm": "1796",
    }


def test_a_normal_file_is_healthy_and_of_no_end(tmp_path):
    recording = read(saved(tmp_path, "98.mat", sensors(98)))
    assert (recording.entity, recording.anomaly, recording.columns["load"]) == ("healthy", False, "1")
    assert (recording.columns["fault"], recording.columns["fault_size"]) == ("healthy", "healthy")


@pytest.mark.parametrize("rate_hz", [48_000, 12_000])
def test_the_rate_of_the_normal_files_is_the_one_asked_for(tmp_path, rate_hz):
    assert read(saved(tmp_path, "97.mat", sensors(97)), rate_hz).rate_hz == rate_hz
    assert read(saved(tmp_path, "105.mat", sensors(105)), rate_hz).rate_hz == 12_000
    assert read(saved(tmp_path, "109.mat", sensors(109)), rate_hz).rate_hz == 48_000


def test_variables_under_another_number_are_found_by_their_suffix(tmp_path):
    content = sensors(173, X173RPM=1750.0)
    recording = read(saved(tmp_path, "174.mat", content))
    assert np.array_equal(recording.signal[:, 0], content["X173_DE_time"].ravel())
    assert (recording.id, recording.columns["fault_size"], recording.columns["rpm"]) == ("174", "inner_014", "1750")


def test_a_file_without_rpm_is_read_without(tmp_path):
    recording = read(saved(tmp_path, "3001.mat", sensors(56)))
    assert (recording.columns["fault_size"], recording.columns["rpm"]) == ("inner_028", "")
    assert recording.signal.shape == (60, 2)


@pytest.mark.parametrize("own_first", [True, False])
def test_of_two_sets_of_variables_the_files_own_is_taken(tmp_path, own_first):
    own, other = sensors(99, 50), sensors(98, 50)
    path = saved(tmp_path, "99.mat", own | other if own_first else other | own)
    assert np.array_equal(read(path).signal[:, 0], own["X099_DE_time"].ravel())
    assert np.array_equal(read(path).signal[:, 1], own["X099_FE_time"].ravel())


@pytest.mark.parametrize("own_first", [True, False])
def test_of_two_speeds_the_files_own_is_taken(tmp_path, own_first):
    own, other = sensors(99, X099RPM=1750.0), sensors(98, X098RPM=1772.0)
    path = saved(tmp_path, "99.mat", own | other if own_first else other | own)
    assert read(path).columns["rpm"] == "1750"


def test_two_foreign_sets_of_variables_are_refused(tmp_path):
    path = saved(tmp_path, "105.mat", sensors(98) | sensors(99))
    with pytest.raises(DataError, match=r"105\.mat has no variable X\.\.\._DE_time of its own; it holds X098_DE_time"):
        read(path)


@pytest.mark.parametrize("name", ["labels.csv", "105.txt", "normal.mat", "96.mat", "IR007_0.mat", "9999.mat"])
def test_a_file_that_is_not_of_the_data_set_is_not_wanted(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(NotWantedError, match=r"not a \.mat file|its name is not a file number of the data set"):
        read(tmp_path / name)


def test_a_mat_file_that_was_cut_off_is_refused(tmp_path):
    path = saved(tmp_path, "105.mat", sensors(105, 5000))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"105\.mat cannot be read as a \.mat file: \S"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>404</html>" * 20], ids=["empty", "zip", "html"])
def test_a_file_that_is_no_mat_file_is_refused(tmp_path, content):
    (tmp_path / "105.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"105\.mat cannot be read as a \.mat file: \S"):
        read(tmp_path / "105.mat")


def test_sensors_of_different_length_are_refused_with_both_lengths(tmp_path):
    path = saved(tmp_path, "105.mat", sensors(105, 60, fan_end=59))
    with pytest.raises(DataError, match=r"105\.mat has 60 drive end and 59 fan end samples"):
        read(path)


def test_a_missing_sensor_is_refused_with_what_there_is(tmp_path):
    content = sensors(105)
    del content["X105_FE_time"]
    with pytest.raises(DataError, match=r"105\.mat has no variable X\.\.\._FE_time of its own; it holds X105_DE_time"):
        read(saved(tmp_path, "105.mat", content))


@pytest.mark.parametrize(
    "signal", ["text", np.zeros((0, 1)), np.zeros((1, 1))], ids=["text", "no sample", "one sample"]
)
def test_a_sensor_that_is_no_signal_is_refused(tmp_path, signal):
    path = saved(tmp_path, "105.mat", {"X105_DE_time": signal, "X105_FE_time": signal})
    with pytest.raises(DataError, match=r"105\.mat"):
        read(path)


# CWRU: the table of files


@pytest.mark.parametrize(
    ("number", "test"),
    [  # as the download page and Smith and Randall 2015 have them
        (97, ("healthy", "", "", "", 0, 48_000)),
        (100, ("healthy", "", "", "", 3, 48_000)),
        (105, ("inner", "007", "DE", "", 0, 12_000)),
        (118, ("ball", "007", "DE", "", 0, 12_000)),
        (130, ("outer", "007", "DE", "6", 0, 12_000)),
        (147, ("outer", "007", "DE", "3", 3, 12_000)),
        (158, ("outer", "007", "DE", "12", 1, 12_000)),
        (170, ("inner", "014", "DE", "", 1, 12_000)),
        (237, ("outer", "021", "DE", "6", 3, 12_000)),
        (3006, ("ball", "028", "DE", "", 1, 12_000)),
        (109, ("inner", "007", "DE", "", 0, 48_000)),
        (217, ("inner", "021", "DE", "", 3, 48_000)),
        (278, ("inner", "007", "FE", "", 0, 12_000)),
        (294, ("outer", "007", "FE", "6", 0, 12_000)),
        (297, ("outer", "007", "FE", "6", 3, 12_000)),
        (309, ("outer", "014", "FE", "3", 1, 12_000)),
    ],
)
def test_file_numbers_mean_what_was_published(number, test):
    assert tuple(cwru.TESTS.get(number, ())) == test


def test_every_published_file_is_in_the_table_once():
    # 161: 4 normal, 60 at 12 kHz and 52 at 48 kHz of the drive end, 45 of the fan end; one used twice would be lost
    counts = defaultdict(int)
    for test in cwru.TESTS.values():
        counts[test.end, test.rate_hz] += 1
    assert counts == {("", 48_000): 4, ("DE", 12_000): 60, ("DE", 48_000): 52, ("FE", 12_000): 45}


def test_every_load_position_and_size_of_a_series_is_there_once():
    # the same fault, size, end, position, rate and load cannot be two files
    assert len(set(cwru.TESTS.values())) == len(cwru.TESTS)


def test_recordings_of_one_physical_bearing_are_one_entity(tmp_path):
    groups = defaultdict(set)
    for number in (105, 108, 109, 278, 130, 144, 156, 169, 97, 100):  # 109: 105's bearing again, at 48 kHz
        groups[read(saved(tmp_path, f"{number}.mat", sensors(number))).entity].add(number)
    together = sorted(map(sorted, groups.values()))
    assert together == [[97, 100], [105, 108, 109], [130, 144, 156], [169], [278]]


def test_entities_group_by_location_size_and_end(tmp_path):
    path = saved(tmp_path, "x.mat", sensors(1))
    seen = defaultdict(set)
    for number, test in cwru.TESTS.items():
        recording = read(path.replace(tmp_path / f"{number}.mat"))
        path = tmp_path / f"{number}.mat"
        seen[test.fault, test.mils, test.end].add(recording.entity)
    assert all(len(names) == 1 for names in seen.values())
    assert len(set.union(*seen.values())) == len(seen)


# FEMTO: one file

LINES = [(9, 39, 39, 65664 + 39 * i, 0.552 - i / 8, -0.146 + i / 16) for i in range(8)]


def written(root, bearing, k, separator=",", lines=LINES, name="acc_{:05d}.csv"):
    folder = root / bearing
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name.format(k)
    path.write_text("".join(separator.join(str(value) for value in line) + "\n" for line in lines))
    return path


def femto_read(*paths):
    reader = femto.reader(list(paths))
    return [reader(path) for path in paths]


def test_the_last_two_of_six_columns_become_the_channels(tmp_path):
    (recording,) = femto_read(written(tmp_path, "Bearing2_7", 1))
    assert np.array_equal(recording.signal, np.array([line[4:] for line in LINES]))
    assert (recording.id, recording.system, recording.entity) == ("Bearing2_7-00001", "femto", "Bearing2_7")
    assert (recording.rate_hz, recording.anomaly) == (25_600, None)


@pytest.mark.parametrize(
    ("bearing", "rpm", "load"), [("1_4", "1800", "4000"), ("2_1", "1650", "4200"), ("3_3", "1500", "5000")]
)
def test_the_condition_follows_from_the_bearing(tmp_path, bearing, rpm, load):
    (recording,) = femto_read(written(tmp_path, f"Bearing{bearing}", 1))
    assert recording.columns == {"condition": bearing[0], "rpm": rpm, "load": load}


def test_commas_and_semicolons_give_the_same_samples(tmp_path):
    comma, semicolon = femto_read(written(tmp_path, "Bearing1_1", 1), written(tmp_path, "Bearing1_4", 1, ";"))
    assert np.array_equal(comma.signal, semicolon.signal)


def test_microseconds_in_scientific_notation_are_read(tmp_path):
    lines = [(9, 39, 39, "1.5004e+05", "-1.2e-02", "3.0E+00"), (9, 39, 39, "1.5008e+05", ".5", "-0")]
    (recording,) = femto_read(written(tmp_path, "Bearing1_1", 1, lines=lines))
    assert recording.signal.tolist() == [[-0.012, 3], [0.5, 0]]


def test_windows_line_ends_and_a_missing_last_one_are_read(tmp_path):
    path = written(tmp_path, "Bearing1_1", 1)
    path.write_bytes(path.read_bytes().strip().replace(b"\n", b"\r\n"))
    (recording,) = femto_read(path)
    assert np.array_equal(recording.signal, np.array([line[4:] for line in LINES]))


def test_the_remaining_life_counts_from_the_number_in_the_name(tmp_path):
    # numbers 3, 4 and 10: the position in the list would say 20, 10 and 0
    recordings = femto_read(
        *(written(tmp_path, "Bearing1_1", k) for k in (10, 3, 4)), written(tmp_path, "Bearing2_1", 5)
    )
    assert [r.rul_s for r in recordings] == [0, 70, 60, 0]


def test_a_tab_separated_file_is_refused_with_its_first_line(tmp_path):
    path = written(tmp_path, "Bearing1_1", 1, "\t")
    with pytest.raises(
        DataError, match=r"acc_00001\.csv does not have 6 columns separated by , or ; in its first line: '9"
    ):
        femto_read(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [((9, 39, 39, 1), "short"), ((9, 39, 39, 1, 0.1, 0.2, 0.3), "long"), ((9, 39, 39, 1, "x", 0.2), "text")],
    ids=["short", "long", "text"],
)
def test_a_line_that_is_not_six_numbers_is_refused(tmp_path, line, why):
    path = written(tmp_path, "Bearing1_1", 1, lines=[*LINES, line])
    with pytest.raises(DataError, match=r"acc_00001\.csv: line \d+ is not 6 numbers"):
        femto_read(path)


def test_a_line_that_is_not_six_numbers_is_refused_with_its_number(tmp_path):
    path = written(tmp_path, "Bearing1_1", 1, lines=[*LINES, (9, 39, 39, 1), *LINES])
    with pytest.raises(DataError, match=r"line 9\b"):
        femto_read(path)


def test_a_file_of_one_sample_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"acc_00001\.csv holds 1 samples, which is no recording"):
        femto_read(written(tmp_path, "Bearing1_1", 1, lines=LINES[:1]))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00"], ids=["empty", "blank", "binary"])
def test_a_file_without_text_is_refused(tmp_path, content):
    path = written(tmp_path, "Bearing1_1", 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"acc_00001\.csv"):
        femto_read(path)


@pytest.mark.parametrize(
    ("folder", "name", "reason"),
    [
        ("Learning_set/Bearing1_1", "temp_{:05d}.csv", "temperature"),
        ("Test_set/Bearing1_3", "acc_{:05d}.csv", "Test_set ends before the failure"),
        ("test_set/Bearing1_3", "acc_{:05d}.csv", "Test_set ends before the failure"),
        ("Learning_set/Bearing1_1", "acc_{:05d}.txt", "not BearingX_Y/acc_NNNNN.csv"),
        ("Learning_set/Bearing4_1", "acc_{:05d}.csv", "not BearingX_Y/acc_NNNNN.csv"),
    ],
)
def test_a_file_without_a_known_remaining_life_is_not_wanted(tmp_path, folder, name, reason):
    path = written(tmp_path, folder, 1, name=name)
    with pytest.raises(NotWantedError, match=reason):
        femto_read(path)


def test_the_cut_test_set_does_not_shorten_the_life_nor_become_part_of_it(tmp_path):
    full = written(tmp_path, "Full_Test_Set/Bearing1_3", 9)
    cut = written(tmp_path, "Test_set/Bearing1_3", 12)
    assert femto.reader([full, cut])(full).rul_s == 0


def test_the_cut_test_set_is_not_wanted_from_inside_it_either(tmp_path, monkeypatch):
    written(tmp_path, "Test_set/Bearing1_3", 1)
    monkeypatch.chdir(tmp_path / "Test_set")
    (path,) = files_below(Path("."))
    with pytest.raises(NotWantedError, match="Test_set ends before the failure"):
        femto_read(path)


# measured files


@pytest.fixture(scope="module")
def measured_cwru(tmp_path_factory):
    files = files_below(real_data("cwru"))
    path = tmp_path_factory.mktemp("cwru") / "cwru.h5"
    return prepare(files, cwru.reader(48_000), path), Store(path)


def test_the_measured_cwru_files_are_all_read(measured_cwru):
    done, store = measured_cwru
    assert (done.recordings, len(store.recordings), done.broken) == (19, 19, [])
    assert [path.name for path, _ in done.skipped] == ["labels.csv"]
    assert {r.id: r.rate_hz for r in store.recordings} == dict.fromkeys((r.id for r in store.recordings), 12_000) | {
        "97": 48_000
    }


def test_the_measured_cwru_bearings_are_ten_entities(measured_cwru):
    groups = defaultdict(set)
    for recording in measured_cwru[1].recordings:
        groups[recording.entity].add(int(recording.id))
    pairs = {(n, n + 3) for n in (105, 118, 130, 169, 185, 197, 209, 222, 234)}  # 0 hp and 3 hp
    assert {tuple(sorted(group)) for group in groups.values()} == pairs | {(97,)}


def test_the_measured_cwru_signals_are_those_that_were_published(measured_cwru):
    import csv

    store, by_id = measured_cwru[1], {r.id: r for r in measured_cwru[1].recordings}
    with (real_data("cwru") / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 19
    for row in rows:
        recording = by_id[row["file"].removesuffix(".mat")]
        signal = store.signal(recording, 0, recording.length)[:, 0].astype(float)
        assert recording.length == int(row["de_samples"])
        assert np.sqrt((signal**2).mean()) == pytest.approx(float(row["de_rms"]), abs=1e-4)
        assert (signal.min(), signal.max()) == pytest.approx((float(row["de_min"]), float(row["de_max"])), abs=1e-4)
        assert recording.columns["load"] == row["load_hp"]
        assert float(recording.columns["rpm"]) == float(row["rpm_in_file"])
        kind = {"Normal": "healthy", "IR": "inner", "B": "ball", "OR@6": "outer"}[row["fault"]]
        assert recording.columns["fault"] == kind
        assert float(recording.columns["mils"] or 0) / 1000 == float(row["diameter_inch"])


def test_the_measured_normal_file_is_at_12_khz_when_asked():
    assert cwru.reader(12_000)(real_data("cwru") / "97.mat").rate_hz == 12_000


def test_the_measured_femto_files_are_all_read_with_their_remaining_life(tmp_path):
    files = files_below(real_data("femto"))
    done = prepare(files, femto.reader(files), tmp_path / "femto.h5")
    store = Store(tmp_path / "femto.h5")
    assert (done.recordings, done.broken) == (163, [])
    assert [(path.name, reason) for path, reason in done.skipped] == [("temp_00001.csv", "temperature, 0.1 Hz")]
    first = {r.entity: r for r in reversed(store.recordings)}
    assert {entity: (r.id, r.rul_s) for entity, r in first.items()} == {
        "Bearing3_1": ("Bearing3_1-00001", 5140),
        "Bearing2_7": ("Bearing2_7-00001", 2290),
    }
    assert {r.length for r in store.recordings} == {2560}
    assert min(r.rul_s for r in store.recordings) == 0
