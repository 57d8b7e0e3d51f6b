"""Control groups of Linux: what memory a container or a SLURM job leaves this process, and kills for want of it."""

from pathlib import Path

GROUPS = {  # version of the control groups -> mark of its line, folder, files of the limit and of what is taken
    1: (":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "cache"),
    2: ("0::", "/sys/fs/cgroup", "memory.max", "memory.current", "file"),
}
NO_LIMIT_MB = 2**40  # version 1 has no word for it, but a number beyond any machine
KILLS = {1: "memory.oom_control", 2: "memory.events"}  # version -> file with a line "oom_kill N"


def _groups() -> list[tuple[int, Path]]:
    """Version and folder of the control groups of this process, its own first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for version, (mark, root, *_) in GROUPS.items():
        for own in (line.split(mark, 1)[1] for line in lines if mark in line):
            folder = Path(root) / own.lstrip("/")
            found += [(version, group) for group in (folder, *folder.parents)]
    return found


def free_bytes() -> list[int]:
    """What each control group with a limit leaves this process; files in memory can go."""
    found = []
    for version, group in _groups():
        _, _, limit, taken, cached = GROUPS[version]
        try:
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            most, used = int((group / limit).read_text()), int((group / taken).read_text())
            found.append(most - used + int(stat[cached]))
        except (OSError, ValueError, KeyError):  # no limit, or not a group
            continue
    return found


def limit_mb() -> int | None:
    """The smallest limit of memory of this process's control groups, in MB; None without one."""
    found = []
    for version, group in _groups():
        try:
            found.append(int((group / GROUPS[version][2]).read_text()) // 2**20)
        except (OSError, ValueError):
            continue
    return min((limit for limit in found if limit < NO_LIMIT_MB), default=None)


def kills() -> int:
    """Processes that the kernel has killed so far because memory was full, in the control group of this process.

    Not in those above: they count what other jobs of the machine were killed for.
    """
    innermost = {version: group for version, group in reversed(_groups())}
    most = 0
    for version, group in innermost.items():
        try:
            told = dict(line.split(maxsplit=1) for line in (group / KILLS[version]).read_text().splitlines())
            most = max(most, int(told["oom_kill"]))
        except (OSError, ValueError, KeyError):
            continue
    return most
