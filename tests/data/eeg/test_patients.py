"""Whose record a file is."""

from pathlib import Path

import pytest

from vibench.data.eeg.patients import patient_of
from vibench.errors import DataError

RAW = Path("/raw/eeg")


@pytest.mark.parametrize(
    ("file", "patient"),
    [
        ("sub-01/ses-01/eeg/sub-01_ses-01_task-szMonitoring_run-00_eeg.edf", "sub-01"),
        ("sub-PN00/eeg/rec.edf", "sub-PN00"),
        ("sub-01.edf", "sub-01"),
        ("chb01/chb01_03.edf", "chb01"),
        ("chb02/chb02_16+.edf", "chb02"),
        ("chb17/chb17a_03.edf", "chb17"),
        ("CHB05/CHB05_06.EDF", "chb05"),
        ("edf/train/aaaaaaac/s001_2002/02_tcp_le/aaaaaaac_s001_t000.edf", "aaaaaaac"),
        ("PN10/PN10-4.5.6.edf", "PN10"),
        ("PN06/PNO6-1.edf", "PN06"),
        ("pn00-1.edf", "PN00"),
    ],
)
def test_the_name_of_a_public_corpus_names_the_patient(file, patient):
    assert patient_of(RAW / file, RAW, "X17") == patient


def test_the_girl_who_was_recorded_twice_is_one_patient():
    assert patient_of(RAW / "chb21/chb21_01.edf", RAW, None) == patient_of(RAW / "chb01/chb01_01.edf", RAW, None)


def test_any_other_file_is_of_the_patient_in_its_header():
    assert patient_of(RAW / "a/b/night.edf", RAW, "MCH-0234567") == "MCH-0234567"


def test_a_header_without_a_patient_leaves_the_folder():
    assert patient_of(RAW / "a/b/night.edf", RAW, None) == "a"


def test_relative_paths_are_below_a_relative_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert patient_of(Path("raw/ann/night.edf"), Path("./raw/"), None) == "ann"
    assert patient_of(Path("ann/night.edf"), Path("."), None) == "ann"


def test_a_link_is_named_by_where_it_is_and_not_by_where_it_leads(tmp_path):
    """As in a DataLad data set, whose files are links into one store."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "3f2a").write_bytes(b"")
    (tmp_path / "raw" / "ann").mkdir(parents=True)
    (tmp_path / "raw" / "ann" / "night.edf").symlink_to(tmp_path / "store" / "3f2a")
    assert patient_of(tmp_path / "raw" / "ann" / "night.edf", tmp_path / "raw", None) == "ann"


@pytest.mark.parametrize("raw", [RAW, Path("/elsewhere")])
def test_a_file_of_nobody_is_refused_with_what_to_do(raw):
    with pytest.raises(
        DataError, match=r"night\.edf: nothing says whose record it is; put the records of each patient"
    ):
        patient_of(RAW / "night.edf", raw, None)
