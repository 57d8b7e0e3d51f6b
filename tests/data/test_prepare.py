"""A folder of raw files becomes a store or nothing, and every file is accounted for."""

import numpy as np
import pytest

from tests.data.conftest import raw
from vibench.data import femto
from vibench.data.prepare import NotWantedError, files_below, prepare
from vibench.data.store import Store
from vibench.errors import DataError


def read(path):
    """A reader whose files say what becomes of them."""
    if path.suffix == ".skip":
        raise NotWantedError("a skipped kind")
    if path.suffix == ".bad":
        raise DataError(f"{path} is damaged")
    signal = np.full((9, 1), {".nan": np.nan, ".huge": 1e300}.get(path.suffix, 1.0))
    return raw(path.stem, signal=signal, source=str(path))


@pytest.fixture
def folder(tmp_path):
    """Make files with these names."""

    def call(*names):
        (tmp_path / "raw").mkdir()
        for name in names:
            (tmp_path / "raw" / name).write_text(name)
        return files_below(tmp_path / "raw")

    return call


def test_every_file_is_a_recording_or_skipped_with_its_reason(folder, tmp_path):
    done = prepare(folder("a.ok", "b.skip", "c.ok"), read, tmp_path / "made.h5")
    assert (done.recordings, done.broken) == (2, [])
    assert [(path.name, reason) for path, reason in done.skipped] == [("b.skip", "a skipped kind")]
    assert [r.id for r in Store(tmp_path / "made.h5").recordings] == ["a", "c"]


def test_nothing_is_written_when_a_file_is_broken_and_every_broken_file_is_listed(folder, tmp_path):
    files = folder("a.ok", "b.bad", "c.nan", "d.ok", "e.bad")
    with pytest.raises(DataError, match=r"^3 files cannot be read, nothing was written:\n") as refused:
        prepare(files, read, tmp_path / "made.h5")
    for part in ("b.bad is damaged", "c.nan has 9 samples that are not finite", "e.bad is damaged", "skip_broken=true"):
        assert part in str(refused.value)
    assert "a.ok" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_store_that_was_there_survives_a_broken_file(folder, tmp_path):
    prepare([folder("a.ok", "b.bad")[0]], read, tmp_path / "made.h5")
    before = (tmp_path / "made.h5").read_bytes()
    with pytest.raises(DataError, match="1 files cannot be read, nothing was written"):
        prepare(files_below(tmp_path / "raw"), read, tmp_path / "made.h5")
    assert (tmp_path / "made.h5").read_bytes() == before


def test_skip_broken_leaves_out_exactly_the_broken_files(folder, tmp_path):
    done = prepare(folder("a.ok", "b.bad", "c.nan", "d.ok"), read, tmp_path / "made.h5", skip_broken=True)
    assert done.recordings == 2
    assert [path.name for path, _ in done.broken] == ["b.bad", "c.nan"]
    assert [r.id for r in Store(tmp_path / "made.h5").recordings] == ["a", "d"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_number_beyond_float32_is_a_broken_file_like_any_other(folder, tmp_path):
    files = folder("a.ok", "b.huge", "c.bad")
    with pytest.raises(DataError, match="2 files cannot be read") as refused:
        prepare(files, read, tmp_path / "made.h5")
    assert "b.huge" in str(refused.value)
    assert prepare(files, read, tmp_path / "made.h5", skip_broken=True).recordings == 1


def test_a_folder_without_a_single_recording_is_refused_with_an_example(folder, tmp_path):
    with pytest.raises(DataError, match=r"(?s)none of the 2 files holds a recording.*a\.skip: a skipped kind"):
        prepare(folder("a.skip", "b.skip"), read, tmp_path / "made.h5")
    assert not (tmp_path / "made.h5").exists()


def test_a_folder_of_broken_files_is_refused_with_an_example_even_when_they_are_skipped(folder, tmp_path):
    with pytest.raises(DataError, match=r"(?s)none of the 2 files.*a\.bad.*b\.bad"):
        prepare(folder("a.bad", "b.bad"), read, tmp_path / "made.h5", skip_broken=True)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"raw=.* is empty; give the folder that holds the raw files"):
        files_below(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"raw=.*absent is not a folder"):
        files_below(tmp_path / "absent")


def test_files_of_sub_folders_are_found_in_order_and_hidden_ones_left_out(tmp_path):
    for name in ("b/2.x", "a/1.x", "a/10.x", ".hidden", "a/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [str(path.relative_to(tmp_path)) for path in files_below(tmp_path)] == ["a/1.x", "a/10.x", "b/2.x"]


def test_a_life_whose_last_file_is_broken_keeps_its_end(tmp_path):
    # the failure is when the last file was taken, also if that file itself cannot be read
    bearing = tmp_path / "Bearing1_1"
    bearing.mkdir()
    for k in (1, 2, 3):
        (bearing / f"acc_{k:05d}.csv").write_text("9,39,39,0,0.1,0.2\n" * (5 if k < 3 else 1))
    files = files_below(tmp_path)
    done = prepare(files, femto.reader(files), tmp_path / "made.h5", skip_broken=True)
    assert [path.name for path, _ in done.broken] == ["acc_00003.csv"]
    assert [r.rul_s for r in Store(tmp_path / "made.h5").recordings] == [20, 10]
