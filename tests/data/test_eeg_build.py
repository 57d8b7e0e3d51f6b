"""Splits of records with seizures: what cannot be scored is refused, what is unknown is left out of nothing but the
labels, and a plan's sizes are those of what is built."""

from dataclasses import replace

import pytest

from tests.data.conftest import patient
from vibench.config.data import Normalisation
from vibench.data.build import build, survey
from vibench.data.eeg.preparation import preparation_of
from vibench.data.writing import write_store
from vibench.errors import DataError
from vibench.model import targets

TASK = "seizure_detection"
NAMED = {"train": ["a", "b"], "val": ["d"], "test": ["c"]}


def four(**changed):
    made = {name: patient(name, 320, (100, 160)) for name in "abcd"}
    return list((made | changed).values())


@pytest.fixture
def made(eeg):
    return lambda recordings, **values: eeg(recordings, **{"split": NAMED} | values)


# what can be scored


def test_a_test_without_a_seizure_is_refused_with_a_remedy(made):
    with pytest.raises(
        DataError,
        match=r"eeg\.h5: the labels of test for seizure_detection are all 0\.0, so its metrics are not defined; "
        r"leave the task out \(~task\.seizure_detection\) or split otherwise",
    ):
        made(four(c=patient("c", 320)))


def test_a_test_of_nothing_but_a_seizure_is_refused(made):
    with pytest.raises(DataError, match=r"the labels of test for seizure_detection are all 1\.0"):
        made(four(c=patient("c", 320, (0, 320))))


def test_what_a_short_record_is_filled_up_with_does_not_make_a_test_that_can_be_scored(made):
    """20 samples, all of a seizure, in a window of 32."""
    with pytest.raises(DataError, match=r"the labels of test for seizure_detection are all 1\.0"):
        made(four(c=patient("c", 20, (0, 20))))


@pytest.mark.parametrize("span", [(0, 1), (150, 151), (319, 320)])
def test_one_sample_of_a_seizure_anywhere_is_enough(made, span):
    assert made(four(c=patient("c", 320, span))).certificate["splits"]["test"]["labelled_windows"] == {TASK: 19}


def test_a_validation_without_a_seizure_is_refused_since_thresholds_are_found_there(made):
    with pytest.raises(DataError, match=r"the labels of val for seizure_detection are all 0\.0"):
        made(four(d=patient("d", 320)))


@pytest.mark.parametrize(("name", "split"), [("a", "train"), ("d", "val"), ("c", "test")])
def test_a_split_of_which_nothing_is_known_is_refused_by_its_name(made, name, split):
    unknown = four(**{name: patient(name, 320, unknown=True)})
    with pytest.raises(DataError, match=rf"no window of {split} has a label for seizure_detection"):
        made(unknown, split=NAMED | {"train": ["a"]}, background_per_partial=None, ictal_per_partial=None)


def test_a_record_of_which_nothing_is_known_is_in_the_certificate_as_such(made):
    data = made(four(b=patient("b", 320, unknown=True)))
    train = data.certificate["splits"]["train"]
    assert (train["windows"], train["labelled_windows"], train["entities"]) == (38, {TASK: 19}, ["a", "b"])
    assert data.splits["train"].labels(TASK).shape == (19,)


def test_the_seizures_of_a_patient_spread_the_patients_over_the_splits(eeg):
    """Stratified by the column ``seizures``: every split has of both."""
    people = [patient(f"y{i}", 320, (100, 160), columns={"seizures": "yes"}) for i in range(6)]
    people += [patient(f"n{i}", 320, columns={"seizures": "no"}) for i in range(6)]
    for seed in range(4):
        data = eeg(people, split={"seed": seed})
        assert data.classes == ["no", "yes"]
        for part in data.certificate["splits"].values():
            assert {name[0] for name in part["entities"]} == {"y", "n"}


# what else stands in them


def test_the_statistics_of_the_training_know_nothing_of_the_record_after_a_short_one(made):
    short = {"b": patient("b", 20, (3, 9))}
    batches = [
        made(four(**short, c=patient("c", 320, (100, 160), signal=signal)), normalisation=Normalisation.train)
        for signal in (patient("c", 320).signal, 1e3 * patient("z", 320).signal)
    ]
    first, second = (data.splits["train"].__getitems__([0, 19]).signal for data in batches)
    assert first.equal(second)


def test_what_is_known_of_seizures_is_part_of_what_a_run_goes_on_with(made):
    plain = made(four()).fingerprint()
    assert made(four()).fingerprint() == plain
    for other in (patient("a", 320), patient("a", 320, (100, 161)), patient("a", 320, unknown=True)):
        assert made(four(a=other)).fingerprint() != plain
    none, unknown = made(four(a=patient("a", 320))), made(four(a=patient("a", 320, unknown=True)))
    assert none.fingerprint() != unknown.fingerprint()


# the sizes that a plan is made for


CASES = {
    "as it comes": {},
    "all windows": {"background_per_partial": None, "ictal_per_partial": None},
    "more background": {"background_per_partial": 6.0},
    "short records": {"window": 400, "stride": 16, "background_per_partial": None, "ictal_per_partial": None},
    "windows that do not overlap": {"stride": 32},
    "patients drawn": {"split": {"seed": 2}},
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_a_survey_tells_what_is_built(eeg_of, seizures_of, tmp_path, values):
    config = eeg_of(tmp_path / "eeg.h5", **{"split": NAMED} | values)
    write_store(tmp_path / "eeg.h5", four(b=patient("b", 330, (40, 90))), preparation_of(config.preprocessing))
    data, found = build(config, seizures_of(config)), survey(config, seizures_of(config))
    assert found.windows == {
        "train": sum(map(len, data.loader("train", 5, seed=0))),
        "val": sum(map(len, data.loader("val", 5))),
        "test": sum(map(len, data.loader("test", 5))),
    }
    assert (found.n_channels, found.n_classes) == (data.n_channels, len(data.classes)) == (2, 0)


def test_a_survey_refuses_a_store_that_was_prepared_otherwise(eeg_of, seizures_of, tmp_path):
    config = eeg_of(tmp_path / "eeg.h5", split=NAMED)
    write_store(tmp_path / "eeg.h5", four(), preparation_of(replace(config.preprocessing, notch_hz=50)))
    for call in (survey, build):
        with pytest.raises(
            DataError, match=r"eeg\.h5 was prepared otherwise: data\.preprocessing\.notch_hz=60\.0, there 50;"
        ):
            call(config, seizures_of(config))


def test_seizures_and_machines_may_be_asked_of_one_store(shipped_eeg, eeg_of, tmp_path, resolved):
    """A task of one number per window beside one of every sample."""
    config = eeg_of(tmp_path / "eeg.h5", split=NAMED)
    people = [replace(each, columns={"seizures": "yes"}, anomaly=each.id == "a") for each in four()]
    people += [replace(each, id=f"{each.id}2", anomaly=each.id != "a") for each in people]
    write_store(tmp_path / "eeg.h5", people, preparation_of(config.preprocessing))
    both = replace(shipped_eeg, data=config, task=shipped_eeg.task | resolved("task=anomaly_detection").task)
    data = build(config, targets(both))
    batch = data.splits["train"].__getitems__([0, 1])
    assert {name: tuple(mask.shape) for name, mask in batch.present.items()} == {
        TASK: (2, 32),
        "anomaly_detection": (2,),
    }
