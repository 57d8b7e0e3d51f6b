"""What control groups leave a process, and what the kernel has killed there, by the files in which it says so."""

from pathlib import Path

import pytest

from vibench.cgroups import GROUPS, NO_LIMIT_MB, free_bytes, kills, limit_mb

GIB = 2**30
LINES = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
OWN = {version: line.split(mark)[1] for version, (mark, *_) in GROUPS.items() for line in LINES if mark in line}
EVERY = pytest.mark.parametrize("version", sorted(OWN))
NESTED = pytest.mark.parametrize("version", [version for version, own in sorted(OWN.items()) if own != "/"])
COUNTS = {  # version -> file and text, with the number left out
    1: ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
    2: ("memory.events", "low 0\nhigh 0\nmax 21\noom 9\noom_kill {}\noom_group_kill 0\n"),
}


@pytest.fixture(autouse=True)
def silent(monkeypatch, tmp_path):
    """The groups of this machine say nothing; those of a test do."""
    for version, (mark, _, *names) in GROUPS.items():
        monkeypatch.setitem(GROUPS, version, (mark, str(tmp_path / "nowhere"), *names))


@EVERY
def test_a_limit_is_told_in_mb(control_group, version):
    control_group(version, most=2)
    assert limit_mb() == 2048


@NESTED
@pytest.mark.parametrize(("own", "above"), [(0.5, 4), (4, 0.5)])
def test_the_limit_is_the_smallest_of_all_groups_that_a_process_is_in(control_group, version, own, above):
    control_group(version, most=own)
    control_group(version, most=above, above=True)
    assert limit_mb() == 512


@EVERY
def test_no_limit_has_a_word_or_a_number_beyond_any_machine(control_group, version):
    control_group(version, most="max" if version == 2 else "9223372036854771712")
    assert limit_mb() is None
    control_group(version, most=NO_LIMIT_MB / 1024)
    assert limit_mb() is None
    control_group(version, most=NO_LIMIT_MB / 1024 - 1)
    assert limit_mb() == NO_LIMIT_MB - 1024


@EVERY
def test_what_a_group_leaves_is_its_limit_less_what_is_taken_but_for_files(control_group, version):
    control_group(version, most=0.5, used=0.25, cached=0.125)
    assert free_bytes() == [0.375 * GIB]


@NESTED
def test_every_group_says_what_it_leaves(control_group, version):
    control_group(version, most=0.5, used=0.25)
    control_group(version, most=2, used=0.5, above=True)
    assert sorted(free_bytes()) == [0.25 * GIB, 1.5 * GIB]


@EVERY
@pytest.mark.parametrize("text", ["", "anon 17\n", "of another kernel\n", None])
def test_a_group_whose_words_are_not_known_says_nothing(control_group, version, text):
    stat = control_group(version, most=0.5) / "memory.stat"
    stat.unlink() if text is None else stat.write_text(text)
    assert free_bytes() == []
    assert limit_mb() == 512


@EVERY
def test_what_the_kernel_killed_is_counted(control_group, version):
    name, text = COUNTS[version]
    file = control_group(version, most=1) / name
    assert kills() == 0
    file.write_text(text.format(2))
    assert kills() == 2
    file.write_text("oom_kill many\n")
    assert kills() == 0


@NESTED
def test_what_was_killed_elsewhere_on_the_machine_is_not_counted(control_group, version):
    """A group counts the kills of all groups below it."""
    name, text = COUNTS[version]
    (control_group(version, most=1) / name).write_text(text.format(2))
    (control_group(version, most=1, above=True) / name).write_text(text.format(7))
    assert kills() == 2


def test_where_no_group_says_anything_nothing_is_known():
    assert (free_bytes(), limit_mb(), kills()) == ([], None, 0)
