"""Going on with a run: the same line again, another value, and what is refused without touching anything."""

import csv
import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from tests.conftest import TINY
from tests.faults.runs import Stumbles, assert_same_end, events, status_of, stumbling, weights
from tests.faults.test_honest_end import MAIN, start, wait_for_training
from vibench.cli import resume as command
from vibench.config.frozen import read, thaw
from vibench.errors import ConfigError, DataError, NanError, VibenchError
from vibench.report.status import write_json
from vibench.run import run_experiment
from vibench.training.checkpoints import read_checkpoint

OPTIONS = ("training.epochs=30", "training.monitor=null")  # some seconds: the signal comes in the midst of it
EVERY_STEP = ("training.epochs=3", "training.save_every_s=1e-6")


@pytest.fixture(scope="module")
def began(cache, tmp_path_factory):
    """A run of vibench-train that was stopped by SIGTERM."""
    folder = tmp_path_factory.mktemp("began")
    process = start(folder, *OPTIONS)
    wait_for_training(folder / "run")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert status_of(folder / "run")["state"] == "cancelled"
    return folder / "run"


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """The run that was never stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_experiment(tiny(*OPTIONS), folder)
    return folder


@pytest.fixture
def run(began, tmp_path):
    """A copy of the stopped run."""
    return shutil.copytree(began, tmp_path / "run")


def again(run, *overrides):
    """The line that began it."""
    line = [sys.executable, "-c", MAIN, *TINY, f"hydra.run.dir={run}", *overrides]
    return subprocess.run(line, cwd=run.parent, capture_output=True, text=True, timeout=120)


def contents(run):
    """Of every file, except of the lock."""
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.fixture
def refused(monkeypatch, capsys):
    """What vibench-resume says, in this process, where it ends with 2."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["vibench-resume", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command.main()
        assert left.value.code == 2
        return capsys.readouterr().err

    return call


def test_the_same_line_again_goes_on_and_ends_as_if_it_had_never_been_stopped(run, undisturbed):
    done = again(run, *OPTIONS)
    assert done.returncode == 0, done.stderr
    (said,) = events(run)
    assert said.startswith("went on from step ")
    assert [attempt["state"] for attempt in status_of(run)["attempts"]] == ["cancelled"]
    assert_same_end(run, undisturbed)


def test_the_same_line_with_another_value_is_refused_with_the_difference_and_touches_nothing(run):
    before = contents(run)
    assert {".hydra/config.yaml", ".hydra/overrides.yaml", "config.yaml", "status.json"} <= before.keys()
    done = again(run, *OPTIONS, "training.lr=0.1", "backbone.dropout=0.3")
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert f"vibench-train: hydra.run.dir={run} holds a run that was begun with another config: " in said
    assert "backbone.dropout: 0.1 -> 0.3, " in said
    assert "training.lr: 0.001 -> 0.1; " in said
    assert f"vibench-resume {run} backbone.dropout=0.3 training.lr=0.1 goes on with it" in said
    assert contents(run) == before


def test_another_config_is_refused_in_process_too(tiny, run):
    before = contents(run)
    with pytest.raises(ConfigError, match=r"begun with another config: training\.lr: 0\.001 -> 0\.1; vibench-resume"):
        run_experiment(tiny(*OPTIONS, "training.lr=0.1"), run)
    assert contents(run) == before


def test_a_resume_with_another_value_goes_on_and_the_status_says_so(run, vibench):
    done = vibench("resume", str(run), "training.lr=0.1")
    assert done.returncode == 0, done.stderr
    changed, went_on = events(run)
    assert changed == "config changed: training.lr: 0.001 -> 0.1"
    assert went_on.startswith("went on from step ")
    assert read(run)["training"]["lr"] == 0.1
    assert status_of(run)["state"] == "completed"


def test_a_resume_without_a_change_says_nothing_of_the_config(run):
    run_experiment(thaw(run, ["training.lr=1e-3"]), run, may_change=True)  # as it was
    assert [text.partition(" ")[0] for text in events(run)] == ["went"]


LEAK = r"the splits leak: vibench-resume .*run and test share \d+ entities \(.*\); use data\.split\.by=entity"


def test_a_resume_whose_test_holds_what_the_weights_have_seen_is_refused_as_a_leak(run):
    with pytest.raises(DataError, match=LEAK) as leak:
        run_experiment(thaw(run, ["data.split.seed=1"]), run, may_change=True)
    assert not leak.value.started  # exit status 2
    assert (status_of(run)["state"], status_of(run)["kind"]) == ("failed", "DATA")


def test_a_resume_that_leaks_and_may_says_so_in_the_result(run):
    overrides = ["data.split.seed=1", "data.allow_leaky=true"]
    status = run_experiment(thaw(run, overrides), run, may_change=True)
    assert (status["split"]["clean"], status["split"]["waived"]) == (False, True)
    assert status["split"]["shared"][-1]["splits"][1] == "test"
    assert "data.split.seed: 0 -> 1, data.allow_leaky: False -> True" in events(run)[0]


