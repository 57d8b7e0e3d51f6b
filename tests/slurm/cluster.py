"""A SLURM cluster on one machine, for tests: five nodes named after their cards, with real accounting.

    python -m tests.slurm.cluster up DIR        as root; prints what a shell has to export
    python -m tests.slurm.cluster status DIR
    python -m tests.slurm.cluster down DIR

All that it keeps is in one folder; beside it there is one control group of memory. Several clusters do not disturb
each other: their ports are those that were free.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.slurm import machine, processes
from tests.slurm.configuration import MARK, NODES, Ports, Settings, write

DAEMONS = {"munged": "munged", "mariadbd": "mariadbd", "slurmdbd": "slurmdbd", "slurmctld": "slurmctld"} | {
    node.name: "slurmd" for node in NODES
}  # name, of its log too -> program; in the order in which they start
STATE = ("pid", "munge", "mariadb", "state", "spool", "devices", "cgroup")  # of no use once the cluster is down
DATABASE = (  # small, and nothing in it has to survive
    "--no-defaults",
    "--user=root",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-lock-wait-timeout=900",  # slurmdbd asks for it
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--performance-schema=OFF",
    "--skip-name-resolve",
)
READY = ("idle", "mixed", "allocated")
LONGEST = 60  # characters; a socket of a step adds 45, and Linux takes 107
UP_S = 30  # for one daemon, on a machine with much else to do
SETTLED_S = 3  # after which a daemon that was started has written its number
LAST_LINES = 8


class ClusterError(Exception):
    """The cluster cannot be here, or a part of it does not come up, or a command of SLURM fails."""


class Cluster:
    """The cluster in a folder. Two objects of one folder are the same cluster."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).resolve()
        self.conf = self.folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.conf), "PATH": machine.PATH}
        self._memory_group = self.folder / "cgroup" / "memory"
        self._started: list[str] = []

    @property
    def accounting(self) -> bool:
        """Whether there is a sacct."""
        return (self.folder / "mariadb").exists()

    @property
    def memory(self) -> str:
        """Who ends a job that takes more than it asked for: ``cgroup`` at once, ``poll`` a second later.

        SLURM calls the first OUT_OF_MEMORY and the second FAILED.
        """
        return "cgroup" if self._memory_group.exists() else "poll"

    def up(self, *, accounting: bool = True, memory: str | None = None, settings: Settings | None = None) -> None:
        """Bring it up, with nothing of what an earlier one left in the folder. It takes jobs when this returns.

        Args:
            accounting: with slurmdbd and MariaDB.
            memory: ``cgroup`` or ``poll``; None: what this machine can.
            settings: lines of slurm.conf, instead of those in ``configuration``: ``{"MaxArraySize": 1001}``.

        Raises:
            ClusterError: with the last lines of the daemon at fault. Nothing is left then but the logs.
        """
        self._check(accounting)
        self.down()
        self._started = []
        try:
            self._prepare(accounting, memory, settings or {})
            self._start("munged", *self._munged())
            if accounting:
                self._start_accounting()
            self._start("slurmctld", "slurmctld")
            for node in NODES:
                self._start(node.name, "slurmd", "-N", node.name)
            for node in NODES:
                self._wait_for_node(node.name)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End all of it at once. The configuration and the logs are left."""
        if not self._is_ours():
            return
        for node in NODES:
            self.node_down(node.name)
        for name in reversed(DAEMONS):
            processes.kill(lambda name=name: processes.family(self._pid(name)))
        machine.remove_memory_group(self._memory_group)
        for name in STATE:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def node_down(self, name: str) -> None:
        """As a loss of power: slurmd and all that runs on the node are killed, and nobody is told.

        slurmctld needs about 20 s to notice: what ran there is requeued, the node is ``down*``.
        """
        processes.kill(lambda: processes.family(self._pid(name)))
        processes.kill(lambda: processes.on_node(name, self.conf, self._log(name)))
        self._started = [each for each in self._started if each != name]

    def node_up(self, name: str) -> None:
        """Returns when the node takes jobs.

        Wait for ``down*`` before: a node that is back unnoticed may keep its dead jobs RUNNING for long.
        """
        self._start(name, "slurmd", "-N", name)
        self._wait_for_node(name)

    def states(self) -> dict[str, str]:
        """Of each node, as sinfo says it: ``idle``, ``down*``; the star is for one that does not answer."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-p", "all", "-o", "%N %T").splitlines())

    def status(self) -> str:
        pids = {name: self._pid(name) for name in DAEMONS}
        lines = [f"{name:10} {'down' if pid is None else f'up {pid}'}" for name, pid in pids.items()]
        if pids["slurmctld"]:
            lines += ["", self.run("sinfo", "-N", "-o", "%10N %12P %10T %4c %7m %G"), self.run("squeue")]
        return "\n".join(lines)

    def run(self, *command: str) -> str:
        """What a command of SLURM prints on this cluster.

        Raises:
            ClusterError: with its errors.
        """
        done = self._run(command)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )

    def _is_ours(self) -> bool:
        return self.conf.exists() and self.conf.read_text().startswith(MARK)

    def _check(self, accounting: bool) -> None:
        if reason := machine.missing(accounting=accounting):
            raise ClusterError(reason)
        if self.folder.exists() and any(self.folder.iterdir()) and not self._is_ours():
            raise ClusterError(f"{self.folder} is neither empty nor of a test cluster; give it another folder")
        if len(str(self.folder)) > LONGEST or " " in str(self.folder):
            raise ClusterError(f"{self.folder}: sockets need a path of at most {LONGEST} characters, without spaces")

    def _prepare(self, accounting: bool, memory: str | None, settings: Settings) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self.conf.write_text(MARK)
        shutil.rmtree(self.folder / "log", ignore_errors=True)
        for name in ("log", "pid", "munge", "state", "devices", "cgroup", *(f"spool/{node.name}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        slurmctld, slurmdbd, *slurmd = machine.free_ports(2 + len(NODES))
        made = memory != "poll" and machine.make_memory_group(f"slurm-test-{slurmctld}", self._memory_group)
        if memory == "cgroup" and not made:
            raise ClusterError(f"memory=cgroup, but no group can be made in {machine.MEMORY}; use memory=poll")
        ports = Ports(slurmctld, slurmdbd, tuple(slurmd))
        write(self.folder, ports, accounting=accounting, memory=self.memory, settings=settings)

    def _munged(self) -> list[str]:
        """Its command, with a new key."""
        folder = self.folder / "munge"
        key = folder / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"key": key, "seed": folder / "seed", "pid": self._pid_file("munged"), "log": self._log("munged")}
        options = [f"--{name}-file={path}" for name, path in files.items()]
        return ["munged", "--force", f"--socket={folder}/socket", *options]  # force: a folder of pytest is private

    def _start_accounting(self) -> None:
        """A database, and slurmdbd, which learns of the cluster, and of an account ``lab`` beside that of root."""
        data = self.folder / "mariadb"
        where = (*DATABASE, f"--datadir={data}", f"--tmpdir={self.folder}/state")
        self._do("mariadbd", "mariadb-install-db", *where, "--auth-root-authentication-method=normal")
        files = (f"--socket={data}/socket", f"--pid-file={self._pid_file('mariadbd')}")
        log = f"--log-error={self._log('mariadbd')}"
        self._start("mariadbd", "setsid", "--fork", "mariadbd", *where, *files, log, "--skip-networking")
        self._wait("mariadbd", (data / "socket").exists, "listen")
        self._start("slurmdbd", "slurmdbd", MYSQL_UNIX_PORT=f"{data}/socket")
        add = ("sacctmgr", "--immediate", "add")
        self._wait("slurmdbd", lambda: self._answers("slurmdbd", *add, "cluster", "vibench"), "answer")
        self.run(*add, "account", "lab", "Description=lab", "Organization=lab")
        self.run(*add, "user", "root", "Account=lab")

    def _start(self, name: str, *command: str, **environment: str) -> None:
        """Run a daemon, which goes into the background by itself."""
        self._do(name, *command, **environment)
        self._started.append(name)

    def _do(self, name: str, *command: str, **environment: str) -> None:
        with self._output(name).open("a") as out:
            done = subprocess.run(
                command,
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise ClusterError(f"{command[0]} failed with exit status {done.returncode}{self._last_lines(name)}")

    def _answers(self, name: str, *command: str) -> bool:
        """Whether a command that asks a daemon succeeds; if not, what it says is kept with what the daemon said."""
        done = self._run(command)
        if done.returncode:
            self._output(name).write_text(done.stderr)
        return done.returncode == 0

    def _wait_for_node(self, name: str) -> None:
        self._wait(name, lambda: self._state(name) in READY, "take jobs")

    def _state(self, name: str) -> str:
        return self._run(["sinfo", "-h", "-n", name, "-p", "all", "-o", "%T"]).stdout.strip()

    def _wait(self, name: str, holds: Callable[[], bool], what: str) -> None:
        started = time.monotonic()
        while not holds():
            waited = time.monotonic() - started
            over = [each for each in self._started if self._pid(each) is None] if waited > SETTLED_S else []
            if over:
                raise ClusterError(f"{over[0]} ended as soon as it was started{self._last_lines(over[0])}")
            if waited > UP_S:
                raise ClusterError(f"{name} was started {UP_S} s ago and still does not {what}{self._last_lines(name)}")
            time.sleep(0.1)

    def _last_lines(self, name: str) -> str:
        files = [path for path in (self._log(name), self._output(name)) if path.exists() and path.stat().st_size]
        lines = [line for path in files for line in path.read_text(errors="replace").splitlines()[-LAST_LINES:]]
        return "".join(f"\n  {line}" for line in (f"the end of {', '.join(map(str, files))}:", *lines))

    def _log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def _output(self, name: str) -> Path:
        """What it says before it has a log."""
        return self.folder / "log" / f"{name}.out"

    def _pid_file(self, name: str) -> Path:
        return self.folder / "pid" / name

    def _pid(self, name: str) -> int | None:
        return processes.running(self._pid_file(name), DAEMONS[name], self.conf)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 2 or arguments[0] not in ("up", "down", "status"):
        sys.exit("usage: python -m tests.slurm.cluster up|down|status DIR")
    action, cluster = arguments[0], Cluster(arguments[1])
    try:
        if action == "up":
            cluster.up()
            print(f"export SLURM_CONF={cluster.conf}")
        elif action == "down":
            cluster.down()
        else:
            print(cluster.status())
    except (ClusterError, OSError) as error:
        sys.exit(f"{action}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
