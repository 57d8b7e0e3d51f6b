"""What electrodes record besides the brain, and what must not be called a seizure. Each is (C, m) in microvolts."""

import numpy as np
from numpy.random import Generator

from vibench.data.eeg.scalp import CHANNELS, PLACES, field, noise, pink, place, ramps, wander

EYES = field(np.array([0, 1, -0.1]), 0.55)
EYES = EYES[:, None] / EYES.max()


def blink(rng: Generator, rate_hz: float) -> np.ndarray:
    """A bump of a quarter of a second in front: positive, since the cornea turns up."""
    bump = np.hanning(int(rng.uniform(0.2, 0.4) * rate_hz)) ** 2
    return rng.uniform(60, 160) * EYES * bump


def flutter(rng: Generator, rate_hz: float) -> np.ndarray:
    """Eyelids that flutter 2.5 to 4 times a second for 3 to 8 s: as fast as spike-and-wave, but in front only."""
    m = int(rng.uniform(3, 8) * rate_hz)
    turns = np.cumsum(rng.uniform(2.5, 4) * (1 + 0.1 * wander(rng, m, rate_hz, 0.4))) / rate_hz
    bumps = np.abs(np.sin(np.pi * turns)) ** 3 - 0.2
    return rng.uniform(40, 110) * EYES * bumps * ramps(m, rate_hz, 0.5, 0.5)


def muscle(rng: Generator, rate_hz: float) -> np.ndarray:
    """Tension of the jaw: noise from 20 Hz on, strongest far from the vertex (Pope 2022, PMC9480942); 0.5 to 8 s."""
    m = int(rng.uniform(0.5, 8) * rate_hz)
    return _fibres(rng, m, rate_hz) * ramps(m, rate_hz, 0.2, 0.2) * rng.uniform(6, 30)


def chewing(rng: Generator, rate_hz: float) -> np.ndarray:
    """Bursts of muscle, 1 to 2 a second for 5 to 15 s."""
    m = int(rng.uniform(5, 15) * rate_hz)
    turns = np.cumsum(rng.uniform(1, 2) * (1 + 0.1 * wander(rng, m, rate_hz, 0.8))) / rate_hz
    return _fibres(rng, m, rate_hz) * np.sin(np.pi * turns) ** 4 * rng.uniform(15, 50)


def _fibres(rng: Generator, m: int, rate_hz: float) -> np.ndarray:
    frequency = np.fft.rfftfreq(m, 1 / rate_hz)
    power = np.exp(-(((frequency - 50) / 30) ** 2) / 2) * (frequency > 18)
    sides = [field(place(name), 0.5) * rng.choice([0.2, 1]) for name in ("T7", "T8", "F7", "F8")]
    return np.stack(sides, 1) @ noise(rng, len(sides), m, power)


def pop(rng: Generator, rate_hz: float) -> np.ndarray:
    """One electrode loses its contact for an instant: a step that decays."""
    t = np.arange(int(2 * rate_hz)) / rate_hz
    return _single(rng) * rng.choice([-1, 1]) * rng.uniform(80, 350) * np.exp(-t / rng.uniform(0.1, 0.5))


def wobble(rng: Generator, rate_hz: float) -> np.ndarray:
    """One loose electrode swings for 5 to 20 s: rhythmic, but without a field on the scalp."""
    m = int(rng.uniform(5, 20) * rate_hz)
    turns = np.cumsum(rng.uniform(2, 7) * (1 + 0.05 * wander(rng, m, rate_hz, 0.5))) / rate_hz
    return _single(rng) * rng.uniform(40, 120) * np.sin(2 * np.pi * turns) * ramps(m, rate_hz, 0.5, 0.5)


def sway(rng: Generator, rate_hz: float) -> np.ndarray:
    """The head moves for 2 to 12 s: slow waves over a whole side."""
    m = int(rng.uniform(2, 12) * rate_hz)
    slope = 0.5 + PLACES @ rng.standard_normal(3)
    return slope[:, None] * rng.uniform(30, 120) * pink(rng, 1, m, rate_hz, 4) * ramps(m, rate_hz, 0.5, 0.5)


def _single(rng: Generator) -> np.ndarray:
    return np.eye(len(CHANNELS))[rng.integers(len(CHANNELS))][:, None]


def hum(rng: Generator, n: int, rate_hz: float, mains_hz: float) -> np.ndarray:
    """(C, n) of the mains: every electrode has its own share of it."""
    t = np.arange(n) / rate_hz
    share = np.exp(0.6 * rng.standard_normal((len(CHANNELS), 1)))
    return share * np.sin(2 * np.pi * mains_hz * t + rng.uniform(0, 6)) * (1 + 0.3 * wander(rng, n, rate_hz, 20))


def heart(rng: Generator, n: int, rate_hz: float) -> np.ndarray:
    """(n,) microvolts of an electrode on the chest."""
    beats = np.cumsum(rng.uniform(0.7, 1.1) * (1 + 0.04 * rng.standard_normal(int(n / rate_hz / 0.5) + 2)))
    since = np.arange(n) / rate_hz
    since -= np.concatenate([[0], beats])[np.searchsorted(beats, since, "right")]
    wave = 20 * rng.standard_normal(n)
    for at_s, width_s, size_uv in ((0.08, 0.02, 120), (0.2, 0.01, 1000), (0.23, 0.01, -250), (0.45, 0.04, 280)):
        wave += size_uv * np.exp(-(((since - at_s) / width_s) ** 2) / 2)
    return wave