def test_after_a_change_that_was_refused_the_run_goes_on_as_it_began(run, undisturbed):
    with pytest.raises(DataError, match=LEAK):
        run_experiment(thaw(run, ["data.split.seed=1"]), run, may_change=True)
    run_experiment(thaw(run, []), run, may_change=True)
    assert_same_end(run, undisturbed)


@pytest.fixture(scope="module")
def crashed(tiny, tmp_path_factory):
    """A run of 12 steps that ended in its 7th, the third of the second epoch."""
    folder = tmp_path_factory.mktemp("crashed")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="cannot be multiplied"):
        patch.setattr(Stumbles, "at", 7)
        run_experiment(stumbling(tiny(*EVERY_STEP)), folder)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.label=fault_size", "no window of train has a label"),
        ("d_model=32", "is of another model"),
        ("backbone.e_layers=1", "is of another model"),
        ("training.optimizer=sgd", r"training\.optimizer was adam or adamw, now it is sgd"),
        ("training.task_weights=learned", r"training\.task_weights was fixed, now it is learned"),
        ("training.precision=fp16", r"training\.precision=fp16 was False, now it is True"),
        ("training.max_steps=3", r"6 steps are done, training\.epochs=\d+ and training\.max_steps=3 promise only 3"),
        ("training.epochs=1", r"6 steps are done, training\.epochs=1 and training\.max_steps=None promise only 4"),
        ("training.global_batch_size=16", "steps of an epoch was 4, now it is 7"),
        ("data.stride=128", "steps of an epoch was 4, now it is"),
    ],
)
def test_a_change_that_the_checkpoint_cannot_follow_is_refused_before_anything_is_trained(
    tiny, crashed, tmp_path, change, words
):
    run = shutil.copytree(crashed, tmp_path / "run")
    frozen = (run / "config.yaml").read_bytes()
    with pytest.raises(VibenchError, match=words) as refused:
        run_experiment(stumbling(tiny(*EVERY_STEP, change)), run, may_change=True)
    assert not refused.value.started  # exit status 2
    assert (run / "config.yaml").read_bytes() == frozen


@pytest.mark.parametrize("change", ["training.epochs=2", "training.max_steps=6", "training.optimizer=adam", "seed=5"])
def test_a_change_that_the_checkpoint_can_follow_ends_in_a_result(tiny, crashed, tmp_path, change):
    run = shutil.copytree(crashed, tmp_path / "run")
    status = run_experiment(stumbling(tiny(*EVERY_STEP, change)), run, may_change=True)
    assert status["state"] == "completed"
    assert events(run)[0].startswith("config changed: ")
    assert events(run)[1] == f"went on from step 6 of {status['promised_steps']}"


@pytest.mark.parametrize(
    "change",
    [
        "training.lr=0.01",
        "training.clip_norm=0.01",
        "training.weight_decay=0.9",
        "training.optimizer=adam",
    ],
)
def test_a_change_that_the_status_tells_of_changes_the_weights(tiny, crashed, tmp_path, change):
    unchanged, changed = (shutil.copytree(crashed, tmp_path / name) for name in ("unchanged", "changed"))
    run_experiment(stumbling(tiny(*EVERY_STEP)), unchanged)
    run_experiment(stumbling(tiny(*EVERY_STEP, change)), changed, may_change=True)
    assert events(changed)[0].startswith(f"config changed: {change.partition('=')[0]}: ")
    theirs = weights(unchanged)
    assert not all(torch.equal(value, theirs[name]) for name, value in weights(changed).items())


def test_another_monitor_looks_for_its_best_from_then_on(tiny, crashed, tmp_path):
    """A loss would never be better than an accuracy that was compared with it."""
    run = shutil.copytree(crashed, tmp_path / "run")
    run_experiment(stumbling(tiny(*EVERY_STEP, "training.monitor=rul_prediction/r2")), run, may_change=True)
    best = read_checkpoint(run / "checkpoints" / "best.ckpt")["vibench"]
    assert best["steps_done"] > 6
    assert best["best"]["value"] < 0.5  # an r2; the loss before was above 2


def test_what_was_found_out_before_the_first_checkpoint_is_forgotten_with_another_config(tiny, tmp_path):
    options = ("training.optimizer=sgd", "training.clip_norm=null", "training.warmup_steps=0", "logger.every_n_steps=1")
    with pytest.raises(NanError, match=r"training\.nan_limit=3 is reached"):
        run_experiment(tiny(*options, "training.lr=1e30", "training.on_nan=rewind"), tmp_path)
    status = run_experiment(tiny(*options, "training.lr=0.01", "training.on_nan=rewind"), tmp_path)
    assert status["events"][-1]["text"] == "begun anew with another config"
    with (tmp_path / "metrics.csv").open() as file:
        assert next(csv.DictReader(file))["train/lr"] == "0.01"  # and not an eighth of it


