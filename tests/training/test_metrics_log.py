"""What a run logs: whole rows, on disk at once, and no others after it goes on."""

import csv
import re

import pytest

from vibench.errors import OutputError
from vibench.training.metrics_log import MetricsLog

NAME = "metrics.csv"


def opened(folder, rows=0, board=None, step=0):
    return MetricsLog(folder / NAME, rows=rows, tensorboard=board, step=step)


def on_disk(folder):
    """Columns and rows, without values that are not there."""
    with (folder / NAME).open(newline="") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames, [{key: float(value) for key, value in row.items() if value} for row in reader]


def filled(folder, rows):
    """A log with so many rows of a loss that is the square of its step."""
    log = opened(folder)
    for step in range(1, rows + 1):
        log.write({"loss": step**2}, step)
    log.sync()
    log.close()
    return log


def squares(*steps):
    return [{"step": step, "loss": step**2} for step in steps]


def test_a_row_is_on_disk_at_once_with_its_step(tmp_path):
    log = opened(tmp_path)
    for step in (1, 2):
        log.write({"loss": step**2}, step)
        assert on_disk(tmp_path) == (["step", "loss"], squares(*range(1, step + 1)))
        assert log.rows == step


def test_a_number_is_read_again_as_it_was(tmp_path):
    values = {"a": 0.1, "b": 1e-45, "c": 1 / 3, "d": float("inf"), "e": -123456789.123456789}
    opened(tmp_path).write(values, 3)
    assert on_disk(tmp_path)[1] == [{"step": 3} | values]


def test_columns_come_as_they_are_needed_and_rows_stay_as_they_are(tmp_path):
    log = opened(tmp_path)
    written = [{"a": 1.0}, {"b": 2.0, "c": 3.0}, {"c": 4.0, "a": 5.0}, {"d": 6.0}]
    for step, values in enumerate(written):
        log.write(values, step)
    columns, rows = on_disk(tmp_path)
    assert columns == ["step", "a", "b", "c", "d"]
    assert rows == [{"step": step} | values for step, values in enumerate(written)]


def test_the_folder_is_made_and_holds_nothing_else(tmp_path):
    log = opened(tmp_path / "some" / "run")
    log.write({"a": 1.0}, 1)
    log.write({"b": 1.0}, 2)
    assert [path.name for path in (tmp_path / "some" / "run").iterdir()] == [NAME]


def test_a_log_without_rows_can_be_saved(tmp_path):
    log = opened(tmp_path)
    log.sync()
    log.close()
    assert log.rows == 0


def test_a_run_that_begins_drops_what_there_was(tmp_path):
    filled(tmp_path, 3)
    log = opened(tmp_path)
    log.write({"other": 1.0}, 1)
    assert on_disk(tmp_path) == (["step", "other"], [{"step": 1, "other": 1}])


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_run_that_goes_on_keeps_the_rows_its_checkpoint_knows_of(tmp_path, rows):
    filled(tmp_path, 5)
    log = opened(tmp_path, rows=rows)
    assert log.rows == rows
    assert on_disk(tmp_path)[1] == squares(*range(1, rows + 1))
    log.write({"loss": 49.0}, 7)
    assert on_disk(tmp_path)[1] == squares(*range(1, rows + 1), 7)
    assert log.rows == rows + 1


def test_columns_are_kept_when_it_goes_on_also_those_of_dropped_rows(tmp_path):
    log = opened(tmp_path)
    log.write({"a": 1.0}, 1)
    log.write({"b": 2.0}, 2)
    log = opened(tmp_path, rows=1)
    log.write({"b": 3.0, "c": 4.0}, 2)
    assert on_disk(tmp_path) == (["step", "a", "b", "c"], [{"step": 1, "a": 1}, {"step": 2, "b": 3, "c": 4}])


