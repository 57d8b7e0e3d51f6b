"""The picture of a record: what is in it, and what of it is on disk."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from vibench.errors import ConfigError
from vibench.report.seizure_picture import Timeline, draw_seizures

pytest.importorskip("matplotlib")

RECORD = {
    "channels": ["Fp1", "Fz-Cz"],
    "duration_s": 600.0,
    "power": np.linspace(1, 90, 60).reshape(2, 30),
    "probability": np.linspace(0.1, 0.9, 30),
    "threshold": 0.625,
    "events": [(60.0, 90.0), (400.0, 460.0)],
    "reference": [(70.0, 100.0)],
}


@pytest.fixture
def words(tmp_path):
    """The texts of a picture, in order."""

    def call(title="record.edf", **changes):
        draw_seizures(Timeline(**RECORD | changes), title, tmp_path / "x.svg")
        content = (tmp_path / "x.svg").read_text()
        ElementTree.fromstring(content)
        return re.findall(r"<!-- (.*?) -->", content)

    return call


def test_channels_threshold_and_events_are_named(words):
    shown = words()
    for text in ("record.edf", "Fp1", "Fz-Cz", "found: 2", "annotated: 1", "RMS, µV", "min"):
        assert text in shown
    assert any(re.fullmatch(r"threshold 0\.6[23]", text) for text in shown)


def test_without_annotations_none_are_named(words):
    shown = words(reference=None)
    assert "found: 2" in shown
    assert not any(text.startswith("annotated") for text in shown)


def test_a_record_without_a_seizure_is_drawn(words):
    shown = words(events=[], reference=[])
    assert not any(text.startswith(("found", "annotated")) for text in shown)
    assert "Fp1" in shown


@pytest.mark.parametrize(("duration_s", "unit"), [(30.0, "min"), (7200.0, "min"), (7201.0, "h"), (86_400.0, "h")])
def test_a_night_is_told_in_hours(words, duration_s, unit):
    assert unit in words(duration_s=duration_s)


@pytest.mark.parametrize("level", [0.0, 1e-9, 50.0, 1e6])
def test_a_record_that_does_not_move_is_drawn(words, level):
    assert "Fp1" in words(power=np.full((2, 30), level))


def test_one_point_is_enough(words):
    assert "Fp1" in words(power=np.ones((2, 1)), probability=np.ones(1), events=[(0.0, 600.0)])


@pytest.mark.parametrize("title", ["a$1_$b.edf", "a_$.edf", "nächte & <tage>.edf", r"\frac.edf"])
def test_any_name_of_a_file_is_a_title(words, title):
    assert title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in words(title) or title in words(
        title
    )


@pytest.mark.parametrize("name", ["absent/x.svg", "x.nothing"])
def test_a_picture_that_cannot_be_written_is_refused_by_name(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"{name.replace('.', '[.]')} cannot be written: "):
        draw_seizures(Timeline(**RECORD), "record.edf", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_replaces_the_one_before_whole(tmp_path):
    for threshold in (0.2, 0.7):
        draw_seizures(Timeline(**RECORD | {"threshold": threshold}), "record.edf", tmp_path / "x.svg")
    assert "threshold 0.70" in (tmp_path / "x.svg").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]
