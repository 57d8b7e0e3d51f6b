"""``vibench-status``: what it says of runs and sweeps, what it does with them, and how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import TINY
from vibench.cli.status import STATES, main
from vibench.config.frozen import freeze
from vibench.config.plain import plain
from vibench.launch.slurm import add_job
from vibench.launch.sweep import FILE, Job, Sweep
from vibench.launch.verdict import FINAL
from vibench.report.status import _process_start

LOCAL = {"name": "local", "jobs": None, "skip_refused": False, "on_duplicate": "allow"}
SLURM = {
    "name": "slurm",
    "at_once": None,
    "skip_refused": False,
    "on_duplicate": "skip",
    "detach": False,
    "poll_s": 0.1,
}
GONE = {"host": socket.gethostname(), "pid": 2**22 + 1, "process_started": "1", "started": 1.0}  # no such process


@pytest.fixture
def status(monkeypatch, capsys, tmp_path):
    """Exit status, stdout and stderr of the command, in the folder above all runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["vibench-status", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def run(tmp_path):
    """A run that says that it is in a state."""

    def call(name, state="completed", **told):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps(GONE | {"state": state} | told))
        return folder

    return call


@pytest.fixture
def sweep(tmp_path, run):
    """A sweep whose runs say that they are in these states; None: they say nothing."""

    def call(*states, name="sweep", launcher=LOCAL, **told):
        (tmp_path / name).mkdir()
        jobs = [Job(number=n, name=f"seed={n}", overrides=[f"seed={n}"], folder=str(n)) for n in range(len(states))]
        for job, state in zip(jobs, states, strict=True):
            if state is not None:
                run(f"{name}/{job.folder}", state, **told)
        made = Sweep(folder=tmp_path / name, launcher=launcher, jobs=jobs)
        made.write()
        return made

    return call


def rows(out):
    """First column of the tables -> the next."""
    cells = [[cell.strip() for cell in line[1:-1].split("│")] for line in out.splitlines() if line[:1] == "│"]
    return {row[0]: row[1] for row in cells}


@pytest.fixture
def process():
    """A process that ends when it is told to."""
    begun = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1)
    begun.stdout.readline()
    yield begun
    begun.kill()
    begun.wait()


def alive(process):
    return {"pid": process.pid, "process_started": _process_start(process.pid)}


# what it says


@pytest.mark.parametrize("states", [("completed",), ("completed", "completed")])
def test_a_sweep_of_completed_jobs_ends_with_0(status, sweep, states):
    sweep(*states)
    code, out, err = status("sweep")
    assert (code, err) == (0, "")
    assert rows(out) == {f"seed={n}": "completed" for n in range(len(states))}
    assert out.splitlines()[-1] == f"{len(states)} completed"


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("preempted", "preempted"),
        ("pruned", "pruned"),
        ("running", "lost"),  # its process is gone
        ("submitted", "planned"),  # that of its sweep is
        (None, "planned"),
    ],
)
def test_one_job_that_is_not_completed_ends_it_with_1(status, sweep, state, shown):
    sweep("completed", state)
    code, out, _ = status("sweep")
    assert code == 1
    assert rows(out) == {"seed=0": "completed", "seed=1": shown}
    assert out.splitlines()[-1] == f"1 {shown}, 1 completed"


def test_a_failure_says_its_kind_and_why(status, sweep):
    sweep("failed", kind="NAN", error="the loss of step 3 is no number\nin detail")
    _, out, _ = status("sweep")
    assert rows(out) == {"seed=0": "failed NAN"}
    assert "seed=0: the loss of step 3 is no number\n" in out


def test_a_refused_job_says_why_it_was(status, sweep):
    made = sweep("completed", None)
    made.jobs[1].refused = ["d_model=65 is not divisible", "and more"]
    made.write()
    code, out, _ = status("sweep")
    assert (code, rows(out)["seed=1"]) == (1, "refused")
    assert "seed=1: d_model=65 is not divisible\n" in out


def test_a_job_that_another_run_stands_for_is_as_good_as_that(status, sweep, run, tmp_path):
    made = sweep("completed", None)
    made.jobs[1].same_as = str(run("elsewhere/run"))
    made.write()
    code, out, _ = status("sweep")
    assert (code, rows(out)["seed=1"]) == (0, "completed")
    assert f"seed=1: the result of {tmp_path}/elsewhere/run\n" in out


def test_all_sweeps_and_runs_below_are_told_and_all_must_be_completed(status, sweep, run):
    sweep("completed", name="one")
    sweep("failed", name="two")
    run("alone")
    code, out, _ = status(".")
    assert code == 1
    assert rows(out) == {"seed=0": "failed", "alone": "completed"}
    assert re.findall(r"^(one|two)$", out, re.M) == ["one", "two"]
    assert status("one")[0] == 0
    assert status("one", "alone")[0] == 0
    assert status("one", "two")[0] == 1


