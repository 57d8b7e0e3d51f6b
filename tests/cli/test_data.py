"""``vibench-data`` as a user runs it: what it says, the exit status, and never a traceback."""

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.io import savemat

from vibench.data.store import Store
from vibench.data.synthetic import demo_store

Run = Callable[..., CompletedProcess]


@pytest.fixture
def run(vibench: Callable[..., CompletedProcess]) -> Run:
    """``run(2, "prepare", "cwru")``: with the status it has to have, and no traceback."""

    def call(status: int, *arguments: str, **kwargs: object) -> CompletedProcess:
        done = vibench("data", *arguments, **kwargs)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return call


@pytest.fixture
def cwru(tmp_path: Path) -> Path:
    """A folder with one normal file, two of one faulty bearing, and two files that are none."""
    folder = tmp_path / "cwru"
    (folder / "deep").mkdir(parents=True)
    for number, place in ((97, ""), (105, ""), (108, "deep")):
        signal = default_rng(number).standard_normal((120, 1))
        savemat(folder / place / f"{number}.mat", {f"X{number:03d}_DE_time": signal, f"X{number:03d}_FE_time": signal})
    (folder / "labels.csv").write_text("file,fault\n")
    (folder / "notes.mat").write_text("not one of the data set's")
    return folder


@pytest.fixture
def femto(tmp_path: Path) -> Path:
    """A folder with three files of one bearing, a temperature file and the cut test set."""
    line = "9,39,39,65664,0.552,-0.146\n"
    for name in (*(f"Learning_set/Bearing1_1/acc_0000{k}.csv" for k in (1, 2, 3)), "Test_set/Bearing1_3/acc_00001.csv"):
        path = tmp_path / "femto" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line * 10)
    (tmp_path / "femto/Learning_set/Bearing1_1/temp_00001.csv").write_text("9;39;39;7;69.9\n")
    return tmp_path / "femto"


def test_prepare_cwru_says_what_became_of_every_file(run, cwru, tmp_path):
    done = run(0, "prepare", "cwru", f"raw={cwru}")
    assert f"skipped {cwru}/labels.csv: not a .mat file" in done.stdout
    assert f"skipped {cwru}/notes.mat: its name is not a file number of the data set" in done.stdout
    assert "3 recordings from 5 files, 2 skipped" in done.stdout
    assert "normal files taken at 48000 Hz" in done.stdout
    assert "vibench-train data=cwru data.store=cwru.h5" in done.stdout
    assert [r.id for r in Store(tmp_path / "cwru.h5").recordings] == ["105", "97", "108"]


def test_the_rate_of_the_normal_files_can_be_given(run, cwru, tmp_path):
    done = run(0, "prepare", "cwru", f"raw={cwru}", "store=out/s.h5", "normal_rate_hz=12000")
    assert "normal files taken at 12000 Hz" in done.stdout
    assert {r.rate_hz for r in Store(tmp_path / "out" / "s.h5").recordings} == {12_000}


def test_prepare_femto_says_what_became_of_every_file(run, femto, tmp_path):
    done = run(0, "prepare", "femto", f"raw={femto}", "store=f.h5")
    assert "temp_00001.csv: temperature, 0.1 Hz" in done.stdout
    assert "Test_set/Bearing1_3/acc_00001.csv: Test_set ends before the failure" in done.stdout
    assert "3 recordings from 5 files, 2 skipped" in done.stdout
    assert [r.rul_s for r in Store(tmp_path / "f.h5").recordings] == [20, 10, 0]


def test_the_command_that_prepare_names_next_composes(run, vibench, femto):
    told = run(0, "prepare", "femto", f"raw={femto}").stdout.splitlines()[-1]
    arguments = told.removeprefix("next: vibench-train ").split()
    composed = vibench("train", *arguments, "hardware=cpu", "--cfg", "job")
    assert composed.returncode == 0, composed.stderr


def test_inspect_prints_every_system(run, tiny, tmp_path):
    done = run(0, "inspect", str(demo_store(tiny().data)))
    cells = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in done.stdout.splitlines()
        if "│" in line
    }
    # 4 classes of 3 bearings at one speed, and 3 lives of 4 snapshots: 24 recordings of 0.1 s of 15 entities
    assert cells["motor"][:5] == ["12000", "2", "24", "15", "0.0"]
    assert cells["rig"][:5] == ["25600", "3", "24", "15", "0.0"]
    assert (cells["motor"][-2:], cells["rig"][-2:]) == (["3", "-"], ["3", "-"])  # lives, and no events
    assert "columns: entity, system, id, source, fault, load, rpm" in done.stdout


