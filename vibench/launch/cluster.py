"""A SLURM cluster as a place for jobs: one array per kind of request. submitit writes the batch files and submits them.

https://slurm.schedmd.com/sbatch.html
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vibench.config.experiment import ExperimentConfig
from vibench.config.hardware import Device
from vibench.launch.attempt import Attempt
from vibench.launch.place import Request, Seen
from vibench.launch.slurm import Queue, SlurmError, add_job, array_size, first_line, jobs_of, keep, parts, run
from vibench.launch.sweep import Job, Sweep
from vibench.report.status import promise
from vibench.signals import deferred

SPARE = 1.25  # of the host's memory that a plan says, since libraries and files in memory vary
SPARE_MB = 512
NEW_S = 60.0  # in which a job may be too new to be known
STEP_MB = 1024  # so that jobs that take about the same are one array


def has_slurm() -> bool:
    """Whether this machine can submit jobs."""
    return shutil.which("sbatch") is not None


class Cluster:
    """
    Args:
        at_once: jobs of one array that run at the same time; None: all.
    """

    is_cluster = True

    def __init__(self, at_once: int | None = None) -> None:
        if not has_slurm():
            raise SlurmError(
                "hydra/launcher=slurm needs sbatch, squeue and scontrol, which are not here; use a login node"
            )
        self.at_once, self.queue = at_once, Queue()

    def refusals(self, requests: list[Request]) -> dict[int, str]:
        """As :class:`Place`.

        Raises:
            SlurmError: it does not answer.
        """
        array_size()
        found = {
            request.job.number: "hardware=local is this machine, not a node of the cluster; use a card, or hardware=cpu"
            for request in requests
            if request.config.hardware.device is Device.auto
        }
        for options, _, group in grouped([request for request in requests if request.job.number not in found]):
            flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
            done = run(["sbatch", "--test-only", *flags, "--wrap=true"])
            if done.returncode:
                why = re.sub(
                    r"^(allocation failure|sbatch: error): ", "", (done.stderr or done.stdout).strip().split("\n")[-1]
                )
                asked = " ".join(flag for flag in flags if flag.startswith(SHOWN))
                found |= {
                    request.job.number: f"SLURM refuses {asked}: {why}; change hardware.slurm" for request in group
                }
        return found

    def submit(self, sweep: Sweep, requests: list[Request], why: str = "") -> None:
        """As :class:`Place`.

        Args:
            why: a job is not the first of its run.
        """
        most, failed, begun = array_size(), [], False
        for options, setup, group in grouped(requests):
            for start in range(0, len(group), most):
                part = group[start : start + most]
                try:
                    with deferred("the jobs are submitted first"), _undisturbed():
                        self._submit(sweep, options, setup, part, why)
                    begun = True
                except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
                    failed.append(f"{len(part)} jobs for {part[0].config.hardware.name}: {first_line(error)}")
        if failed:
            remedy = f"vibench-status {sweep.folder} --rerun planned"
            error = SlurmError(f"sbatch failed for {'; '.join(failed)}; when it works again: {remedy}")
            error.started = begun
            raise error

    def _submit(self, sweep: Sweep, options: dict[str, Any], setup: list[str], group: list[Request], why: str) -> None:
        import submitit

        executor = submitit.SlurmExecutor(folder=sweep.folder.absolute() / ".submitit")
        executor.update_parameters(
            job_name=options["job-name"],
            time=None,  # said by the options, or the partition's own
            nodes=options["nodes"],
            ntasks_per_node=1,
            wckey=None,
            setup=setup,
            array_parallelism=self.at_once or len(group),
            additional_parameters={key: value for key, value in options.items() if key != "job-name"},
            stderr_to_stdout=True,
            srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={options['cpus-per-task']}"],
        )
        for request in group:  # before, since a job may start at once
            promise(sweep.run_dir(request.job), {"hardware": request.config.hardware.name}, alive=None)
        with _own_environment(), executor.batch():
            jobs = [executor.submit(Attempt(str(sweep.folder.absolute()), request.job.number)) for request in group]
        for request, job in zip(group, jobs, strict=True):
            entry = {"id": job.job_id, "mem_mb": int(options["mem"][:-1]), "submitted": time.time(), "why": why}
            add_job(sweep.run_dir(request.job), entry)

    def look(self, sweep: Sweep, jobs: list[Job]) -> dict[int, Seen]:
        """As :class:`Place`. A job that SLURM has forgotten ended as was written down, or nobody knows how."""
        last = {job.number: entries[-1] for job in jobs if (entries := jobs_of(sweep.run_dir(job)))}
        told = self.queue.told({entry["id"] for entry in last.values()})
        found = {}
        for job in jobs:
            if (entry := last.get(job.number)) is None:
                continue
            if (seen := told.get(entry["id"])) is not None:
                found[job.number] = seen
                if seen.phase == "ended":
                    keep(sweep.run_dir(job), seen)
            elif "ended" in entry:
                found[job.number] = Seen(**entry["ended"])
            elif time.time() - entry.get("submitted", 0) > NEW_S:
                found[job.number] = Seen(phase="ended", told="SLURM does not know it any more", number=entry["id"])
            else:
                found[job.number] = Seen(phase="waiting", number=entry["id"])
        return found

    def end(self, sweep: Sweep, jobs: list[Job]) -> None:
        """As :class:`Place`."""
        for part in parts([entries[-1]["id"] for job in jobs if (entries := jobs_of(sweep.run_dir(job)))]):
            if (done := run(["scancel", *part])).returncode:
                raise SlurmError(f"scancel failed: {first_line(done.stderr)}")


SHOWN = ("--partition", "--gres", "--constraint", "--account", "--qos", "--nodes", "--cpus", "--mem", "--time")


def options_of(config: ExperimentConfig, host_gib: float, mem_mb: int | None = None) -> dict[str, Any]:
    """What a run asks of SLURM, as options of sbatch without their dashes.

    Args:
        host_gib: what the plan says that it takes of each machine's memory.
        mem_mb: what to ask for instead.
    """
    hardware, slurm = config.hardware, config.hardware.slurm
    mem_mb = mem_mb or slurm.mem_mb or math.ceil((host_gib * 1024 * SPARE + SPARE_MB) / STEP_MB) * STEP_MB
    options: dict[str, Any] = {
        "job-name": f"vibench-{hardware.name}",
        "partition": slurm.partition,
        "gres": f"{slurm.gres}:{hardware.gpus}" if slurm.gres else None,
        "constraint": slurm.constraint,
        "account": slurm.account,
        "qos": slurm.qos,
        "nodes": hardware.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": hardware.cpus or hardware.gpus * (1 + config.data.workers),
        "mem": f"{mem_mb}M",  # in MB: what GB are, SLURM and its nodes do not agree on
        "time": slurm.time,
        "signal": f"USR2@{slurm.warn_s if slurm.seconds is None else min(slurm.warn_s, slurm.seconds // 2)}",
        "requeue": True,
    }
    for text in slurm.sbatch:
        name, _, value = text.removeprefix("--").partition("=")
        options[name] = value or True
    return {key: value for key, value in options.items() if value is not None}


def grouped(requests: list[Request]) -> Iterator[tuple[dict[str, Any], list[str], list[Request]]]:
    """Requests that ask for the same: what they ask for, their lines of shell, and they."""
    groups: dict[str, tuple[dict[str, Any], list[str], list[Request]]] = {}
    for request in requests:
        options = options_of(request.config, request.host_gib, request.mem_mb)
        setup = request.config.hardware.slurm.setup
        groups.setdefault(json.dumps([options, setup]), (options, setup, []))[2].append(request)
    yield from groups.values()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C does not reach sbatch, which could submit a job and not live to say so."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Without what SLURM told the job that this process is in, or it would be asked for again."""
    inside = ("SLURM_", "SBATCH_", "SRUN_") if "SLURM_JOB_ID" in os.environ else ()
    told = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith(inside)}
    if "SLURM_CONF" in told:
        os.environ["SLURM_CONF"] = told["SLURM_CONF"]
    try:
        yield
    finally:
        os.environ.update(told)
