"""A hundred damaged checkpoints: none is taken for a good one, and a run goes on from the one before."""

import json
import logging
import random
import shutil

import pytest

from tests.faults.runs import Stumbles, assert_same_end, events, status_of, stumbling
from vibench.run import run_experiment
from vibench.training.checkpoints import SEAL_BYTES, newest_good, read_checkpoint, write_checkpoint

FORMATS = (0, 2, 3, 99, -1, None, "1", "2", 1.5, [1], "absent")
EVERY_STEP = ("training.epochs=3", "training.save_every_s=1e-6")  # 12 steps, a checkpoint after each


@pytest.fixture(scope="module")
def config(tiny):
    return stumbling(tiny(*EVERY_STEP))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run_experiment(config, folder)
    return folder


@pytest.fixture(scope="module")
def crashed(config, tmp_path_factory):
    """A run that ended in its 7th step: last.ckpt is of step 6, previous.ckpt of 5, best.ckpt of 4."""
    folder = tmp_path_factory.mktemp("crashed")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="cannot be multiplied"):
        patch.setattr(Stumbles, "at", 7)
        run_experiment(config, folder)
    names = ("last.ckpt", "previous.ckpt", "best.ckpt")
    assert [read_checkpoint(folder / "checkpoints" / n)["vibench"]["steps_done"] for n in names] == [6, 5, 4]
    return folder


@pytest.fixture
def run(crashed, tmp_path):
    """A copy of the crashed run."""
    return shutil.copytree(crashed, tmp_path / "run")


@pytest.fixture
def folder(run):
    return run / "checkpoints"


def cut(path, draw, number):
    """Every other time within its last 100 bytes; once exactly before its seal."""
    size = path.stat().st_size
    lost = SEAL_BYTES if number == 0 else draw.randint(1, 100) if number % 2 else draw.randint(101, size - 1)
    path.write_bytes(path.read_bytes()[:-lost])


def flip(path, draw, number):
    """One bit; every fifth time within the seal."""
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data) - SEAL_BYTES, len(data)) if number % 5 == 0 else draw.randrange(len(data))
    data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def replace(path, draw, number):
    size = draw.randint(1, path.stat().st_size)
    text = "".join(draw.choices("vibench sha256 PK\n", k=size)).encode()
    path.write_bytes((b"", bytes(size), draw.randbytes(size), text)[number % 4])


def another_format(path, draw, number):
    """Whole and sealed, but not of this version."""
    checkpoint = read_checkpoint(path, sealed=True)
    told = FORMATS[number % len(FORMATS)] if number < len(FORMATS) else draw.randint(2, 10**6)
    if told == "absent":
        del checkpoint["vibench"]["format"]
    else:
        checkpoint["vibench"]["format"] = told
    write_checkpoint(checkpoint, path)


def spoil(path):
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("number", range(25))
@pytest.mark.parametrize("damage", [cut, flip, replace, another_format])
def test_a_damaged_last_checkpoint_is_named_and_passed_over_for_the_one_before(folder, caplog, damage, number):
    damage(folder / "last.ckpt", random.Random(f"{damage.__name__} {number}"), number)
    with caplog.at_level(logging.WARNING, "vibench"):
        (checkpoint, path), _ = newest_good(folder)
    assert path == folder / "previous.ckpt"
    assert checkpoint["vibench"]["steps_done"] == 5
    (said,) = caplog.messages
    assert said.startswith(f"{folder / 'last.ckpt'} cannot be read as a checkpoint: ")
    assert "\n" not in said


@pytest.mark.parametrize("content", [None, [], "text", 1])
def test_a_sealed_checkpoint_that_says_nothing_of_itself_is_passed_over(folder, content):
    checkpoint = read_checkpoint(folder / "last.ckpt", sealed=True)
    write_checkpoint(checkpoint | {"vibench": content}, folder / "last.ckpt")
    assert newest_good(folder)[0][1] == folder / "previous.ckpt"


