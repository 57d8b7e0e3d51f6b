"""The jobs of a sweep, as Hydra would run them, against products written out."""

from itertools import product

import pytest

from vibench.config import schemas
from vibench.config.compose import complaints_about_sweep, jobs_of


@pytest.fixture(scope="module", autouse=True)
def registered(cache):
    schemas.register()


def test_the_jobs_are_every_combination_the_last_value_changing_fastest():
    lines = ["backbone=dlinear,fno", "d_model=16", "seed=range(0,3)", "training.lr=choice(0.1,0.01)"]
    expected = list(product(["dlinear", "fno"], [0, 1, 2], [0.1, 0.01]))
    jobs = jobs_of(lines)
    assert list(jobs) == [f"backbone={name} seed={seed} training.lr={lr}" for name, seed, lr in expected]
    assert list(jobs.values()) == [
        [f"backbone={name}", "d_model=16", f"seed={seed}", f"training.lr={lr}"] for name, seed, lr in expected
    ]


def test_a_job_is_named_by_what_varies_alone():
    """Also where the key of something fixed ends, or begins, like one that varies."""
    lines = ["seed=1,2", "data.split.seed=3", "training=default,smoke", "training.lr=0.1"]
    assert list(jobs_of(lines)) == [f"seed={seed} training={name}" for seed in (1, 2) for name in ("default", "smoke")]


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["+seed=1,2"], ["+seed=1", "+seed=2"]),
        (["data.split.test=[a],[b,c]"], ["data.split.test=[a]", "data.split.test=[b,c]"]),
        (["data.label='a b',c"], ["data.label='a b'", "data.label=c"]),
    ],
)
def test_a_value_is_told_as_it_would_be_typed(lines, names):
    assert list(jobs_of(lines)) == names


def test_without_anything_that_varies_there_is_one_job_without_a_name():
    jobs = jobs_of(["d_model=16", "seed=3"])
    assert jobs == {"": ["d_model=16", "seed=3"]}


def test_two_jobs_that_are_alike_are_two_jobs():
    """Hydra runs both."""
    assert len(jobs_of(["seed=1,1"])) == 2


def test_a_complaint_is_told_once_with_the_first_job_it_concerns():
    said = complaints_about_sweep(["d_model=65,64", "seed=-1,0", "training.epochs=0"])
    assert [complaint.split(": ")[0] for complaint in said] == ["d_model=65 seed=-1"] * 3
    assert [complaint.split(": ")[1].split()[0] for complaint in said] == ["seed=-1", "training.epochs=0", "d_model=65"]


def test_what_is_left_out_is_left_out_of_every_job():
    """Hydra's own words for it have a value: ``~task.rul_prediction=null``."""
    wrong = "training.monitor=rul_prediction/mae"
    assert complaints_about_sweep(["seed=1,2", wrong]) == []
    (said,) = complaints_about_sweep(["seed=1,2", wrong, "~task.rul_prediction"])
    assert said.startswith(f"seed=1: {wrong} is produced by no enabled task")


@pytest.mark.parametrize("line", ["backbone=glob(*)", "training.lr=interval(0,1)"])
def test_a_sweep_that_cannot_be_laid_out_is_not_told_to_be_what_it_is(line):
    """It has its -m already."""
    (said,) = complaints_about_sweep([line])
    assert said.startswith(line)
    assert "use vibench-train -m" not in said
