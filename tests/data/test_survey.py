"""The sizes that a plan is made for are those of the data that a run is made of."""

import h5py
import numpy as np
import pytest

from tests.data.conftest import raw
from vibench.data.build import build, survey
from vibench.data.writing import write_store
from vibench.errors import DataError
from vibench.model import targets

NAMED = {"train": ["a", "b"], "test": ["c"]}
ONE = ("~task.anomaly_detection", "~task.signal_prediction", "~task.rul_prediction")
DEMO = {
    "as it comes": (),
    "windows that overlap": ("data.stride=96",),
    "few labels": ("data.labels_per_class=2", "~task.signal_prediction"),
    "labels are few, all windows stay": ("data.labels_per_class=2",),
    "one system": ("+data.only.system=[motor]",),
    "two classes": ("+data.only.fault=[healthy,inner]", "~task.rul_prediction"),
    "another label": ("data.label=rpm", "~task.rul_prediction"),
    "other shares": ("data.split.fractions=[0.5,0.25,0.25]", "data.split.seed=3"),
    "no validation": ("data.split.fractions=[0.7,0,0.3]", "training.monitor=null"),
    "whole systems": (
        "data.split.by=system",
        "data.split.train=[motor]",
        "data.split.test=[rig]",
        "data.normalisation=recording",
        "training.monitor=null",
    ),
    "by time": ("data.split.by=time", "data.allow_leaky=true", "data.duration_s=0.2"),
    "a long forecast": ("task.signal_prediction.horizon=672",),
    "no forecast": ("~task.signal_prediction",),
}


def sizes(data):
    """Of what was built, from its batches."""
    return {
        "windows": {name: sum(map(len, data.loader(name, 50))) for name in data.splits},
        "n_channels": next(iter(data.loader("test", 1))).signal.shape[1],
        "n_classes": len(data.classes),
    }


def told(found):
    return {"windows": found.windows, "n_channels": found.n_channels, "n_classes": found.n_classes}


@pytest.mark.parametrize("options", DEMO.values(), ids=DEMO)
def test_a_survey_tells_what_is_built(tiny, options):
    config = tiny(*options)
    wanted = targets(config)
    data = build(config.data, wanted)
    found = survey(config.data, wanted)
    assert told(found) == sizes(data)


def test_these_demos_are_not_all_of_one_size(tiny):
    """Else a constant would pass."""
    found = [survey(config.data, targets(config)) for config in (tiny(*options) for options in DEMO.values())]
    assert len({tuple(one.windows.values()) for one in found}) > 6
    assert {one.n_channels for one in found} == {2, 3}
    assert len({one.n_classes for one in found}) > 1


def test_few_labels_leave_few_windows(tiny):
    """Two of each of four classes, where a window is of use to nothing else."""
    config = tiny("data.labels_per_class=2", *ONE)
    found = survey(config.data, targets(config))
    assert found.windows["train"] == 2 * found.n_classes
    assert found.windows["test"] > found.windows["train"]


@pytest.fixture
def surveyed(config_of, tmp_path):
    """A store of recordings, surveyed and built: what each of them says."""

    def call(recordings, wanted=None, **values):
        write_store(tmp_path / "made.h5", recordings)
        config = config_of(tmp_path / "made.h5", **values)
        return lambda: survey(config, wanted or {}), lambda: build(config, wanted or {})

    return call


def three(*, c=256):
    return [
        raw(name, samples=samples, columns={"fault": "inner"}) for name, samples in (("a", 256), ("b", 256), ("c", c))
    ]


def test_recordings_that_no_split_holds_add_no_class_and_no_channel(surveyed):
    other = raw("d", system="other", channels=3, columns={"fault": "outer"})
    look, make = surveyed([*three(), other], split=NAMED | {"train": ["a"]})
    assert told(look()) == sizes(make()) == {"windows": {"train": 8, "test": 8}, "n_channels": 1, "n_classes": 1}
    look, make = surveyed([*three(), other], split={"train": ["a", "d"], "test": ["b"]})
    assert told(look()) == sizes(make()) == {"windows": {"train": 16, "test": 8}, "n_channels": 3, "n_classes": 2}


WRONG = {
    "a value that is not there": ({"only": {"fault": ["outer"]}}, r"data\.only\.fault names outer"),
    "a split that names nobody": ({"split": NAMED | {"test": ["d"]}}, r"data\.split\.test names d"),
    "a split of nothing": ({"split": NAMED, "c": 20, "allow_short": True}, r"test has no window"),
    "a recording that is short": ({"split": NAMED | {"train": ["a"]}, "window": 300}, r"train has no window"),
    "some that are short": (
        {"split": NAMED | {"test": ["b", "c"], "train": ["a"]}, "c": 20},
        r"1 recordings are short",
    ),
    "labels that are not there": ({"split": NAMED, "labels_per_class": 50}, r"data\.labels_per_class=50 exceeds"),
    "a column that is not there": ({"split": {"by": "colour"}}, r"the store has no column colour"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_the_words_of_the_build(surveyed, all_targets, case):
    values, words = WRONG[case]
    values = dict(values)
    wanted = {"classification": all_targets["classification"]}
    said = []
    for call in surveyed(three(c=values.pop("c", 256)), wanted, **values):
        with pytest.raises(DataError, match=words) as caught:
            call()
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_file_that_is_no_store_is_told_as_by_the_build(config_of, tmp_path):
    (tmp_path / "made.h5").write_bytes(b"text")
    for call in (survey, build):
        with pytest.raises(DataError, match=r"made\.h5 cannot be read as a store"):
            call(config_of(tmp_path / "made.h5"), {})


def test_no_sample_is_read(config_of, tmp_path):
    """A build refuses what is not a number; a survey does not see it."""
    path = tmp_path / "made.h5"
    write_store(path, three())
    with h5py.File(path, "r+") as file:
        file["systems/rig/signal"][77, 0] = np.nan
    config = config_of(path, split=NAMED)
    assert survey(config, {}).windows == {"train": 16, "test": 8}
    with pytest.raises(DataError, match=r"first at sample 77"):
        build(config, {})