def test_a_run_of_a_sweep_is_told_once(status, sweep):
    sweep("completed", "completed")
    _, out, _ = status(".")
    assert len(re.findall(r"seed=0", out)) == 1
    assert out.count("completed") == 3  # two rows and the count


def test_a_run_on_its_own_says_its_state_its_kind_and_the_last_that_happened(status, run):
    events = [{"step": n, "text": f"cut the batch {n}"} for n in (1, 2)]
    run("good", events=events)
    run("bad", "failed", kind="MEMORY", error="no room\nin detail")
    code, out, _ = status(".")
    assert code == 1
    assert re.search(r"│ bad +│ failed +│ MEMORY +│ no room +│", out)
    assert re.search(r"│ good +│ completed +│ +│ step 2: cut the batch 2 +│", out)


def test_jobs_that_another_launcher_of_hydra_has_promised_are_planned(status, run, tmp_path):
    run("sweep/0")
    hydra = "hydra: {sweep: {subdir: '${hydra.job.num}'}, overrides: {task: ['seed=0,1,2']}}"
    (tmp_path / "sweep" / "multirun.yaml").write_text(hydra)
    code, out, _ = status("sweep")
    assert code == 1
    assert rows(out) == {"sweep/0": "completed", "sweep/1": "planned", "sweep/2": "planned"}


def test_what_was_typed_is_no_markup(status, sweep):
    made = sweep("failed", error="[red]no[/red]")
    made.jobs[0].name = "data.only.fault=[bold]"
    made.write()
    _, out, _ = status("sweep")
    assert "data.only.fault=[bold]: [red]no[/red]" in out


# jobs of SLURM


@pytest.mark.parametrize("answer", ["there is none", "it is down"])
def test_where_slurm_does_not_answer_only_what_runs_said_is_known_and_it_says_so(
    status, sweep, answer, monkeypatch, tmp_path
):
    made = sweep("completed", "failed", launcher=SLURM)
    for job in made.jobs:
        add_job(made.run_dir(job), {"id": f"12_{job.number}", "mem_mb": 1, "why": ""})
    (tmp_path / "bin").mkdir()
    if answer == "it is down":
        for name in ("sbatch", "squeue", "sacct"):
            (tmp_path / "bin" / name).write_text("#!/bin/sh\necho it is down >&2; exit 1\n")
            (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/nothing")
    code, out, err = status("sweep")
    assert code == 1
    assert rows(out) == {"seed=0": "completed", "seed=1": "failed"}
    assert re.fullmatch(r"vibench-status: .*; of \S*sweep only what its runs said is known\n", err), err


def test_a_job_of_slurm_is_what_slurm_says(status, sweep, slurm_says):
    made = sweep("running", "running", launcher=SLURM, host="node7")
    for job in made.jobs:
        add_job(made.run_dir(job), {"id": f"12_{job.number}", "mem_mb": 1, "why": ""})
    slurm_says(squeue="12_0|RUNNING|None|v100n1\n", sacct="12_1|TIMEOUT|0:0|v100n1\n")
    code, out, _ = status("sweep")
    assert (code, rows(out)) == (1, {"seed=0": "running", "seed=1": "failed TIMEOUT"})


# nothing to say, and mistakes


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_says_how_it_is_used(status, flag):
    code, out, err = status(flag)
    assert (code, err) == (0, "")
    assert out.startswith("usage: vibench-status DIR...")
    for words in ("--watch", "--cancel", "--rerun", "--detach"):
        assert words in out


def test_without_a_directory_it_says_how_it_is_used_and_ends_with_2(status):
    code, out, _ = status()
    assert (code, out.split("\n")[0][:21]) == (2, "usage: vibench-status")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nothing", "no run below nothing; name a run directory or one above it"),
        ("--wach sweep", "--wach does not exist; there are --watch, --cancel, --rerun, --detach and --help"),
        ("sweep --rerun", "--rerun without a state: give states, of failed, lost, refused"),
        ("sweep --rerun=", "--rerun without a state: give states, of failed, lost, refused"),
        ("sweep --rerun completed", "--rerun completed: give states, of failed, lost, refused"),
        ("sweep --rerun failed,los", "--rerun los: give states, of failed, lost, refused"),
        ("sweep --detach", "--detach goes with --rerun: nothing else waits; leave it out"),
        ("sweep --cancel --watch", "--cancel ends a sweep; use it alone"),
        ("sweep other --watch", "name one sweep for that, there are 2: sweep other"),
        ("--cancel", "name one sweep for that, there are 0: "),
        ("alone --watch", f"alone holds no sweep: there is no {FILE}; name the directory of one"),
        ("sweep --rerun failed,lost", "no job of sweep is failed or lost; nothing was done"),
        ("sweep --rerun=refused", "no job of sweep is refused; nothing was done"),
        ("damaged", f"damaged/{FILE} cannot be read: "),
    ],
)
def test_a_mistake_is_one_line_and_ends_with_2(status, sweep, run, arguments, words):
    sweep("completed")
    run("alone")
    (sweep(name="damaged").folder / FILE).write_text("{")
    code, out, err = status(*arguments.split())
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"vibench-status: {words}")


