"""A sweep on the test cluster, begun by a process of its own as a user's, and what it says while it is watched."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import TINY as SMALL
from tests.faults.runs import status_of
from tests.slurm.commands import sacct, wait_for
from vibench.launch.slurm import jobs_of

TINY = ("hardware.device=cpu", "hardware.cpus=1", *(text for text in SMALL if not text.startswith("hardware=")))
ANY_BACKBONE = (*TINY, "embedding.patch_len=8", "embedding.stride=8")  # the tokens suit all four
DROPS = (  # draws in every step, so that a run that goes on wrongly ends elsewhere; 7 s, of which 6 are imports
    *ANY_BACKBONE,
    "backbone=patchtst",
    "backbone.e_layers=1",
    "backbone.n_heads=4",
    "backbone.d_ff=32",
    "backbone.dropout=0.2",
)
LONG = "training.epochs=40"  # half a dozen seconds more
SHORT_AND_LONG = "training.epochs=1,40"  # jobs 0 and 1
QUIET = "--output=/dev/null"
SEEN_S = 30  # within which who watches a sweep is told
PATIENCE_S = 240  # for what takes some seconds where nothing else runs
LINE = re.compile(
    r"^(?P<time>\d\d:\d\d:\d\d) (?P<number>\d+) .*?: (?P<state>[a-z]+(?: [A-Z]+)?)"
    r"(?: \(job (?P<job>\S+?)(?: on (?P<where>\S+))?\))?(?:: (?P<said>.*))?$"
)


def command(name: str, *arguments: object) -> list[str]:
    """A command of vibench, for a process of its own."""
    return [sys.executable, "-c", f"from vibench.cli.{name} import main; main()", *map(str, arguments)]


def on(partition: str, card: str | None = None) -> tuple[str, ...]:
    """Run without a plan for a card, on the nodes of a partition: a second less than with one."""
    kind = card or partition.partition("-")[0]
    return ("hardware=cpu", f"hardware.slurm.partition={partition}", f"hardware.slurm.gres=gpu:{kind}")


class Change(NamedTuple):
    """A line by which a watched sweep says that a job is in another state."""

    time: str
    number: int
    state: str
    job: str | None
    where: str | None
    said: str | None


class Watched:
    """A process of vibench that has begun a sweep, or watches one, and what it prints.

    Attributes:
        folder: of the sweep.
        cpu_s: seconds of a core that it took, once it is over.
    """

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder = folder
        self._file = folder.with_name(f"{folder.name}-{len(list(folder.parent.glob(f'{folder.name}-*.txt')))}.txt")
        with self._file.open("wb") as file:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        self.cpu_s = 0.0

    def code(self) -> int | None:
        """Its exit status; None while it runs."""
        if self.process.returncode is None:
            pid, ended, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(ended)
                self.cpu_s = usage.ru_utime + usage.ru_stime
        return self.process.returncode

    def printed(self) -> str:
        return self._file.read_text()

    def changes(self) -> list[Change]:
        found = [LINE.match(line) for line in self.printed().splitlines()]
        return [Change(m["time"], int(m["number"]), m["state"], m["job"], m["where"], m["said"]) for m in found if m]

    def states(self, number: int) -> list[str]:
        """That were said of a job, in their order."""
        return [change.state for change in self.changes() if change.number == number]

    def says(self, number: int, state: str, *, seconds: float = SEEN_S) -> None:
        """Returns once it has said it of a job."""
        self._until(lambda: state in self.states(number), seconds, f"job {number} is said to be {state}")

    def says_more(self, number: int) -> None:
        """Returns once it does not say any more that a job is running."""
        self._until(lambda: self.states(number)[-1] != "running", SEEN_S, f"job {number} is not said to be running")

    def trains(self, number: int) -> None:
        """Returns once a job has a checkpoint to go on from."""
        checkpoint = self.run_dir(number) / "checkpoints" / "last.ckpt"
        refused = 2  # an exit status; with another one the jobs may run on
        wait_for(
            lambda: checkpoint.exists() or self.code() == refused,
            PATIENCE_S,
            f"job {number} has a checkpoint ({self.folder})",
        )
        assert self.code() != refused, self.printed()

    def holds(self, number: int) -> int:
        """A job stays in its training until SLURM has to say something to it, which wakes it: its process."""
        self.trains(number)
        rank = rank_of(self.run_dir(number))
        os.kill(rank, signal.SIGSTOP)
        return rank

    def _until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        ended: list[bool] = []  # what it said last may come with its end

        def over() -> bool:
            ended.append(self.code() is not None)
            return holds() or ended[-1]

        wait_for(over, seconds, f"{what} ({self.folder})")
        assert holds(), f"it ended with {self.code()} before {what}:\n{self.printed()}"

    def submitted(self) -> "Watched":
        """Itself, once its jobs are in the queue and it watches them."""
        self._until(lambda: bool(self.changes()), PATIENCE_S, "its jobs are submitted")
        return self

    def ends(self, seconds: float = PATIENCE_S) -> int:
        """Its exit status, once it is over."""
        wait_for(lambda: self.code() is not None, seconds, f"it is over ({self.folder})")
        return self.process.returncode

    def with_status(self, *flags: str) -> "Watched":
        """``vibench-status`` of it, begun."""
        return Watched(self.folder, command("status", self.folder, *flags))

    def run_dir(self, number: int) -> Path:
        return self.folder / str(number)

    def jobs(self, number: int) -> list[str]:
        """Of SLURM, that a job of the sweep had, oldest first."""
        return [entry["id"] for entry in jobs_of(self.run_dir(number))]

    def attempts(self, number: int) -> list[str]:
        """What accounting says of every time that the last one of these jobs was begun."""
        return [row["State"].split()[0] for row in sacct(self.jobs(number)[-1])]

    def verdicts(self) -> dict[str, str]:
        """What each job varies -> its state, in the table that it ended with."""
        return verdicts_in(self.printed())


def verdicts_in(printed: str) -> dict[str, str]:
    """Name of a job -> its state, in the last table of a sweep."""
    rows, found = printed.splitlines(), {}
    titles = [number for number, line in enumerate(rows) if line.strip() == "sweep"]
    for line in rows[titles[-1] :] if titles else []:
        if line.startswith("│"):
            name, state, *_ = (cell.strip() for cell in line.strip("│").split("│"))
            found[name] = state
    return found


def rank_of(run_dir: Path) -> int:
    """The process that trains a run, of that which the status names."""
    supervisor = status_of(run_dir)["pid"]
    return int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()[0])


def of(scenario: Callable[[Callable[..., Watched]], object]) -> pytest.MarkDecorator:
    """A test is about what comes of a scenario, as its argument ``outcome``. Those of a file are played at once.

    Args:
        scenario: is given the fixture ``begin``; what it returns is what came of it.
    """
    return pytest.mark.parametrize("outcome", [pytest.param(scenario, id=scenario.__name__)], indirect=True)
