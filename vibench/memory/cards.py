"""What the cards of ``conf/hardware`` offer a plan."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from vibench.config.hardware import HardwareConfig
from vibench.memory.measured import known, worst_peak

FIELDS = ("name", "gpu_memory_gib", "usable_share", "measured_share", "context_mib")


def usable(hardware: HardwareConfig) -> float | None:
    """GiB of the card that a plan may fill; None without a card.

    A share of it until runs on it were measured; from then on a larger one, less what the worst of them took beyond its
    prediction.
    """
    return _usable(**{name: getattr(hardware, name) for name in FIELDS})


def _usable(
    name: str, gpu_memory_gib: float | None, usable_share: float, measured_share: float | None, context_mib: float
) -> float | None:
    if gpu_memory_gib is None:
        return None
    worst = worst_peak(known(name)) if measured_share is not None else None
    if worst is None:
        return gpu_memory_gib * usable_share - context_mib / 1024
    return (gpu_memory_gib * measured_share - context_mib / 1024) / max(worst, 1)


def cards() -> dict[str, float]:
    """The cards of ``conf/hardware`` -> GiB that a plan may fill."""
    folder = Path(str(files("vibench.conf"))) / "hardware"
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        values: dict[str, Any] = yaml.safe_load(path.read_text())
        offered = _usable(**{name: values[name] for name in FIELDS})
        if offered is not None:
            found[path.stem] = offered
    return found


def roomier(gib: float) -> str:
    """The cards that offer so much, in words."""
    names = [name for name, there in cards().items() if there >= gib]
    return f"so much is offered by hardware={', '.join(names)}" if names else "no card of conf/hardware offers so much"
