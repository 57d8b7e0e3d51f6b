"""The picture of a plan: what is in it, and what of it is on disk."""

import re
import sys

import pytest

from vibench.errors import ConfigError
from vibench.memory.bill import PHASES
from vibench.report.picture import COLOURS, draw_memory

PLAN = {
    "precision": "bf16",
    "checkpointing": "selective",
    "micro_batch": 8,
    "accumulation": 4,
    "usable_gib": 19.685,
    "peak_gib": 3.25,
    "timeline": {
        "activations": [0.0, 1.0, 2.0, 0.5],
        "parameters": [0.5, 0.5, 0.5, 0.5],
        "temporaries": [0.0, 0.0, 0.25, 0.0],
        "input": [0.0, 0.0, 0.0, 0.0],
    },
}
PART = [name for name in COLOURS if name in ("parameters", "activations", "temporaries")]


@pytest.fixture(autouse=True)
def matplotlib():
    return pytest.importorskip("matplotlib", reason="the extra vibench[pictures] is not installed")


@pytest.fixture
def words(tmp_path):
    """The texts of a picture, in order."""

    def call(**changes):
        draw_memory(("rtx3090", PLAN | changes), tmp_path / "memory.svg")
        return re.findall(r"<!-- (.*?) -->", (tmp_path / "memory.svg").read_text())

    return call


def test_the_title_says_of_what_it_is(words):
    assert "rtx3090: bf16, checkpointing selective, micro-batch 8 x 4" in words()


def test_every_component_that_takes_something_is_named_from_the_top_down(words):
    shown = words()
    assert [text for text in shown if text in COLOURS] == PART[::-1]


def test_what_there_is_and_what_is_taken_are_lines_with_numbers(words):
    shown = words()
    assert "usable, 19.68 GiB" in shown
    assert "reserved at most, 3.25 GiB" in shown


def test_where_there_is_no_card_there_is_no_line(words):
    assert not [text for text in words(usable_gib=None) if text.startswith("usable")]


def test_the_memory_is_stacked_as_high_as_its_sum(words, tmp_path):
    """The highest point of the areas, against the line of what is reserved: both in GiB over zero."""
    words(usable_gib=None, peak_gib=2.75)  # the sum at the third moment: 2 + 0.5 + 0.25
    text = (tmp_path / "memory.svg").read_text()
    areas = [
        [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
        for path in re.findall(r'<g id="(?:FillBetween)?PolyCollection_\d+">.*?</g>', text, re.S)
    ]
    (line,) = re.findall(r'<path d="M [\d.]+ ([\d.]+) \nL [\d.]+ \1 \n" clip-path="[^"]+" style="[^"]*dasharray', text)
    assert len(areas) == len(PART)
    assert min(min(ys) for ys in areas) == pytest.approx(float(line), abs=0.01)  # y runs downwards


def test_every_component_of_a_bill_has_a_colour_of_its_own():
    """Else it would be left out of the picture without a word."""
    assert set(COLOURS) == {*PHASES.values(), "gradients", "optimizer", "activations"}
    assert len(set(COLOURS.values())) == len(COLOURS)


@pytest.mark.parametrize("name", ["memory", "memory.docx", ".svg"])
def test_a_name_without_a_kind_that_can_be_written_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"cannot be written: Format '\w+' is not supported .*; use a \.svg, \.png"):
        draw_memory(("rtx3090", PLAN), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_more_leaves_the_old_picture(tmp_path, monkeypatch, matplotlib):
    file = tmp_path / "memory.svg"
    draw_memory(("old", PLAN), file)
    old = file.read_text()

    def torn(figure, path, **_):
        path.write_text("half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", torn)
    with pytest.raises(ConfigError, match=r"memory\.svg cannot be written: .*No space left on device"):
        draw_memory(("new", PLAN), file)
    assert file.read_text() == old
    assert list(tmp_path.iterdir()) == [file]


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"--picture needs matplotlib \(.*\); pip install 'vibench\[pictures\]'"):
        draw_memory(("rtx3090", PLAN), tmp_path / "memory.svg")
