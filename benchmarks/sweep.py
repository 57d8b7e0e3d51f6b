"""CPU seconds of a sweep before it is queued: composing and checking 500 jobs, planning 12, submitting 500 to a SLURM.

The cluster is that of the tests, on this machine; without root or SLURM that part is left out, and said so.

``python -m benchmarks.sweep``
"""

import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

from tests.slurm import machine
from tests.slurm.cluster import Cluster as TestCluster
from vibench.config import schemas
from vibench.launch.cluster import Cluster
from vibench.launch.here import Here
from vibench.launch.launch import submit
from vibench.launch.preflight import Checked, check, composed, new_plan
from vibench.launch.slurm import jobs_of as jobs_in_slurm
from vibench.launch.sweep import Job, Sweep
from vibench.launch.watch import verdicts

BACKBONES, CARDS = ("dlinear", "timesnet", "patchtst", "fno"), ("a100_80", "v100", "rtx3090")
MANY = 500
BARS = {"compose": 90.0, "plan": 3.0}


def jobs_of(overrides: list[list[str]]) -> list[Checked]:
    return [
        composed(Job(number=number, name=" ".join(own), overrides=own, folder=str(number)), None)
        for number, own in enumerate(overrides)
    ]


def spent(began: float) -> float:
    return time.process_time() - began


def main() -> None:
    os.environ.setdefault("VIBENCH_CACHE", tempfile.mkdtemp())
    schemas.register()
    many = [
        [f"backbone={BACKBONES[n % 4]}", f"hardware={CARDS[n % 3]}", f"seed={n}", "hardware.slurm.time='00:10:00'"]
        for n in range(MANY)
    ]
    began = time.process_time()
    jobs = jobs_of(many)
    composing = spent(began)
    assert not any(one.refused for one in jobs)
    print(f"{MANY} jobs composed and checked: {composing:.1f} CPU s")

    twelve = jobs_of([[f"backbone={b}", f"hardware={c}"] for b in BACKBONES for c in CARDS])
    folder = Path(tempfile.mkdtemp())
    plan = new_plan(on_cluster=True)
    began = time.process_time()
    check(Sweep(folder=folder, launcher={}, jobs=[one.job for one in twelve]), twelve, Here(1), plan)
    planning = spent(began)
    print(
        f"12 jobs of 4 models planned, torch imported: {planning:.1f} CPU s, {planning / 12:.2f} each "
        f"(bar {BARS['plan']:g})"
    )

    if reason := machine.missing():
        print(f"submission left out: {reason}")
        return
    cluster = TestCluster(Path(tempfile.mkdtemp()))
    cluster.up()
    os.environ |= {"SLURM_CONF": str(cluster.conf), "PATH": f"{os.environ['PATH']}:{machine.PATH}"}
    try:
        sweep = Sweep(folder=folder, launcher={"name": "slurm"}, jobs=[one.job for one in jobs])
        place = Cluster()
        check(sweep, jobs, place, plan)  # their plans are known from here on, so that they are not measured below
        began, children = time.process_time(), os.times()
        with contextlib.redirect_stdout(io.StringIO()):
            submit(sweep, jobs, place, skip_refused=False, on_duplicate="skip", plan=plan)
        after = os.times()
        submitting = spent(began) + after.children_user - children.children_user
        submitting += after.children_system - children.children_system
        arrays = {one["id"].split("_")[0] for job in sweep.jobs for one in jobs_in_slurm(sweep.run_dir(job))}
        assert {one.state for one in verdicts(sweep, place).values()} <= {"submitted", "running"}
        print(f"{MANY} jobs checked again and submitted as {len(arrays)} arrays: {submitting:.1f} CPU s")
        print(f"in all, without planning: {composing + submitting:.1f} CPU s (bar {BARS['compose']:g})")
        place.end(sweep, sweep.jobs)
    finally:
        cluster.down()


if __name__ == "__main__":
    main()
