"""What one job does where it runs: begin its run or go on with it, and see to it that it will go on where it must end.

Imports no torch: the run has processes of its own, so that this one is there to say what killed them.
"""

import dataclasses
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from vibench.config import schemas
from vibench.config.experiment import ExperimentConfig
from vibench.config.frozen import thaw
from vibench.config.hardware import REQUEUES_LEFT
from vibench.errors import VibenchError
from vibench.launch import slurm
from vibench.launch.place import Request
from vibench.launch.sweep import Job, Sweep
from vibench.processes import HostMemoryError, follow, leading, machine
from vibench.rank import LINE
from vibench.report.status import amend, is_own, note, read_status, verdict_of
from vibench.run import run_experiment
from vibench.signals import Stopped, heeded

log = logging.getLogger("vibench")
WHY_MORE = "more memory"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call that submitit can pickle: all that it needs is in the sweep's directory."""

    sweep: str
    number: int

    def __call__(self) -> None:
        attempt(Path(self.sweep), self.number)


def attempt(folder: Path, number: int) -> None:
    """Begin the run of a job or go on with it; on another machine than the first, take part in it.

    Raises:
        Exception: what the run raised, so that SLURM and the shell know.
        Stopped: by a signal; the status says whether it will go on by itself.
    """
    sweep = Sweep.read(folder)
    job = next(job for job in sweep.jobs if job.number == number)
    run_dir = sweep.run_dir(job)
    node = machine() if sweep.on_slurm else 0
    _write_to(run_dir / (f"output{node}.log" if node else "output.log"), job)
    schemas.register()
    with heeded() as ignore_signals:
        try:
            config = thaw(run_dir, [])
            if node:
                follow(config, run_dir)
            else:
                _lead(sweep, job, config)
        except BaseException as error:
            ignore_signals()  # what follows takes a moment
            if not node:
                _settle(sweep, job, error)
            raise


def _lead(sweep: Sweep, job: Job, config: ExperimentConfig) -> None:
    run_dir, requeues = sweep.run_dir(job), config.hardware.slurm.requeues
    with leading(config, run_dir):
        if sweep.on_slurm:
            config = _on_slurm(run_dir, config)
        if read_status(run_dir)["state"] == "completed":
            log.info(f"{run_dir} is completed already")
            return
        if sweep.on_slurm and _restarts() > requeues:
            raise slurm.SlurmError(
                f"begun again {_restarts()} times, hardware.slurm.requeues={requeues} allows no more; "
                f"vibench-status {sweep.folder} --rerun failed goes on"
            )
        run_experiment(config, run_dir, may_change=True, take_over=sweep.on_slurm, apart=True)


def _on_slurm(run_dir: Path, config: ExperimentConfig) -> ExperimentConfig:
    """Write this job down, and tell the run what it has of time and memory, which may be more than was configured."""
    slurm.add_job(run_dir, {"id": _number(), "mem_mb": int(os.environ.get("SLURM_MEM_PER_NODE", "0")), "why": ""})
    if (end := slurm.end_time(_number())) is not None:
        os.environ.setdefault("SLURM_JOB_END_TIME", str(end))  # which SLURM says by itself since 23.02
    asked = config.hardware.slurm
    os.environ[REQUEUES_LEFT] = str(max(asked.requeues - _restarts(), 0))
    had = next((entry["mem_mb"] for entry in slurm.jobs_of(run_dir) if entry["id"] == _number()), 0)
    if asked.mem_mb is None or not had or had <= asked.mem_mb:
        return config
    more = dataclasses.replace(asked, mem_mb=had)
    return dataclasses.replace(config, hardware=dataclasses.replace(config.hardware, slurm=more))


