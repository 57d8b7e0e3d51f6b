"""This machine as a place for jobs: a process for each, as many at once as there are cards for them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache

from vibench.launch.place import Request, Seen
from vibench.launch.sweep import Job, Sweep
from vibench.report.status import promise
from vibench.signals import deferred

MAIN = """import sys
sys.path.pop(0)  # not what lies in this folder
import ctypes, os, signal
if sys.platform == "linux":  # it saves itself and ends when what began it is gone: PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[3]):
    sys.exit(1)
from vibench.launch.attempt import main
main()
"""
LAST_STEP_S = 600.0  # for the step that a job is in when it is told to stop


class Here:
    """
    Args:
        jobs: at once; None: as many as there are cards, one on a CPU.
    """

    is_cluster = False

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs
        self._waiting: list[tuple[Sweep, Request]] = []
        self._running: dict[tuple[str, int], tuple[subprocess.Popen[bytes], Request, list[str]]] = {}
        self._ended: dict[tuple[str, int], Seen] = {}

    def refusals(self, requests: list[Request]) -> dict[int, str]:
        """As :class:`Place`."""
        return {
            r.job.number: f"hardware.nodes={r.config.hardware.nodes} needs more machines than this one; use "
            "hydra/launcher=slurm, or hardware.nodes=1"
            for r in requests
            if r.config.hardware.nodes > 1
        }

    def submit(self, sweep: Sweep, requests: list[Request]) -> None:
        """As :class:`Place`."""
        for request in requests:
            promise(sweep.run_dir(request.job), {"hardware": request.config.hardware.name}, alive=os.getpid())
            self._ended.pop(_key(sweep, request.job), None)
            self._waiting.append((sweep, request))
        self._start()

    def look(self, sweep: Sweep, jobs: list[Job]) -> dict[int, Seen]:
        """As :class:`Place`."""
        for key, (process, _, _) in list(self._running.items()):
            if (code := process.poll()) is not None:
                told = f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
                self._ended[key] = Seen(phase="ended", told=told if code else "")
                del self._running[key]
        self._start()
        waiting = {_key(other, request.job) for other, request in self._waiting}
        found = {}
        for job in jobs:
            key = _key(sweep, job)
            if key in self._running:
                process, _, cards = self._running[key]
                where = f"card {','.join(cards)}" if cards else ""
                found[job.number] = Seen(phase="running", state="RUNNING", number=str(process.pid), where=where)
            elif key in waiting:
                found[job.number] = Seen(phase="waiting", told="waits for its turn")
            elif key in self._ended:
                found[job.number] = self._ended[key]
        return found

    def end(self, sweep: Sweep, jobs: list[Job]) -> None:
        """Tell jobs to end, without waiting for it."""
        for job in jobs:
            if (key := _key(sweep, job)) in self._running:
                self._running[key][0].terminate()

    def cancel(self, sweep: Sweep, jobs: list[Job]) -> list[Job]:
        """As :class:`Place`; returns when they have ended, with those that had not begun."""
        keys = {_key(sweep, job) for job in jobs}
        dropped = [request.job for s, request in self._waiting if _key(s, request.job) in keys]
        self._waiting = [(s, request) for s, request in self._waiting if _key(s, request.job) not in keys]
        mine = [process for key, (process, _, _) in self._running.items() if key in keys]
        for process in mine:
            process.terminate()
        deadline = time.monotonic() + LAST_STEP_S
        for process in mine:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
        return dropped

    def _start(self) -> None:
        """What is next, while there is room for it; a small job does not overtake a large one."""
        while self._waiting:
            sweep, request = self._waiting[0]
            cards = self._free(request)
            if cards is None:
                return
            del self._waiting[0]
            self._running[_key(sweep, request.job)] = (self._begin(sweep, request, cards), request, cards)

    def _free(self, request: Request) -> list[str] | None:
        """The cards for a job; empty where it needs none, None where there is no room now."""
        if self.jobs is not None and len(self._running) >= self.jobs:
            return None
        every = _cards()
        if not every or request.config.hardware.device.name == "cpu":
            return [] if self.jobs is not None or not self._running else None
        taken = {card for _, _, cards in self._running.values() for card in cards}
        free = [card for card in every if card not in taken]
        need = min(request.config.hardware.gpus, len(every))  # the run says what is wrong with more
        return free[:need] if len(free) >= need else None

    def _begin(self, sweep: Sweep, request: Request, cards: list[str]) -> "subprocess.Popen[bytes]":
        """In a session of its own, so that Ctrl-C reaches this process alone."""
        own = {"CUDA_VISIBLE_DEVICES": ",".join(cards)} if cards else {}
        paths = os.pathsep.join(path for path in sys.path if path)
        with (sweep.run_dir(request.job) / "output.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-c", MAIN, str(sweep.folder.absolute()), str(request.job.number), str(os.getpid())],
                env=os.environ | own | {"PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def _key(sweep: Sweep, job: Job) -> tuple[str, int]:
    return str(sweep.folder), job.number


@cache
def _cards() -> list[str]:
    """Cards that may be used, as CUDA_VISIBLE_DEVICES names them."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [card for card in told.split(",") if card.strip()]
    with deferred("what is being imported comes first"):
        import torch

    return [str(number) for number in range(torch.cuda.device_count())]
