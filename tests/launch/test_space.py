"""What a search draws from, as it is typed in Hydra's grammar, and what a trial reached."""

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from vibench.errors import ConfigError
from vibench.launch.space import SAMPLES, distribution, samples, told, typed, validations

distributions = pytest.importorskip("optuna", reason="the extra vibench[search] is not installed").distributions
CATEGORIES, FLOAT, INT = (
    distributions.CategoricalDistribution,
    distributions.FloatDistribution,
    distributions.IntDistribution,
)


def drawn_from(text):
    (override,) = OverridesParser.create().parse_overrides([text])
    return distribution(override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backbone=dlinear,fno", CATEGORIES(["dlinear", "fno"])),
        ("d_model=16,32", CATEGORIES(["16", "32"])),
        ("training.lr=choice(0.1,0.2)", CATEGORIES(["0.1", "0.2"])),
        ("data.only.fault=[a,b],[c]", CATEGORIES(["[a,b]", "[c]"])),
        ("training.patience=null,3", CATEGORIES(["null", "3"])),
        ("d_model=range(32,129,32)", INT(32, 128, step=32)),
        ("d_model=range(1,4)", INT(1, 3)),
        ("d_model=shuffle(range(1,4))", INT(1, 3)),
        ("backbone.dropout=range(0,0.3,0.1)", CATEGORIES(["0.0", "0.1", "0.2"])),
        ("backbone.dropout=interval(0.0,0.5)", FLOAT(0.0, 0.5)),
        ("training.lr=tag(log,interval(1e-4,1e-2))", FLOAT(1e-4, 1e-2, log=True)),
        ("backbone.dropout=interval(0,1)", FLOAT(0.0, 1.0)),  # Hydra takes all numbers of an interval for fractions
        ("d_model=int(interval(1,64))", INT(1, 64)),
        ("d_model=tag(log,int(interval(1,64)))", INT(1, 64, log=True)),
    ],
)
def test_values_are_drawn_from_what_was_typed(text, expected):
    assert drawn_from(text) == expected


def test_a_range_of_one_number_and_a_shuffled_choice_are_categories():
    assert drawn_from("d_model=range(16,17)") == CATEGORIES(["16"])
    assert drawn_from("backbone=shuffle(tcn,fno)") == CATEGORIES(["fno", "tcn"])


@pytest.mark.parametrize(
    "text", ["d_model=interval(64,1)", "training.lr=tag(log,interval(0,1))", "training.lr=interval(2.0,-1.0)"]
)
def test_what_is_no_interval_is_refused_with_how_to_write_one(text):
    with pytest.raises(
        ConfigError, match="is no interval; give two numbers, the smaller first, above 0 for log"
    ) as error:
        drawn_from(text)
    assert str(error.value).startswith(text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_that_was_drawn_is_the_number_of_the_run(value):
    key, _, text = typed("training.lr", value).partition("=")
    assert (key, float(text)) == ("training.lr", value)


@pytest.mark.parametrize(("value", "words"), [(0.00012345678, "k=0.0001235"), (32, "k=32"), ("[a,b]", "k=[a,b]")])
def test_a_reader_is_told_fewer_digits(value, words):
    assert told("k", value) == words


def test_samples_begin_with_the_first_values_and_stay_within_the_space():
    space = {"d_model": INT(16, 64, step=16), "backbone": CATEGORIES(["fno", "tcn"])}
    found = list(samples(space))
    assert found[0] == ["d_model=16", "backbone=fno"]
    assert len(found) == 1 + SAMPLES
    assert {one[0] for one in found} == {f"d_model={n}" for n in (16, 32, 48, 64)}
    assert {one[1] for one in found} == {"backbone=fno", "backbone=tcn"}


# what a trial reached


def test_every_validation_counts_by_its_step(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n10,1.0,\n20,,0.5\n30,0.9,\n40,,0.25\n")
    assert validations(tmp_path, "loss") == {20: 0.5, 40: 0.25}
    assert validations(tmp_path, "classification/auroc") == {}


def test_what_is_no_number_or_not_yet_written_does_not_count(tmp_path):
    assert validations(tmp_path, "loss") == {}
    (tmp_path / "metrics.csv").write_text("step,val/loss\n10,nan\n20,inf\n30,0.5\n4")
    assert validations(tmp_path, "loss") == {30: 0.5}
    assert all(math.isfinite(value) for value in validations(tmp_path, "loss").values())