def test_more_steps_than_those_that_ended_within_an_epoch_are_the_rest_of_that_epoch(tiny, tmp_path):
    options = ("training.global_batch_size=16", "training.warmup_steps=0")  # seven steps an epoch
    run_experiment(tiny(*options, "training.epochs=2", "training.max_steps=3"), tmp_path / "run")
    path = tmp_path / "run" / "status.json"
    write_json(
        path, json.loads(path.read_text()) | {"state": "running", "pid": 1, "process_started": "0"}
    )  # killed then
    more = (*options, "training.epochs=2", "training.max_steps=10")
    longer = run_experiment(tiny(*more), tmp_path / "run", may_change=True)
    whole = run_experiment(tiny(*more), tmp_path / "whole")
    assert longer["steps"] == 10
    assert longer["labels_seen"] == whole["labels_seen"]  # the same windows


@pytest.fixture(scope="module")
def completed(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("completed")
    run_experiment(tiny(), folder)
    return folder


def test_a_resume_of_a_completed_run_prints_its_table_and_changes_nothing(completed, vibench):
    before = contents(completed)
    done = vibench("resume", str(completed))
    assert done.returncode == 0, done.stderr
    assert "classification" in done.stdout
    assert "macro_f1" in done.stdout
    assert contents(completed) == before


def test_a_change_of_a_completed_run_comes_too_late(completed, refused):
    before = contents(completed)
    said = refused(completed, "training.lr=0.1")
    assert said == (
        f"vibench-resume: {completed} is completed, training.lr=0.1 comes too late; begin another run with "
        "training.init_from\n"
    )
    assert contents(completed) == before


@pytest.mark.parametrize("named", ["nothing", "folder"])
def test_a_folder_without_a_run_is_refused(tmp_path, refused, named):
    (tmp_path / "folder").mkdir()
    folder = tmp_path / named
    assert refused(folder) == (
        f"vibench-resume: {folder} holds no run: there is no config.yaml; name the directory of a run\n"
    )
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read: "),
        ("- 1", "cannot be read: it is no config of a run"),
        ("training: {}", "cannot be read: "),
        ("\0", "cannot be read: "),
    ],
)
def test_a_frozen_config_that_was_damaged_is_one_line_that_names_it(run, refused, content, words):
    (run / "config.yaml").write_text(content)
    (said,) = refused(run).splitlines()
    assert said.startswith(f"vibench-resume: {run / 'config.yaml'} {words}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--force"], "--force does not exist; there are --take-over and --help"),
        (["--take_over"], "--take_over does not exist"),
        (["training.learning_rate=1"], "training.learning_rate"),
        (["training.lr=fast"], "training.lr"),
        (["training.lr=-1"], "training.lr"),
        (["another"], "name one run, there are 2"),
    ],
)
def test_a_wrong_argument_is_refused_and_touches_nothing(run, refused, arguments, words):
    before = contents(run)
    said = refused(run, *arguments)
    assert said.startswith("vibench-resume: ")
    assert words in said
    assert contents(run) == before


def test_no_argument_shows_the_usage(refused, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vibench-resume"])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 2
    assert capsys.readouterr().out.startswith("usage: vibench-resume RUN")


@pytest.fixture
def elsewhere(run):
    """A run that another machine is at, on paper."""
    status = status_of(run) | {"state": "running", "host": "another-machine"}
    (run / "status.json").write_text(json.dumps(status))
    return run


def test_a_run_of_another_machine_is_refused_and_touches_nothing_but_may_be_taken_over(
    elsewhere, refused, vibench, undisturbed
):
    before = contents(elsewhere)
    said = refused(elsewhere)
    assert "already holds a run (running on another-machine); name another directory" in said
    assert f"vibench-resume {elsewhere} --take-over if that machine is down" in said
    assert contents(elsewhere) == before
    done = vibench("resume", str(elsewhere), "--take-over")
    assert done.returncode == 0, done.stderr
    assert status_of(elsewhere)["attempts"][-1]["state"] == "lost"
    assert status_of(elsewhere)["attempts"][-1]["host"] == "another-machine"
    assert_same_end(elsewhere, undisturbed)


def test_a_run_of_another_machine_is_not_begun_by_the_same_line_either(tiny, elsewhere):
    before = contents(elsewhere)
    with pytest.raises(ConfigError, match=r"already holds a run \(running on another-machine\)"):
        run_experiment(tiny(*OPTIONS), elsewhere)
    assert contents(elsewhere) == before


def test_a_run_that_lives_on_this_machine_cannot_be_taken_over(cache, tmp_path, refused):
    process = start(tmp_path, "training.epochs=2000", "training.monitor=null")
    try:
        wait_for_training(tmp_path / "run")
        for flags in ([], ["--take-over"]):
            said = refused(tmp_path / "run", *flags)
            assert "holds a run that another process is at; name another directory" in said
        assert process.poll() is None
        assert status_of(tmp_path / "run")["pid"] == process.pid
        assert events(tmp_path / "run") == []
    finally:
        process.kill()
        process.communicate()
