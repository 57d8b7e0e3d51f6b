"""A simulated scalp: where the electrodes are, how far a source is seen, and noise of a given spectrum.

Shapes: C = 19 electrodes of the 10-20 system, n samples; (C, n) throughout. Directions are from the middle of the
head, x right, y front, z up; distances are the angles between them, in radians.
"""

import numpy as np
from numpy.random import Generator

from vibench.config.backbone import ELECTRODES

CHANNELS = ELECTRODES
LEFT, MIDLINE, RIGHT = CHANNELS[:8], CHANNELS[8:11], CHANNELS[11:]
OPPOSITE = dict(zip(CHANNELS, [*RIGHT, *MIDLINE, *LEFT], strict=True))
FROM_TOP = np.radians([92, 60, 46, 60, 92, 92, 92, 92, 46, 0, 46, 92, 60, 46, 60, 92, 92, 92, 92])
FROM_RIGHT = np.radians([108, 129, 180, 231, 252, 144, 180, 216, 90, 0, 270, 72, 51, 0, 309, 288, 36, 0, 324])
PLACES = np.stack([np.sin(FROM_TOP) * np.cos(FROM_RIGHT), np.sin(FROM_TOP) * np.sin(FROM_RIGHT), np.cos(FROM_TOP)], 1)


def place(name: str) -> np.ndarray:
    """(3,) direction of an electrode."""
    return PLACES[CHANNELS.index(name)]


def distances(direction: np.ndarray) -> np.ndarray:
    """(C,) of the electrodes from a direction."""
    return np.arccos((PLACES @ direction / np.linalg.norm(direction)).clip(-1, 1))


def field(direction: np.ndarray, width: float, floor: float = 0.0) -> np.ndarray:
    """(C,) how strongly a source is seen: 1 right above it, ``floor`` far away; ``width`` is a standard deviation."""
    return floor + (1 - floor) * np.exp(-((distances(direction) / width) ** 2) / 2)


def noise(rng: Generator, count: int, n: int, power: np.ndarray) -> np.ndarray:
    """(count, n) of standard deviation 1, whose spectrum is as ``power`` (n // 2 + 1,) over the frequencies."""
    size = (count, len(power))
    spectrum = (rng.standard_normal(size) + 1j * rng.standard_normal(size)) * np.sqrt(power)
    return np.fft.irfft(spectrum, n) * (n / 2 / np.sqrt(power.sum()))


def pink(rng: Generator, count: int, n: int, rate_hz: float, exponent: float) -> np.ndarray:
    """(count, n) noise whose power falls with ``1 / f ** exponent`` above 1 Hz."""
    return noise(rng, count, n, np.maximum(np.fft.rfftfreq(n, 1 / rate_hz), 1) ** -exponent)


def rhythm(rng: Generator, count: int, n: int, rate_hz: float, centre_hz: float, width_hz: float) -> np.ndarray:
    """(count, n) noise around a frequency, which waxes and wanes within about 1 / width."""
    return noise(rng, count, n, np.exp(-(((np.fft.rfftfreq(n, 1 / rate_hz) - centre_hz) / width_hz) ** 2) / 2))


def wander(rng: Generator, n: int, rate_hz: float, period_s: float) -> np.ndarray:
    """(n,) lines between random points of standard deviation 1, ``period_s`` apart."""
    knots = rng.standard_normal(int(n / rate_hz / period_s) + 2)
    return np.interp(np.arange(n) / rate_hz / period_s, np.arange(len(knots)), knots)


def ramps(n: int, rate_hz: float, rise_s: float, fall_s: float) -> np.ndarray:
    """(n,) from 0 to 1 in ``rise_s``, and back to 0 in the last ``fall_s``."""
    t = np.arange(n) / rate_hz
    return np.minimum(1, np.minimum(t / rise_s, (t[-1] - t) / fall_s))
