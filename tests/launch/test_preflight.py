"""Before anything is begun: all that is wrong with all jobs, each kind of them planned once; good ones or none."""

import io
import json
import re
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console

from tests.launch.conftest import LOCAL, QUICK
from vibench.config.frozen import read
from vibench.config.plain import plain
from vibench.errors import ConfigError
from vibench.launch.launch import join, launch, submit
from vibench.launch.preflight import RefusedError, check, new_plan, print_checks
from vibench.launch.sweep import Sweep
from vibench.launch.verdict import verdict
from vibench.memory import plan as memory_plan
from vibench.memory import planner

ON_CARDS = tuple(text for text in QUICK if text != "hardware=cpu")
FINE = "hardware=cpu seed=1"
TOO_LARGE = "hardware=v100 training.global_batch_size=1000000000 training.accumulation=1"
TOO_LONG = (
    "hardware=v100 training.max_steps=null training.epochs=1000000000 hardware.slurm.time=00:00:01 "
    "hardware.slurm.requeues=0"
)
NO_DATA = "hardware=cpu +data.only.fault=[nothing]"
WRONG = "hardware=cpu d_model=0 training.lr=-1"
TWO_MACHINES = "hardware=cpu hardware.nodes=2"


pytestmark = pytest.mark.usefixtures("no_cards")


@pytest.fixture
def console():
    """What is printed, wide enough for a row."""
    return Console(file=io.StringIO(), width=250)


@pytest.fixture
def begin(tmp_path, console):
    """Launch jobs on this machine, from the directory ``sweep``; what was said."""

    def call(jobs, **launcher):
        try:
            launch(Sweep(folder=tmp_path / "sweep", launcher=LOCAL | launcher, jobs=[]), jobs, console)
        finally:
            call.said = console.file.getvalue()

    return call


def rows(text):
    """Job -> what its row says besides."""
    found = [[cell.strip() for cell in line[1:-1].split("│")] for line in text.splitlines() if line[:1] == "│"]
    return {row[0]: row[1:] for row in found}


# all that is wrong, of all jobs


def test_everything_that_is_wrong_with_every_job_is_told_at_once_and_nothing_is_begun(jobs, begin, tmp_path):
    lines = (FINE, WRONG, TOO_LARGE, TOO_LONG, NO_DATA, TWO_MACHINES)
    with pytest.raises(
        RefusedError, match=r"5 of 6 jobs are refused, nothing was started; mend them, then "
    ) as refused:
        begin(jobs(*lines, base=ON_CARDS))
    assert not refused.value.started
    assert "hydra.launcher.skip_refused=true" in str(refused.value)
    assert {number: row[2] for number, row in rows(begin.said).items()} == {"0": "good"} | dict.fromkeys(
        "12345", "refused"
    )
    for words in (
        r"^1: d_model=0 is out of range",
        r"^1: training\.lr=-1(\.0)? is out of range",
        r"^2: v100 offers .* GiB",
        r"^3: v100 needs .* h for the \d+ steps of this run",
        r"^4: data\.only\.fault names nothing",
        r"^5: hardware\.nodes=2 needs more machines than this one",
    ):
        assert re.search(words, begin.said, re.M), words
    left = {path.name for path in (tmp_path / "sweep").iterdir()}
    assert left <= {"manifest.json", ".lock"}
    known = Sweep.read(tmp_path / "sweep")
    assert [bool(job.refused) for job in known.jobs] == [False, *[True] * 5]
    assert [verdict(known, job, None).state for job in known.jobs] == ["planned", *["refused"] * 5]


def test_a_good_job_says_what_it_will_take(jobs, sweep, here, console):
    checked = jobs("hardware=v100", base=ON_CARDS)
    check(sweep(checked), checked, here())
    print_checks(checked, console)
    number, (varies, hardware, found, plan) = next(iter(rows(console.file.getvalue()).items()))
    assert (number, varies, hardware, found) == ("0", "hardware=v100", "v100", "good")
    assert re.search(r"micro-batch 32 x 1, fp32.*of [\d.]+ GiB.*host [\d.]+ GiB", plan), plan


def test_what_a_table_would_take_for_markup_is_shown_as_it_was_typed(jobs, console):
    print_checks(jobs("data.only.fault=[bold]"), console)
    assert "data.only.fault=[bold]" in console.file.getvalue()


# a kind of experiment is planned once


@pytest.fixture
def counted(monkeypatch):
    """How often each of these was made."""
    calls = []
    for module, name in ((memory_plan, "trace"), (planner, "survey")):
        monkeypatch.setattr(module, name, partial(_counted, calls, name, getattr(module, name)))
    return calls


def _counted(calls, name, make, *args, **kwargs):
    calls.append(name)
    return make(*args, **kwargs)


def test_jobs_share_what_is_the_same_of_them(jobs, counted):
    """A look at the data, and a trace for each kind of experiment and of cards whose kernels are alike."""
    plan = new_plan(on_cluster=False)
    lines = {  # -> traces and looks at the data so far
        "hardware=v100": (1, 1),
        "hardware=v100 seed=1 training.lr=0.1 logger.every_n_steps=3": (1, 1),
        "hardware=v100 hardware.ram_gib=64 hardware.gpu_memory_gib=8 hardware.slurm.time=1:00:00": (1, 1),
        "hardware=a100_80": (2, 1),  # it has bf16
        "hardware=h100 seed=2": (2, 1),
        "hardware=rtx3090": (2, 1),
        "hardware=rtx3090 d_model=32": (3, 1),
        "hardware=cpu data.window=512 data.stride=512": (3, 2),
    }
    found = {}
    for line, one in zip(lines, jobs(*lines, base=ON_CARDS), strict=True):
        plan(one.config)
        found[line] = counted.count("trace"), counted.count("survey")
    assert found == lines


