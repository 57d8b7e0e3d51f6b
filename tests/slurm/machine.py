"""What a test cluster takes from the machine: programs, ports and a control group of memory."""

import os
import random
import shutil
import socket
from pathlib import Path

from tests.slurm import processes

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = {  # of Debian -> what is needed of them
    "slurm-wlm": ("slurmctld", "slurmd", "sbatch", "scontrol"),
    "munge": ("munged",),
}
PACKAGES_OF_ACCOUNTING = {
    "slurmdbd": ("slurmdbd",),
    "slurm-wlm-mysql-plugin": ("slurmdbd",),  # has no program of its own
    "mariadb-server": ("mariadbd", "mariadb-install-db"),
}
PORTS = range(20000, 32000)  # below those that the kernel gives to whoever connects
MEMORY = Path("/sys/fs/cgroup/memory")  # version 1; SLURM 22.05 wants systemd for version 2


def missing(*, accounting: bool = True) -> str | None:
    """Why there can be no cluster here, and what to do; None if there can be."""
    if os.geteuid() != 0:
        return "a test cluster of SLURM needs root, for device files and control groups"
    wanted = PACKAGES | (PACKAGES_OF_ACCOUNTING if accounting else {})
    absent = [name for name, programs in wanted.items() if not all(shutil.which(p, path=PATH) for p in programs)]
    if absent:
        return f"SLURM is not all there; apt-get install --no-install-recommends {' '.join(absent)}"
    return None


def free_ports(number: int) -> list[int]:
    """Different ones: each is held until the last is found."""
    held: dict[int, socket.socket] = {}
    try:
        for port in random.sample(PORTS, len(PORTS)):
            held[port] = socket.socket()
            try:
                held[port].bind(("", port))
            except OSError:
                held.pop(port).close()
            if len(held) == number:
                return list(held)
        raise OSError(f"there are no {number} free ports from {PORTS.start} to {PORTS.stop - 1}")
    finally:
        for each in held.values():
            each.close()


def make_memory_group(name: str, link: Path) -> bool:
    """A control group for all nodes of a cluster, and a link to it; whether this machine lets us."""
    try:
        (MEMORY / name).mkdir()
    except OSError:
        return False
    link.symlink_to(MEMORY / name)
    return True


def remove_memory_group(link: Path) -> None:
    """With all that runs in it."""
    if not link.is_symlink():
        return
    group = link.readlink()
    processes.kill(lambda: {int(pid) for file in group.rglob("cgroup.procs") for pid in file.read_text().split()})
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)
    link.unlink()