def test_every_state_that_is_not_completed_and_will_not_change_can_be_run_again(status, sweep):
    assert set(STATES) == (set(FINAL) | {"preempted", "planned", "unknown"}) - {"completed", "pruned"}


def test_jobs_of_this_machine_cannot_be_left_alone_and_none_is_begun(status, sweep, resolved):
    made = sweep("cancelled")
    freeze(plain(resolved(*TINY, "training.max_steps=2", "training.warmup_steps=0")), made.run_dir(made.jobs[0]))
    code, _, err = status("sweep", "--rerun", "cancelled", "--detach")
    assert code == 2
    assert "--detach leaves jobs to SLURM, this sweep runs on this machine; leave it out" in err
    assert not (made.run_dir(made.jobs[0]) / "output.log").exists()


# watch


def test_it_watches_until_every_job_has_its_last_state(status, sweep, process):
    made = sweep("completed", "running", **alive(process))
    path = made.run_dir(made.jobs[1]) / "status.json"

    def end():
        path.with_suffix(".tmp").write_text(json.dumps(GONE | {"state": "failed", "kind": "NAN", "error": "no number"}))
        path.with_suffix(".tmp").replace(path)

    threading.Timer(0.3, end).start()
    code, out, err = status("sweep", "--watch")
    assert code == 1
    changes = re.findall(r"^\d\d:\d\d:\d\d (.*)$", out, re.M)
    assert changes == ["0 seed=0: completed", "1 seed=1: running", "1 seed=1: failed NAN: no number"]
    assert rows(out)["seed=1"] == "failed NAN"
    assert err == "vibench-status: 1 failed, 1 completed; vibench-status sweep --rerun failed,lost goes on with them\n"


def test_watching_a_sweep_that_is_completed_ends_with_0(status, sweep):
    sweep("completed")
    assert status("sweep", "--watch")[0] == 0


def test_who_watches_and_stops_watching_stops_nothing(status, sweep, process):
    made = sweep("running", **alive(process))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert status("sweep", "--watch")[0] == 130
    assert process.poll() is None
    assert json.loads((made.run_dir(made.jobs[0]) / "status.json").read_text())["state"] == "running"


# cancel


def test_who_has_begun_a_sweep_is_told_to_end_it(status, sweep, process):
    """Which ends the jobs, and begins no other."""
    made = sweep("completed", "submitted", **alive(process))
    made.parent = {"host": socket.gethostname()} | alive(process)
    made.write()
    ends = threading.Thread(target=process.wait)
    ends.start()
    code, out, err = status("sweep", "--cancel")
    ends.join(10)
    assert (code, err, process.returncode) == (0, "", -signal.SIGTERM)
    assert out == "1 jobs were told to end; vibench-status sweep\n"


def test_where_nothing_waits_the_jobs_are_told(status, sweep, process):
    sweep("completed", "running", **alive(process))
    waits = threading.Thread(target=process.wait)
    waits.start()
    code, out, _ = status("sweep", "--cancel")
    waits.join(10)
    assert (code, process.returncode) == (0, -signal.SIGTERM)
    assert out == "1 jobs were told to end; vibench-status sweep\n"


def test_processes_of_another_machine_are_not_those_of_the_same_number_here(status, sweep, process):
    sweep("running", host="elsewhere", **alive(process))
    threading.Thread(target=process.wait, daemon=True).start()
    code, _, err = status("sweep", "--cancel")
    assert (code, err) == (2, "vibench-status: jobs of sweep run on elsewhere; cancel them there\n")
    time.sleep(0.2)
    assert process.returncode is None


def test_jobs_of_slurm_are_ended_by_slurm(status, sweep, slurm_says):
    made = sweep("running", "completed", launcher=SLURM, host="node7")
    for job in made.jobs:
        add_job(made.run_dir(job), {"id": f"12_{job.number}", "mem_mb": 1, "why": ""})
    file = slurm_says(squeue="12_0|RUNNING|None|v100n1\n", sacct="12_1|COMPLETED|0:0|v100n1\n")
    code, out, _ = status("sweep", "--cancel")
    assert (code, out) == (0, "1 jobs were told to end; vibench-status sweep\n")
    assert [line for line in file.read_text().splitlines() if line.startswith("scancel")] == ["scancel 12_0"]
