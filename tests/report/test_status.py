"""The state of a run on disk: true while it runs, at its end, and when nobody could say the end."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from vibench.errors import ConfigError, MemoryFitError, NanError, UnprovenError
from vibench.report.status import kind_of, read_status, recorded, write_json
from vibench.signals import Stopped


def on_disk(folder):
    return json.loads((folder / "status.json").read_text())


def test_a_run_is_running_until_it_is_proven(tmp_path):
    with recorded(tmp_path, {"seed": 1}) as prove:
        assert on_disk(tmp_path)["state"] == read_status(tmp_path)["state"] == "running"
        assert on_disk(tmp_path)["pid"] == os.getpid()
        prove({"results": {"mse": 0.5}})
    assert on_disk(tmp_path)["state"] == "completed"
    assert on_disk(tmp_path)["results"] == {"mse": 0.5}
    assert on_disk(tmp_path)["seed"] == 1


def test_leaving_without_proof_is_a_failure(tmp_path):
    with pytest.raises(UnprovenError, match="without verified results"), recorded(tmp_path, {}):
        pass
    assert on_disk(tmp_path)["state"] == "failed"


@pytest.mark.parametrize(
    ("error", "state", "kind"),
    [
        (RuntimeError("boom"), "failed", "CRASH"),
        (NanError("the loss is nan"), "failed", "NAN"),
        (MemoryFitError("too large"), "failed", "MEMORY"),
        (MemoryError(), "failed", "MEMORY"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "failed", "MEMORY"),
        (RuntimeError("CUDA out of memory. Tried to allocate 12.00 GiB"), "failed", "MEMORY"),
        (ConfigError(["wrong"]), "failed", "CONFIG"),
        (SystemExit(0), "failed", "CRASH"),
        (Stopped(15), "cancelled", None),
        (KeyboardInterrupt(), "cancelled", None),
    ],
)
def test_an_exception_is_recorded_by_kind_and_goes_on(tmp_path, error, state, kind):
    with pytest.raises(type(error)), recorded(tmp_path, {}) as prove:
        prove({"results": {}})  # what was proven before does not save it
        raise error
    assert on_disk(tmp_path)["state"] == state
    assert on_disk(tmp_path).get("kind") == kind


def test_the_last_lines_say_where_it_happened(tmp_path):
    with pytest.raises(ZeroDivisionError), recorded(tmp_path, {}):
        1 / 0  # noqa: B018
    assert "1 / 0" in "\n".join(on_disk(tmp_path)["last_lines"])


def test_a_running_status_whose_process_is_gone_is_lost(tmp_path):
    script = f"""
import os, pathlib, signal
from vibench.report.status import recorded
with recorded(pathlib.Path({str(tmp_path)!r}), {{}}):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert on_disk(tmp_path)["state"] == "running"
    assert read_status(tmp_path)["state"] == "lost"


def test_a_pid_that_now_belongs_to_another_process_is_lost(tmp_path):
    with pytest.raises(RuntimeError), recorded(tmp_path, {}):
        status = on_disk(tmp_path)
        write_json(tmp_path / "status.json", status | {"process_started": "1"})
        assert read_status(tmp_path)["state"] == "lost"
        raise RuntimeError


def test_a_run_of_another_host_is_taken_at_its_word(tmp_path):
    write_json(tmp_path / "status.json", {"state": "running", "host": "elsewhere", "pid": 1, "process_started": "1"})
    assert read_status(tmp_path)["state"] == "running"


def test_a_run_that_never_said_anything_is_planned_and_no_success(tmp_path):
    assert read_status(tmp_path)["state"] == "planned"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "completed"}'])
def test_a_damaged_or_foreign_status_is_unknown(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path)["state"] == "unknown"


def test_a_damaged_status_is_unknown(tmp_path):
    (tmp_path / "status.json").write_text("{")
    assert read_status(tmp_path)["state"] == "unknown"


def test_a_directory_is_claimed_once(tmp_path):
    with recorded(tmp_path, {}) as prove:
        prove({"results": {}})
        with pytest.raises(ConfigError, match=r"already holds a run \(running\)"), recorded(tmp_path, {}):
            pytest.fail("two runs in one directory")
    assert on_disk(tmp_path)["state"] == "completed"


def test_a_status_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "status.json"
    write_json(path, {"state": "running"})
    with pytest.raises(TypeError):
        write_json(path, {"state": object()})
    assert on_disk(tmp_path) == {"state": "running"}
    assert list(tmp_path.iterdir()) == [path]


def test_kinds_of_errors_without_text():
    assert kind_of(Exception()) == "CRASH"


def test_on_a_full_disk_a_long_status_is_shortened_to_what_can_be_read(small_disk):
    path = small_disk / "status.json"
    write_json(path, {"state": "running", "host": "h", "pid": 1, "process_started": "1"})
    with (small_disk / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 512)
    long = {"state": "failed", "host": "h", "pid": 1, "process_started": "1", "error": "e" * 1000}
    write_json(path, long | {"last_lines": ["│ ü" * 66] * 12})
    assert read_status(small_disk) == long


def test_a_status_never_holds_what_json_does_not_know(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "status.json", {"loss": float("nan")})
