"""A sweep on disk: all of it or nothing, read as it was written, and refused where it cannot be read."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vibench.errors import ConfigError
from vibench.launch.sweep import FILE, Job, Sweep, claimed

FIRST = Job(number=0, name="seed=0", overrides=["d_model=16", "seed=0"], folder="0", hardware="cpu", config_hash="a1")
SECOND = Job(number=1, name="seed=1", overrides=["d_model=16", "seed=1"], folder="1", refused=["no", "never"])
TEXT = st.text(st.characters(exclude_categories=("Cs",)))


def sweep(folder, *jobs):
    return Sweep(folder=folder, launcher={"name": "local", "jobs": None}, jobs=list(jobs), config_dir="/mine")


def test_a_sweep_is_read_as_it_was_written(tmp_path):
    written = sweep(tmp_path, FIRST, SECOND, Job(number=7, name="", overrides=[], folder="x", same_as="/other/run"))
    written.write()
    assert Sweep.read(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@settings(max_examples=50)
@given(st.lists(st.builds(Job, number=st.integers(), name=TEXT, overrides=st.lists(TEXT), folder=TEXT), max_size=3))
def test_whatever_was_typed_is_read_as_it_was_typed(tmp_path_factory, jobs):
    folder = tmp_path_factory.mktemp("sweep")
    sweep(folder, *jobs).write()
    assert Sweep.read(folder).jobs == jobs


def test_a_sweep_that_was_moved_is_where_it_is(tmp_path):
    """Also one that is named by another path than where it was begun, e.g. a relative one."""
    (tmp_path / "old").mkdir()
    sweep(tmp_path / "old", FIRST).write()
    (tmp_path / "old").rename(tmp_path / "new")
    assert Sweep.read(tmp_path / "new").run_dir(FIRST) == tmp_path / "new" / "0"


def test_a_manifest_names_its_folder_for_who_reads_it_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    sweep(Path("sweep"), FIRST).write()
    assert json.loads((tmp_path / "sweep" / FILE).read_text())["folder"] == str(tmp_path / "sweep")


def test_on_a_full_disk_the_manifest_before_stays_whole(small_disk):
    (small_disk / "sweep").mkdir()
    sweep(small_disk / "sweep", FIRST).write()
    many = [Job(number=n, name="seed=0" * 100, overrides=["seed=0"] * 100, folder=str(n)) for n in range(100)]
    with pytest.raises(OSError, match="No space left"):
        sweep(small_disk / "sweep", *many).write()
    assert Sweep.read(small_disk / "sweep").jobs == [FIRST]


def test_a_folder_without_a_sweep_is_told_so(tmp_path):
    with pytest.raises(ConfigError, match=rf"{tmp_path} holds no sweep: there is no {FILE}; name the directory of one"):
        Sweep.read(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    sweep(folder, FIRST, SECOND).write()
    return (folder / FILE).read_text().rstrip()


WITHOUT = [{key: value for key, value in asdict(FIRST).items() if key != name} for name in ("number", "overrides")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "3",
        '"sweep"',
        '{"jobs": 3, "launcher": {}}',
        '{"jobs": [3], "launcher": {}}',
        '{"jobs": []}',
        '{"jobs": [], "launcher": {}, "of another version": 1}',
        *(json.dumps({"jobs": [job], "launcher": {}}) for job in WITHOUT),
    ],
)
def test_what_is_no_manifest_is_refused_in_a_line_that_names_it(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match=f"{tmp_path / FILE} cannot be read: ") as refused:
        Sweep.read(tmp_path)
    (said,) = refused.value.complaints
    assert "\n" not in said


@settings(max_examples=100)
@given(data=st.data())
def test_a_manifest_that_was_cut_short_is_refused(tmp_path_factory, whole, data):
    folder = tmp_path_factory.mktemp("cut")
    (folder / FILE).write_text(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(ConfigError, match="cannot be read: "):
        Sweep.read(folder)


def test_a_manifest_of_other_bytes_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read: "):
        Sweep.read(tmp_path)


def test_a_manifest_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigError, match=rf"{FILE} cannot be read: .*[Ii]s a directory"):
        Sweep.read(tmp_path)


def test_a_claim_makes_the_folder_and_ends_with_its_block(tmp_path):
    for _ in range(2):
        with claimed(tmp_path / "a" / "sweep", wait=False):
            assert (tmp_path / "a" / "sweep").is_dir()
