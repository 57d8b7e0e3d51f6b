"""The errors a user can act on, one class per thing a caller treats differently."""


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