def test_what_was_refused_once_is_refused_again_without_another_look(jobs, counted, sweep, here):
    checked = jobs(f"{TOO_LARGE} seed=0", f"{TOO_LARGE} seed=1", base=ON_CARDS)
    check(sweep(checked), checked, here())
    assert checked[0].refused == checked[1].refused != []
    assert counted.count("survey") == 1


def test_a_job_of_a_sweep_has_the_plan_that_it_would_have_alone(jobs):
    """But for when exactly the garbage collector let something go."""
    other, one = jobs("hardware=v100 training.lr=0.1", "hardware=v100 hardware.ram_gib=64", base=ON_CARDS)
    together = new_plan(on_cluster=False)
    together(other.config)
    plans = (together(one.config), new_plan(on_cluster=False)(one.config))
    assert replace(plans[0], timeline={}) == replace(plans[1], timeline={})


def test_a_cluster_is_asked_for_what_a_step_takes_of_the_host_and_this_machine_is_not(jobs, counted):
    (one,) = jobs(FINE)
    assert new_plan(on_cluster=False)(one.config).peak_gib is None
    assert new_plan(on_cluster=True)(one.config).peak_gib > 0
    assert counted.count("trace") == 1


# good ones, or none


def test_refused_jobs_may_be_left_out_and_say_so_in_their_verdicts(jobs, sweep, here, console):
    checked, place = jobs(FINE, WRONG, TWO_MACHINES, base=ON_CARDS), here()
    made = sweep(checked)
    submit(made, checked, place, skip_refused=True, on_duplicate="allow", console=console)
    assert set(place.look(made, made.jobs)) == {0}
    assert [(made.run_dir(job) / "config.yaml").exists() for job in made.jobs] == [True, False, False]
    found = [verdict(made, job, None) for job in Sweep.read(made.folder).jobs]
    assert [one.state for one in found] == ["submitted", "refused", "refused"]
    assert found[2].said.startswith("hardware.nodes=2 needs more machines")


def test_a_sweep_of_refused_jobs_alone_is_refused_whatever_may_be_left_out(jobs, begin):
    with pytest.raises(RefusedError, match="2 of 2 jobs are refused, nothing was started"):
        begin(jobs(WRONG, TWO_MACHINES, base=ON_CARDS), skip_refused=True)


def test_what_is_sent_off_is_the_config_that_was_checked(jobs, sweep, here, console):
    """Nothing is composed where it runs."""
    checked = jobs("seed=3 d_model=32")
    made = sweep(checked)
    submit(made, checked, here(), skip_refused=False, on_duplicate="allow", console=console)
    frozen = read(made.run_dir(made.jobs[0]))
    assert frozen == plain(checked[0].config)
    assert (frozen["seed"], frozen["d_model"]) == (3, 32)


def test_a_directory_with_a_run_of_another_config_is_refused_with_what_differs(jobs, sweep, begin, tmp_path):
    """A job that has begun goes on with the config that it has."""
    folder = tmp_path / "sweep" / "0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.yaml").write_text(json.dumps(plain(jobs("seed=1")[0].config)))
    with pytest.raises(RefusedError, match="1 of 1 jobs are refused"):
        begin(jobs("seed=2"))
    assert re.search(r"^0: .*/sweep/0 holds a run that was begun with another config: seed: 1 -> 2", begin.said, re.M)


def test_another_sweep_in_its_directory_is_refused_and_stays_as_it_was(jobs, sweep, begin, tmp_path):
    before = sweep(jobs("seed=0", "seed=1"))
    with pytest.raises(
        ConfigError, match=rf"hydra\.sweep\.dir={tmp_path}/sweep holds another sweep: its job 1 is seed=1; name another"
    ):
        begin(jobs("seed=0", "seed=2"))
    assert Sweep.read(tmp_path / "sweep") == before


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("same", "same"), "job 1 the directory .*/sweep/same, that of job 0, too"),
        (("a/b", "a/../a/b"), "job 1 the directory .*/sweep/a/b, that of job 0, too"),
        (("0", "../1"), r"job 1 the directory .*/1, not below hydra\.sweep\.dir"),
        (("/tmp/0", "1"), r"job 0 the directory /tmp/0, not below hydra\.sweep\.dir"),
        (("0", "."), r"job 1 the directory .*/sweep, not below hydra\.sweep\.dir"),
    ],
)
def test_every_job_has_a_directory_of_its_own_below_that_of_its_sweep(jobs, sweep, folders, words):
    checked = jobs("seed=0", "seed=1")
    for one, folder in zip(checked, folders, strict=True):
        one.job.folder = folder
    with pytest.raises(ConfigError, match=rf"hydra\.sweep\.subdir gives {words}; use \${{hydra\.job\.num}}"):
        join(sweep([]), checked)


def test_a_sweep_holds_the_jobs_that_it_had_and_those_that_come(jobs, sweep):
    """Hydra hands them over in parts, where hydra.sweeper.max_batch_size says so."""
    first, second, third = jobs("seed=0", "seed=1", "seed=2")
    first.job.same_as = "/other"
    made = sweep([first, second])
    new = Sweep(folder=made.folder, launcher=made.launcher, jobs=[])
    join(new, [*jobs("seed=0", "seed=1"), third])
    assert [job.number for job in new.jobs] == [0, 1, 2]
    assert [job.same_as for job in new.jobs] == ["/other", None, None]
