"""How far a run is, by the end of its log."""

import pytest

from vibench.report.metrics_tail import BYTES, last_step


def log(folder, text):
    (folder / "metrics.csv").write_text(text)
    return last_step(folder)


@pytest.mark.parametrize(
    "text", ["", "epoch,step,loss\n", "epoch,loss\n1,0.5\n", "epoch,step\n1,", "epoch,step\n1,two\n"]
)
def test_without_a_whole_line_with_a_step_none_is_known(tmp_path, text):
    assert log(tmp_path, text) is None


def test_a_run_without_a_log_is_nowhere(tmp_path):
    assert last_step(tmp_path) is None


def test_the_step_is_that_of_the_last_whole_line(tmp_path):
    assert log(tmp_path, "epoch,step,loss\n1,10,0.5\n2,20,0.4\n") == 20
    assert log(tmp_path, "epoch,step,loss\n1,10,0.5\n2,20,0.4\n3,3") == 20  # one that is being written


def test_of_a_long_log_only_the_end_is_read(tmp_path):
    lines = "".join(f"1,{n},0.123456\n" for n in range(10_000))
    assert len(lines) > 10 * BYTES
    assert log(tmp_path, f"epoch,step,loss\n{lines}") == 9_999
