"""The errors a user can act on, one class per thing a caller treats differently."""

import errno
from typing import Any


class VibenchError(Exception):
    """What the user can fix. ``kind`` is what ``status.json`` and the verdicts call it.

    ``started`` says whether training had begun when it was raised: exit status 1, else 2.
    """

    kind = "CRASH"
    started = False


class ConfigError(VibenchError):
    """The experiment is wrong; nothing was started. Carries every complaint, not only the first."""

    kind = "CONFIG"

    def __init__(self, complaints: list[str]) -> None:
        self.complaints = complaints
        super().__init__(complaints[0] if len(complaints) == 1 else "\n".join(("", *(f"  {c}" for c in complaints))))


class DataError(VibenchError):
    """A file, a recording or a split cannot be used. Names the file."""

    kind = "DATA"


class ShapeError(VibenchError):
    """A tensor does not have the shape its contract promises. Names the task."""

    kind = "SHAPE"


class MemoryFitError(VibenchError):
    """The experiment cannot fit the hardware it names; nothing was started."""

    kind = "MEMORY"


class TimeFitError(VibenchError):
    """The experiment cannot end within the time it is given; nothing was started."""

    kind = "TIMEOUT"


class NanError(VibenchError):
    """A loss or a metric is not a finite number."""

    kind = "NAN"


class UnprovenError(VibenchError):
    """The run ended without an exception, but something it promised is missing."""

    kind = "CRASH"


class OutputError(VibenchError):
    """A file of the run cannot be written: a full disk, a folder that may not be written to. Names the file."""


class GrowthError(VibenchError):
    """Memory grows from epoch to epoch and would be exhausted before the end. Names what grows."""

    kind = "MEMORY"


class OutOfMemoryError(VibenchError):
    """Memory ran out although the plan said otherwise, and no lever is left. Says where, and who holds it."""

    kind = "MEMORY"


class Restart(VibenchError):  # noqa: N818  it is an order, and an error only where nobody takes it
    """The run has to go on from its last checkpoint in another way.

    Args:
        text: what happened.
        kind: what the failure is called where the run cannot go on.
        changes: what is done otherwise from now on, e.g. ``{"micro_batch": "4"}``.
        step: optimizer step at which it happened.
    """

    def __init__(self, text: str, *, kind: str, changes: dict[str, Any], step: int) -> None:
        super().__init__(text)
        self.kind, self.changes, self.step, self.started = kind, changes, step, True


OUT_OF_MEMORY = (  # words of CUDA, cuBLAS, cuDNN, the CPU's allocator, oneDNN, the C++ library, the kernel, the linker
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "could not create a primitive",
    "could not create a memory object",
    "bad_alloc",
    "can't start new thread",
    "failed to map segment",
    "unable to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of whatever kind of device, in whoever's words."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = f"{type(error).__name__} {error}".lower()
    return "outofmemory" in text or any(words in text for words in OUT_OF_MEMORY)