def test_the_table_names_its_columns_in_full_also_in_a_pipe(run, cwru):
    done = run(0, "prepare", "cwru", f"raw={cwru}")
    header = next(line for line in done.stdout.splitlines() if line.startswith("┃"))
    columns = [cell.strip() for cell in header.strip("┃").split("┃")]
    assert columns == ["system", "rate Hz", "channels", "recordings", "entities", "minutes", "fault", "lives", "events"]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_is_printed_and_is_no_error(run, arguments):
    assert "usage: vibench-data prepare cwru  raw=DIR" in run(0, *arguments).stdout


# refusals: exit status 2 and one line on stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "cwru"], "raw is missing: the folder that holds the files; use prepare cwru raw=DIR"),
        (["prepare", "cwru", "raw=absent"], "raw=absent is not a folder"),
        (
            ["prepare", "cwru", "raw=.", "sore=x.h5"],
            "sore=x.h5 is not a setting of prepare cwru; there are normal_rate_hz",
        ),
        (
            ["prepare", "femto", "raw=.", "normal_rate_hz=12000"],
            "normal_rate_hz=12000 is not a setting of prepare femto",
        ),
        (["prepare", "cwru", "."], ". is not a setting of prepare cwru"),
        (["prepare", "cwru", "raw=.", "skip_broken=yes"], "skip_broken=yes is neither true nor false"),
        (["prepare", "cwru", "raw=.", "normal_rate_hz=44100"], "normal_rate_hz=44100 is neither 48000 nor 12000"),
        (["prepare", "paderborn", "raw=."], "paderborn is no data set that can be prepared; there are cwru, femto"),
        (["prepare"], "cannot read 'prepare'"),
        (["inspekt", "x.h5"], "cannot read 'inspekt x.h5'"),
        (["inspect", "absent.h5"], "absent.h5 does not exist; make it with"),
        (["prepare", "femto", "raw=."], "raw=. is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_refused_with_a_remedy(run, arguments, message):
    done = run(2, *arguments)
    assert done.stderr.strip().startswith(f"vibench-data: {message}")


def test_an_empty_value_of_raw_does_not_mean_the_working_folder(run, cwru):
    assert "raw=" in run(2, "prepare", "cwru", "raw=", cwd=cwru).stderr
    assert not (cwru / "cwru.h5").exists()


def test_a_broken_file_is_refused_and_nothing_is_written(run, cwru, tmp_path):
    whole = (cwru / "105.mat").read_bytes()
    (cwru / "105.mat").write_bytes(whole[: len(whole) // 2])
    (cwru / "108.mat").write_bytes(b"")
    done = run(2, "prepare", "cwru", f"raw={cwru}")
    assert "2 files cannot be read, nothing was written" in done.stderr
    assert f"{cwru}/105.mat cannot be read as a .mat file" in done.stderr
    assert f"{cwru}/108.mat cannot be read as a .mat file" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwru"]


def test_skip_broken_names_what_it_left_out(run, cwru, tmp_path):
    (cwru / "105.mat").write_bytes(b"")
    done = run(0, "prepare", "cwru", f"raw={cwru}", "skip_broken=true")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"skipped {cwru}/105.mat ")]
    assert "cannot be read as a .mat file" in line
    assert "2 recordings from 5 files, 3 skipped" in done.stdout
    assert [r.id for r in Store(tmp_path / "cwru.h5").recordings] == ["97", "108"]


def test_a_sample_that_is_not_finite_is_refused_with_its_place(run, cwru):
    signal = np.ones((120, 1))
    signal[33] = np.nan
    savemat(cwru / "105.mat", {"X105_DE_time": np.ones((120, 1)), "X105_FE_time": signal})
    done = run(2, "prepare", "cwru", f"raw={cwru}")
    assert "105.mat has 1 samples that are not finite numbers, the first at sample 33 of channel 1" in done.stderr


def test_a_folder_of_other_files_is_refused_with_an_example(run, femto):
    done = run(2, "prepare", "cwru", f"raw={femto}")
    assert "none of the 5 files holds a recording that can be read, nothing was written:" in done.stderr
    assert "not a .mat file" in done.stderr


@pytest.mark.parametrize("store", ["cwru", "cwru/97.mat/s.h5"], ids=["a folder", "below a file"])
def test_a_store_that_cannot_be_written_there_is_refused_by_name(run, cwru, store):
    assert store in run(2, "prepare", "cwru", f"raw={cwru}", f"store={store}").stderr
