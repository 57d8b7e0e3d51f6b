"""Ctrl-C, SIGTERM and SIGUSR2: they end a run at once, or after the step it is in, with a checkpoint.

One owner: nothing else of vibench installs a handler in a process that trains.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("vibench")
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
BURST_S = 1.0  # signals of one request: a terminal, make and SLURM may all pass it on
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


class Stopped(SystemExit):
    """Stopped by a signal: not a failure of the run, and never swallowed as an Exception.

    The exit status is the shell's; after SIGUSR2, by which SLURM says that a job's time is over, that of "try again".

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(TRY_AGAIN if number == signal.SIGUSR2 else 128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"


class _Asked:
    """What this process was asked for, and whether it may wait for the end of a step."""

    number: int | None = None
    since = -math.inf
    deferred = False
    until = ""
    heeded = True


def asked() -> int | None:
    """The signal that a deferred stop was asked by; None where none was."""
    return _Asked.number


@contextmanager
def heeded() -> Iterator[Callable[[], None]]:
    """Signals raise :class:`Stopped`, whatever library is at work, until the given call is made."""
    _Asked.number, _Asked.deferred, _Asked.heeded, _Asked.since = None, False, True, -math.inf
    before = {number: signal.signal(number, _handle) for number in NUMBERS}
    try:
        yield _ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred(until: str = "a checkpoint is saved after this step") -> Iterator[None]:
    """Within it the first signal only asks (:func:`asked`), so that a step can end and be saved; the second stops.

    Also around imports of compiled packages: an exception that comes amid one can end the process without a word.

    Args:
        until: what is done first, for the user.
    """
    _Asked.deferred, _Asked.until = True, until
    try:
        yield
    finally:
        _Asked.deferred = False
    if _Asked.number is not None:  # it came when there was no step left to wait for
        raise Stopped(_Asked.number)


def _ignore() -> None:
    _Asked.heeded = False


def _handle(number: int, frame: FrameType | None) -> None:
    if not _Asked.heeded:
        return
    if time.monotonic() - _Asked.since < BURST_S:  # the same request once more
        return
    _Asked.since = time.monotonic()
    if not _Asked.deferred or _Asked.number is not None:
        raise Stopped(number)
    _Asked.number = number
    log.warning(f"{signal.Signals(number).name}: {_Asked.until}; once more stops at once")
