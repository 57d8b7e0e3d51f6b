"""Labels as recorders write them, and channels made of the signals that are there."""

import pytest

from vibench.data.eeg.montage import NEIGHBOURS, clean, interpolated, mixing
from vibench.errors import DataError

TEN_TWENTY = ["Fp1", "F3", "C3", "P3", "O1", "F7", "T7", "P7", "Fz", "Cz", "Pz"]
TEN_TWENTY += ["Fp2", "F4", "C4", "P4", "O2", "F8", "T8", "P8"]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("EEG FP1-REF", "Fp1"),  # TUSZ
        ("EEG T3-LE", "T7"),
        ("EEG A1-REF", "A1"),
        ("EEG EKG1-REF", "EKG1"),
        ("EEG Fp1", "Fp1"),  # Siena
        ("EEG CZ", "Cz"),
        ("FP1-F7", "Fp1-F7"),  # CHB-MIT
        ("FZ-CZ", "Fz-Cz"),
        ("T3-C3", "T7-C3"),
        ("FT9-FT10", "FT9-FT10"),
        ("T8-CS2", "T8"),
        ("LOC-ROC", "LOC-ROC"),
        ("fp2 - ref", "Fp2"),
        ("Fp1-Ref", "Fp1"),
        ("T6-AR", "P8"),
        ("C4-A1", "C4"),
        ("O2-M1", "O2"),
        ("Pz-A1A2", "Pz"),
        ("EEG-Oz", "Oz"),
        ("POL T4", "T8"),
        ("EEG AFZ-Avg", "AFz"),
        ("Fc5.", "FC5"),
        ("EEG Fpz", "Fpz"),
        ("  cPz ", "CPz"),
        ("EEG", "EEG"),
        ("EEG 1", "1"),
        ("-", "-"),
        ("--0", "--0"),
        ("", ""),
        ("SpO2", "SPO2"),
    ],
)
def test_a_label_becomes_the_name_of_its_electrode_or_pair(label, name):
    assert clean(label) == name


@pytest.mark.parametrize("name", TEN_TWENTY)
def test_a_name_of_the_10_20_system_stays_as_it_is(name):
    assert clean(name) == clean(clean(f"EEG {name.upper()}-REF")) == name


def mix(labels, channels, interpolate=()):
    return mixing(labels, channels, list(interpolate), "x.edf")


def test_electrodes_are_found_by_name_in_the_order_of_the_channels():
    assert mix(["EEG O2-REF", "ECG", "EEG T3-REF", "EEG FP1-REF"], ["Fp1", "T7", "O2"]) == [{3: 1}, {2: 1}, {0: 1}]


def test_a_pair_is_the_signal_of_that_name_before_it_is_a_difference():
    assert mix(["Fp1", "F7", "FP1-F7"], ["Fp1-F7"]) == [{2: 1}]
    assert mix(["Fp1", "F7"], ["Fp1-F7"]) == [{0: 1, 1: -1}]
    assert mix(["EEG T5-REF", "EEG T3-REF"], ["T7-P7"]) == [{1: 1, 0: -1}]


def test_a_pair_that_was_recorded_the_other_way_round_is_turned():
    assert mix(["P7-T7"], ["T7-P7"]) == [{0: -1}]


def test_a_pair_with_an_ear_is_not_taken_for_an_electrode():
    assert mix(["EEG T4-REF", "EEG A2-REF"], ["T8-A2"]) == [{0: 1, 1: -1}]
    assert mix(["T4-A2"], ["T8-A2"]) == mix(["T4-A2"], ["T8"]) == [{0: 1}]


def test_of_two_signals_with_one_name_the_first_is_taken():
    assert mix(["T8-P8", "FZ-CZ", "T8-P8"], ["T8-P8"]) == [{0: 1}]
    assert mix(["EEG T3-REF", "T7"], ["T7"]) == [{0: 1}]


def test_the_midline_is_made_of_its_two_sides_without_cz():
    labels = ["F3", "F4", "Cz", "P3", "P4"]
    assert mix(labels, ["Fz", "Cz", "Pz"], ["Fz", "Pz"]) == [{0: 0.5, 1: 0.5}, {2: 1}, {3: 0.5, 4: 0.5}]
    assert interpolated(labels, ["Fz", "Cz", "Pz"], ["Fz", "Pz"]) == ["Fz", "Pz"]


def test_an_electrode_that_is_there_is_not_interpolated():
    labels = ["F3", "F4", "Fz"]
    assert mix(labels, ["Fz"], ["Fz"]) == [{2: 1}]
    assert interpolated(labels, ["Fz"], ["Fz"]) == []


def test_a_lateral_electrode_is_the_mean_of_the_neighbours_that_are_there():
    assert mix(["Fp2", "F3"], ["Fp1"], ["Fp1"]) == [{0: 0.5, 1: 0.5}]
    assert mix(["Fp2", "F7", "F3"], ["Fp1"], ["fp1"]) == [pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})]


def test_a_pair_takes_an_interpolated_electrode():
    assert mix(["F3", "F4", "Cz"], ["Fz-Cz"], ["Fz"]) == [{0: 0.5, 1: 0.5, 2: -1}]
    assert mix(["F3", "F4"], ["F3-Fz"], ["Fz"]) == [{0: 0.5, 1: -0.5}]
    assert interpolated(["F3", "F4", "Cz"], ["Fz-Cz"], ["Fz"]) == ["Fz"]


def test_one_neighbour_alone_is_not_a_mean():
    with pytest.raises(DataError, match=r"x\.edf lacks Fz; it has F3, Cz;"):
        mix(["F3", "Cz"], ["Fz"], ["Fz"])


def test_an_electrode_is_not_interpolated_from_an_interpolated_one():
    with pytest.raises(DataError, match="lacks Fz;"):
        mix(["Fp1", "C3", "F4"], ["F3", "Fz"], ["Fz", "F3"])


def test_all_missing_channels_are_named_at_once_with_what_the_file_has():
    with pytest.raises(DataError, match=r"x\.edf lacks Fz, O1, Fp1-F7; it has Cz, ECG; name .* data\.preprocessing\."):
        mix(["EEG CZ-REF", "ECG", "EEG CZ-LE"], ["Fz", "Cz", "O1", "Fp1-F7"])
    with pytest.raises(DataError, match="it has no signal"):
        mix([], ["Fz"])


def test_a_difference_of_two_references_is_refused():
    with pytest.raises(DataError, match=r"lacks F7-T7 \(F7 and T7 have different references\)"):
        mix(["F7-A1", "T7-A2"], ["F7-T7"])
    assert mix(["F7-A1", "T7-A1"], ["F7-T7"]) == [{0: 1, 1: -1}]


def test_neighbours_are_mutual_but_for_the_midline():
    for name, others in NEIGHBOURS.items():
        assert set(others) <= set(TEN_TWENTY) - {name}
    assert set(NEIGHBOURS) == set(TEN_TWENTY)