def test_good_checkpoints_are_taken_in_silence(folder, caplog):
    (checkpoint, path), _ = newest_good(folder)
    assert (path, checkpoint["vibench"]["steps_done"]) == (folder / "last.ckpt", 6)
    assert caplog.messages == []


def test_where_last_and_previous_are_damaged_the_best_is_taken(folder):
    spoil(folder / "last.ckpt")
    spoil(folder / "previous.ckpt")
    (checkpoint, path), _ = newest_good(folder)
    assert (path, checkpoint["vibench"]["steps_done"]) == (folder / "best.ckpt", 4)


def test_a_best_that_is_newer_than_the_previous_is_taken_before_it(folder):
    shutil.copy(folder / "last.ckpt", folder / "best.ckpt")
    spoil(folder / "last.ckpt")
    (checkpoint, path), _ = newest_good(folder)
    assert (path, checkpoint["vibench"]["steps_done"]) == (folder / "best.ckpt", 6)


def test_where_all_are_damaged_there_is_none_and_each_is_named(folder, caplog):
    names = ["last.ckpt", "previous.ckpt", "best.ckpt"]
    for name in names:
        spoil(folder / name)
    assert newest_good(folder)[0] is None
    assert [message.partition(" cannot")[0] for message in caplog.messages] == [str(folder / name) for name in names]


def test_a_folder_that_stands_where_a_checkpoint_should_is_passed_over(folder):
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").mkdir()
    assert newest_good(folder)[0][1] == folder / "previous.ckpt"


@pytest.mark.parametrize(
    ("spoiled", "step"),
    [
        ((), 6),
        (("last.ckpt",), 5),
        (("last.ckpt", "previous.ckpt"), 4),
    ],
)
def test_a_run_goes_on_from_its_newest_good_checkpoint_and_ends_as_if_nothing_had_been(
    config, run, whole, spoiled, step
):
    for name in spoiled:
        spoil(run / "checkpoints" / name)
    run_experiment(config, run)
    *passed_over, went_on = events(run)
    assert went_on == f"went on from step {step} of 12"
    assert [text.partition(" cannot be read")[0].rpartition("/")[2] for text in passed_over] == list(spoiled)
    assert_same_end(run, whole)


def test_a_run_without_a_good_checkpoint_begins_again_and_ends_as_if_nothing_had_been(config, run, whole):
    for path in (run / "checkpoints").iterdir():
        spoil(path)
    run_experiment(config, run)
    assert len(events(run)) == 3  # of the three that are damaged
    assert all(text.endswith("looking for an older one") for text in events(run))
    assert_same_end(run, whole)


@pytest.mark.parametrize("loss", [spoil, lambda path: path.unlink()], ids=["damaged", "gone"])
def test_a_best_checkpoint_that_is_lost_is_looked_for_anew(config, run, caplog, loss):
    loss(run / "checkpoints" / "best.ckpt")
    with caplog.at_level(logging.WARNING, "vibench"):
        run_experiment(config, run)
    (said,) = [message for message in caplog.messages if "best.ckpt" in message]
    assert said.endswith("the best validation is looked for anew")
    assert status_of(run)["state"] == "completed"
    assert read_checkpoint(run / "checkpoints" / "best.ckpt", sealed=True)["vibench"]["steps_done"] in (8, 12)


@pytest.fixture
def trained(config, whole, tmp_path):
    """A run that was killed after its last step and before its test."""
    run = shutil.copytree(whole, tmp_path / "trained")
    status = status_of(run)
    (run / "status.json").write_text(json.dumps(status | {"state": "running", "process_started": "0"}))
    return run


def test_a_run_that_was_killed_before_its_test_is_tested(config, trained, whole):
    run_experiment(config, trained)
    assert events(trained) == ["went on from step 12 of 12"]
    assert_same_end(trained, whole)


def test_a_run_whose_best_checkpoint_is_lost_after_its_last_step_can_still_be_completed(config, trained):
    spoil(trained / "checkpoints" / "best.ckpt")
    run_experiment(config, trained)
    assert status_of(trained)["state"] == "completed"