def test_a_run_that_goes_on_ends_with_the_file_of_one_that_was_never_stopped(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        log = opened(folder)
        log.write({"a": 0.1}, 1)
        log.write({"b": 0.2}, 2)
        if folder is parts:
            log.write({"b": 0.3}, 3)  # no checkpoint knows of it
            log = opened(folder, rows=2)
        log.write({"a": 0.4, "c": 0.5}, 3)
    assert (parts / NAME).read_bytes() == (whole / NAME).read_bytes()


@pytest.mark.parametrize("tail", [b"4,1", b"4", b"4,", b"4,16.0,", bytes(50)], ids=repr)
def test_a_row_that_was_begun_and_not_ended_is_dropped(tmp_path, tail):
    filled(tmp_path, 3)
    with (tmp_path / NAME).open("ab") as file:
        file.write(tail)
    log = opened(tmp_path, rows=3)
    log.write({"loss": 25.0}, 5)
    assert on_disk(tmp_path) == (["step", "loss"], squares(1, 2, 3, 5))


@pytest.mark.parametrize(
    "tail",
    [
        b"4,1\xff\xfe",
        bytes(200_000),
    ],
    ids=["no text", "blocks of zeros"],
)
def test_what_a_power_cut_left_after_the_rows_is_dropped(tmp_path, tail):
    filled(tmp_path, 3)
    with (tmp_path / NAME).open("ab") as file:
        file.write(tail)
    opened(tmp_path, rows=3)
    assert on_disk(tmp_path) == (["step", "loss"], squares(1, 2, 3))


def test_a_log_with_fewer_rows_than_its_checkpoint_knows_of_keeps_those_it_has(tmp_path):
    filled(tmp_path, 2)
    log = opened(tmp_path, rows=5)
    assert log.rows == 2
    log.write({"loss": 36.0}, 6)
    assert on_disk(tmp_path)[1] == squares(1, 2, 6)


def test_a_log_that_is_gone_is_begun_anew(tmp_path):
    log = opened(tmp_path, rows=5)
    log.write({"loss": 36.0}, 6)
    assert on_disk(tmp_path) == (["step", "loss"], squares(6))
    assert log.rows == 1


def test_what_a_killed_process_left_behind_is_written_over(tmp_path):
    (tmp_path / f".{NAME}.tmp").write_text("step,loss\n1,")
    filled(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


# a full disk


def fill(folder, kib):
    (folder / "fill").write_bytes(bytes(1024 * kib))


def full(folder):
    return pytest.raises(
        OutputError, match=rf"^{re.escape(str(folder / NAME))} cannot be written: No space left on device"
    )


def test_a_full_disk_names_the_file_the_reason_and_how_to_go_on(small_disk):
    fill(small_disk, 4)
    log = opened(small_disk)
    with full(small_disk) as caught:
        for step in range(10_000):
            log.write({"loss": step**2}, step)
    assert str(caught.value).endswith(f"; make room, then vibench-resume {small_disk}")
    assert 100 < log.rows < 1000


def test_after_room_was_made_the_rows_before_are_there_and_no_half_one(small_disk):
    fill(small_disk, 4)
    log = opened(small_disk)
    with full(small_disk):
        for step in range(10_000):
            log.write({"loss": step**2}, step)
    assert (small_disk / NAME).stat().st_size == 4096  # the last row is a half one
    assert not (small_disk / NAME).read_bytes().endswith(b"\n")
    (small_disk / "fill").unlink()
    again = opened(small_disk, rows=log.rows)
    again.write({"loss": 1e6}, 1000)
    assert on_disk(small_disk)[1] == squares(*range(log.rows), 1000)


def test_a_new_column_on_a_full_disk_leaves_the_old_file_and_no_other(small_disk):
    log = opened(small_disk)
    log.write({"loss": 1.0}, 1)
    fill(small_disk, 4)
    with full(small_disk):
        log.write({"other": 2.0}, 2)
    assert on_disk(small_disk) == (["step", "loss"], squares(1))
    assert {path.name for path in small_disk.iterdir()} == {NAME, "fill"}


def test_a_run_that_goes_on_on_a_full_disk_leaves_the_old_file_and_no_other(small_disk):
    filled(small_disk, 2)
    fill(small_disk, 4)
    with full(small_disk):
        opened(small_disk, rows=1)
    assert on_disk(small_disk)[1] == squares(1, 2)
    assert {path.name for path in small_disk.iterdir()} == {NAME, "fill"}


def test_a_folder_that_is_gone_is_told(tmp_path):
    folder = tmp_path / "run"
    log = opened(folder)
    folder.rmdir()
    with pytest.raises(
        OutputError, match=rf"{re.escape(str(folder / NAME))} cannot be written: No such file or directory"
    ):
        log.write({"loss": 1.0}, 1)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        opened(tmp_path / "file")


def test_a_log_that_cannot_be_saved_is_told(tmp_path):
    log = filled(tmp_path, 2)
    (tmp_path / NAME).unlink()
    with pytest.raises(OutputError, match="cannot be written"):
        log.sync()


# TensorBoard


@pytest.fixture
def board(tmp_path):
    pytest.importorskip("tensorboard", reason="vibench[tensorboard] is not installed")
    return tmp_path / "tensorboard"


def scalars(folder):
    """Tag -> (step, value) of all that TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return {tag: [(s.step, s.value) for s in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_tensorboard_has_the_same_numbers(tmp_path, board):
    log = opened(tmp_path, board=board)
    log.write({"loss": 0.5, "lr": 0.25}, 1)
    log.write({"loss": 0.125}, 3)
    assert scalars(board) == {"loss": [(1, 0.5), (3, 0.125)], "lr": [(1, 0.25)]}
    log.close()


@pytest.mark.parametrize("done", [1, 2, 4])
def test_tensorboard_drops_later_steps_when_a_run_goes_on(tmp_path, board, done):
    log = opened(tmp_path, board=board)
    for step in range(1, 5):
        log.write({"loss": float(step)}, step)
    log.close()
    log = opened(tmp_path, rows=done, board=board, step=done)
    log.write({"loss": 100.0}, done + 1)
    log.close()
    assert scalars(board) == {"loss": [(step, float(step)) for step in range(1, done + 1)] + [(done + 1, 100.0)]}


def test_tensorboard_drops_all_when_a_run_begins_anew(tmp_path, board):
    log = opened(tmp_path, board=board)
    for step in (1, 2):
        log.write({"loss": 1.0}, step)
    log.close()
    log = opened(tmp_path, board=board)
    log.write({"loss": 2.0}, 1)
    log.close()
    assert scalars(board) == {"loss": [(1, 2.0)]}


def test_without_tensorboard_nothing_of_it_is_written(tmp_path):
    filled(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
