"""Which runs there are of a config: found by what was composed, by one process at a time."""

import importlib.metadata
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibench.config.plain import plain
from vibench.report.known_runs import hash_of, locked, remember, runs_of

NAME = st.text("abc", max_size=2)
CONFIGS = st.dictionaries(NAME, st.dictionaries(NAME, st.integers(0, 1), max_size=2), max_size=3)
HOLD = "import sys, time; from vibench.report.known_runs import locked\nwith locked(): print('held', flush=True); {}"


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """A user's cache in which no run is."""
    monkeypatch.setenv("VIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(tmp_path):
    """A directory of a run."""

    def call(name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    return call


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path, value


# the hash


@given(CONFIGS, CONFIGS)
def test_configs_have_the_same_hash_only_where_they_are_the_same_in_whatever_order(one, other):
    assert hash_of(one) == hash_of(dict(reversed(one.items())))
    assert (hash_of(one) == hash_of(other)) == (one == other)


def test_every_value_of_a_config_is_in_its_hash(resolved):
    config = plain(resolved("hardware=cpu"))
    every = {hash_of(config)}
    paths = [path for path, _ in leaves(config)]
    for path in paths:
        changed = plain(config)
        node = changed
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = "something else"
        every.add(hash_of(changed))
    assert len(every) == 1 + len(paths) > 80


def test_the_same_line_has_the_same_hash_and_another_seed_another(resolved):
    one, again, other = (hash_of(plain(resolved("hardware=cpu", f"seed={seed}"))) for seed in (1, 1, 2))
    assert one == again != other


def test_another_version_of_vibench_has_runs_of_its_own(monkeypatch):
    before = hash_of({"seed": 1})
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.0")
    assert hash_of({"seed": 1}) != before


# the index


@pytest.mark.usefixtures("own_cache")
def test_runs_are_found_oldest_first_and_each_once(run):
    first, second = run("b"), run("a")
    for folder in (first, second, first):
        remember("a1", folder)
    assert runs_of("a1") == [first, second]
    assert runs_of("b2") == []


@pytest.mark.usefixtures("own_cache")
def test_a_run_that_was_deleted_is_none(run):
    gone, there = run("gone"), run("there")
    remember("a1", gone)
    remember("a1", there)
    gone.rmdir()
    assert runs_of("a1") == [there]


@pytest.mark.usefixtures("own_cache")
def test_a_run_is_found_from_every_folder(run, monkeypatch, tmp_path):
    run("here")
    monkeypatch.chdir(tmp_path)
    remember("a1", Path("here"))
    monkeypatch.chdir("/")
    assert runs_of("a1") == [tmp_path / "here"]


@pytest.mark.usefixtures("own_cache")
def test_a_name_with_spaces_is_a_name(run):
    folder = run("a run of mine")
    remember("a1", folder)
    assert runs_of("a1") == [folder]


def test_a_cache_that_cannot_be_written_to_forbids_no_run(own_cache, run):
    own_cache.write_text("a file in its place")
    remember("a1", run("there"))
    assert runs_of("a1") == []


def test_two_processes_that_add_runs_lose_none(own_cache, tmp_path):
    code = (
        "import sys; from pathlib import Path; from vibench.report.known_runs import remember\n"
        "for n in range(300): remember('a1', Path(sys.argv[1]) / f'{n:0500}')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, tmp_path / name]) for name in ("one", "two")]
    assert [process.wait(60) for process in both] == [0, 0]
    lines = (own_cache / "runs" / "a1").read_text().splitlines()
    assert sorted(lines) == sorted(f"{tmp_path / name}/{n:0500}" for name in ("one", "two") for n in range(300))


# the lock


def holder(then):
    """Another process that has the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(then)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.usefixtures("own_cache")
def test_a_second_process_waits_until_the_first_has_submitted_and_says_for_what(caplog):
    caplog.set_level(logging.INFO, "vibench")
    process, began = holder("time.sleep(0.5)"), time.monotonic()
    with locked():
        waited = time.monotonic() - began
    assert 0.3 < waited < 5
    assert "another sweep is being submitted: waiting for " in caplog.text
    assert process.wait(10) == 0


@pytest.mark.usefixtures("own_cache")
def test_a_process_that_is_killed_leaves_no_lock_behind(caplog):
    process = holder("time.sleep(60)")
    process.kill()
    process.wait()
    with locked():
        pass
    assert caplog.text == ""


@pytest.mark.usefixtures("own_cache")
def test_a_process_that_fails_gives_the_lock_back():
    with pytest.raises(ValueError, match="no"), locked():
        raise ValueError("no")
    assert holder("pass").wait(10) == 0