def _settle(sweep: Sweep, job: Job, error: BaseException) -> None:
    """Say what the run alone could not know, and ask for another attempt where there is to be one."""
    run_dir = sweep.run_dir(job)
    if not is_own(run_dir):  # it did not come to the point where it says anything
        amend(run_dir, **{"kind": None} | verdict_of(error))
    if not sweep.on_slurm:
        return
    if isinstance(error, Stopped):
        amend(run_dir, **after_signal(error.number, thaw(run_dir, []).hardware.slurm.requeues))
    elif isinstance(error, HostMemoryError):
        _ask_for_more(sweep, job)


def after_signal(number: int, requeues: int) -> dict[str, str | None]:
    """What a signal of SLURM means for a run that saved itself: its state, after asking for another attempt.

    SIGUSR2 says that the time is nearly over. SIGTERM may be the end of the time, a preemption that leaves time to go
    or does not, or scancel: the job's own record tells them apart. Without a record nothing is said.
    """
    job, restarts = slurm.show(_number()), _restarts()
    if not job:
        return {}
    state, preempted = job.get("JobState"), job.get("PreemptTime", "None") != "None"
    if int(job.get("Restarts", "0")) > restarts:
        return {"state": "preempted", "kind": None, "error": "SLURM runs it again"}
    if state == "RUNNING" and (number == signal.SIGUSR2 or preempted):
        why = "preempted" if preempted else "the time limit came"
        if restarts >= requeues:
            told = f"{why} after {restarts} requeues, hardware.slurm.requeues={requeues} allows no more"
            return {"state": "failed", "kind": "PREEMPTED" if preempted else "TIMEOUT", "error": told}
        if slurm.requeue(_number()):
            return {"state": "preempted", "kind": None, "error": f"{why}: requeued, {restarts + 1} of {requeues}"}
        return {"state": "failed", "kind": "TIMEOUT", "error": f"{why}, and SLURM did not requeue the job"}
    if preempted:
        return {"state": "preempted", "kind": None, "error": "SLURM does not run it again: its partition cancels"}
    if job.get("Reason") == "TimeLimit" or state == "TIMEOUT":
        return {"state": "failed", "kind": "TIMEOUT", "error": "the time limit came before the run was told of it"}
    return {"state": "cancelled", "kind": None, "error": "cancelled by scancel"}


def _ask_for_more(sweep: Sweep, job: Job) -> None:
    """Submit the run once more, with more memory, unless that was tried."""
    from vibench.launch.cluster import Cluster

    run_dir = sweep.run_dir(job)
    entries = slurm.jobs_of(run_dir)
    had = next(entry["mem_mb"] for entry in entries if entry["id"] == _number())
    if any(entry["why"] == WHY_MORE for entry in entries) or not had:
        return
    request = Request(job=job, config=thaw(run_dir, []), host_gib=0, mem_mb=int(had * slurm.MORE_MEMORY))
    cluster, before = Cluster(), read_status(run_dir)
    if refused := cluster.refusals([request]):
        said = f"{request.mem_mb} MB cannot be had: {refused[job.number]}"
    else:
        try:
            cluster.submit(sweep, [request], WHY_MORE)
            said = f"job {slurm.jobs_of(run_dir)[-1]['id']} asks for {request.mem_mb} MB and goes on"
        except VibenchError as error:
            said = str(error)
            amend(run_dir, **{key: before.get(key) for key in ("state", "kind", "error")})
    event = {"kind": "memory", "step": None, "text": f"the kernel killed it at {had} MB of the host; {said}"}
    note(run_dir, event | {"changes": {}})
    log.warning(event["text"])


def _number() -> str:
    """Of this job, as it is submitted and shown: in an array, ARRAY_TASK."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _write_to(path: Path, job: Job) -> None:
    """Send all that this process and its children say to a file of the run."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["vibench-train", *job.overrides]
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(path.parent / "vibench-train.log")]
    logging.basicConfig(level=logging.INFO, format=LINE, handlers=handlers, force=True)


def main() -> None:
    """A job on this machine."""
    try:
        attempt(Path(sys.argv[1]), int(sys.argv[2]))
    except VibenchError as error:
        print(f"vibench-train: {error}", file=sys.stderr)
        sys.exit(1)
