"""Where the jobs of a sweep run: what a place must be able to do, and what it can tell of a job."""

from dataclasses import dataclass
from typing import Protocol

from vibench.config.experiment import ExperimentConfig
from vibench.launch.sweep import Job, Sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a place knows of a job.

    Attributes:
        phase: waiting, running, or ended.
        state: in the words of the place, e.g. SLURM's OUT_OF_MEMORY.
        told: why, in its words.
        number: of the job there.
        where: machines.
        restarts: times that it was begun again.
    """

    phase: str
    state: str = ""
    told: str = ""
    number: str = ""
    where: str = ""
    restarts: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A job to be submitted.

    Attributes:
        host_gib: what the plan says that it takes of each machine's memory.
        mem_mb: what to ask for instead of that; None: the hardware's own, or what the plan says.
    """

    job: Job
    config: ExperimentConfig
    host_gib: float
    mem_mb: int | None = None


class Place(Protocol):
    is_cluster: bool  # is asked for memory, and lets runs go on

    def refusals(self, requests: list[Request]) -> dict[int, str]:
        """Number of a job -> why it can never run here. Nothing is queued for that."""

    def submit(self, sweep: Sweep, requests: list[Request]) -> None:
        """Submit all, and write down for each what it is there.

        Raises:
            VibenchError: some could not be submitted; the others are.
        """

    def look(self, sweep: Sweep, jobs: list[Job]) -> dict[int, Seen]:
        """Number of a job -> what is known of it now; jobs that are not known are left out."""

    def end(self, sweep: Sweep, jobs: list[Job]) -> None:
        """Tell them to end, with time to save; without waiting for it."""
