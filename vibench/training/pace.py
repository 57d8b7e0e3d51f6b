"""How long a step takes, and whether the run will end before SLURM ends it."""

import logging
import os
import statistics
import time
from collections import deque

from vibench.config.hardware import SlurmConfig, requeues_left

log = logging.getLogger("vibench")
WARM_UP, ENOUGH, RECENT = 3, 10, 200  # steps that are not counted, that are enough for a median, and of the median


def time_to_come(slurm: SlurmConfig) -> float:
    """Seconds that a run will have after this job's, by being requeued."""
    return requeues_left() * (slurm.seconds or 0)


class Pace:
    """Times the steps from the start of one to the start of the next, so that waiting for data counts, and validation
    does not. Says once, loudly, if the job's time limit comes before the end.

    Args:
        total_steps: optimizer steps the run promises.
        more_s: what it will have after this job's time, by being requeued.
    """

    def __init__(self, total_steps: int, more_s: float = 0) -> None:
        self.total_steps, self.more_s = total_steps, more_s
        told = os.environ.get("SLURM_JOB_END_TIME", "")
        self.ends_at = int(told) if told.isdigit() else None
        self._took: deque[float] = deque(maxlen=RECENT)
        self._began: float | None = None
        self._skip = WARM_UP

    @property
    def seconds(self) -> float | None:
        """Median of a step; None before there were enough."""
        return statistics.median(self._took) if len(self._took) >= ENOUGH else None

    def begin_epoch(self) -> None:
        self._began = None

    def begin_step(self, steps_done: int) -> None:
        """A batch is there, and its step begins."""
        now = time.perf_counter()
        if self._began is not None:
            if self._skip:
                self._skip -= 1
            else:
                self._took.append(now - self._began)
        self._began = now
        if self.ends_at is not None and self.seconds is not None:
            self._warn(steps_done)

    def _warn(self, steps_done: int) -> None:
        needed = (self.total_steps - steps_done) * self.seconds
        left = self.ends_at - time.time() + self.more_s
        if needed > left:
            log.warning(
                f"THIS RUN WILL NOT END IN TIME: {self.total_steps - steps_done} steps of {self.seconds:.3g} s take "
                f"{needed / 3600:.1f} h, SLURM ends it in {left / 3600:.1f} h"
            )
            self.ends_at = None
