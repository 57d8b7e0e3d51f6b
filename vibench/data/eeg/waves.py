"""What a simulated brain does: background, alpha, benign rhythms, epileptic discharges and seizures.

Shapes: C electrodes, n or m samples; every wave is (C, m), of about size 1 where it is largest: a rhythm from its
middle, noise as a standard deviation, spike-and-wave from peak to peak.
"""

import numpy as np
from numpy.random import Generator

from vibench.data.eeg.scalp import CHANNELS, OPPOSITE, PLACES, distances, field, pink, place, ramps, rhythm, wander

FRONT = np.array([0, 0.8, 0.6])  # where generalised discharges are largest: near Fz


def background(rng: Generator, n: int, rate_hz: float, exponent: float) -> np.ndarray:
    """(C, n) of standard deviation 1: a source under every electrode, which its neighbours see as well.

    A 1 / f spectrum (Pritchard 1992, 10.3109/00207459208999796), stronger and weaker over some ten seconds.
    """
    mixing = np.stack([field(direction, 0.5) for direction in PLACES])
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    return mixing @ pink(rng, len(CHANNELS), n, rate_hz, exponent) * np.exp(0.25 * wander(rng, n, rate_hz, 12))


def alpha(rng: Generator, n: int, rate_hz: float, alpha_hz: float) -> np.ndarray:
    """(C, n) rhythm of the back of the head; it comes and goes, as eyes close and open."""
    sides = np.stack([field(place(name), 0.6) for name in ("O1", "O2")], 1)
    return sides @ rhythm(rng, 2, n, rate_hz, alpha_hz, 0.5) * (0.6 + 0.6 * wander(rng, n, rate_hz, 8)).clip(0, 1.5)


def calm_after(n: int, rate_hz: float, ends_s: list[float]) -> np.ndarray:
    """(n,) share of the background that is left: less after a seizure, recovering within half a minute."""
    share, t = np.ones(n), np.arange(n) / rate_hz
    for end_s in ends_s:
        share -= np.where(t > end_s, 0.5 * np.exp(-(t - end_s).clip(0) / 10), 0)
    return share


def steady(rng: Generator, m: int, rate_hz: float, frequency_hz: float, direction: np.ndarray) -> np.ndarray:
    """(C, m) a rhythm that keeps its frequency and its place, and swells and fades."""
    turns = rng.uniform() + np.cumsum(frequency_hz * (1 + 0.02 * wander(rng, m, rate_hz, 0.5))) / rate_hz
    return field(direction, 0.6)[:, None] * np.sin(2 * np.pi * turns) * np.hanning(m) ** 0.5


def alpha_burst(rng: Generator, rate_hz: float, alpha_hz: float) -> np.ndarray:
    """(C, m) alpha of 3 to 10 s, higher than else."""
    return steady(rng, int(rng.uniform(3, 10) * rate_hz), rate_hz, alpha_hz, np.array([0, -0.9, 0.4]))


def drowsy_theta(rng: Generator, rate_hz: float) -> np.ndarray:
    """(C, m) rhythmic mid-temporal theta of drowsiness, for 3 to 9 s.

    A normal variant (Mari-Acevedo 2019, 10.1016/B978-0-444-64032-1.00009-6).
    """
    side = place(("T7", "T8")[rng.integers(2)])
    return steady(rng, int(rng.uniform(3, 9) * rate_hz), rate_hz, rng.uniform(5, 7), side)


def spike_and_wave(turns: np.ndarray) -> np.ndarray:
    """A spike and a slow wave in every turn, both negative, as electrodes on the scalp see them."""
    turn = turns % 1
    wave = np.where(turn > 0.15, np.sin(np.pi * (turn - 0.15) / 0.85), 0) ** 2
    return 0.5 - np.exp(-(((turn - 0.1) / 0.03) ** 2) / 2) - 0.9 * wave


def generalised(rng: Generator, m: int, rate_hz: float) -> np.ndarray:
    """(C, m) spike-and-wave of 3 a second, a little slower at the end; everywhere, in front first and most.

    Absences last 9.4 s on average, 1 to 44 s (Tenney and Glauser 2013, PMC3697883); here up to the limits of a corpus.
    """
    speed_hz = np.linspace(rng.uniform(3.1, 3.5), rng.uniform(2.6, 2.9), m) * (1 + 0.02 * wander(rng, m, rate_hz, 0.5))
    turns = rng.uniform() + np.cumsum(speed_hz) / rate_hz - 0.03 * distances(FRONT)[:, None]  # some 10 ms a radian
    size = (1 + 0.15 * wander(rng, m, rate_hz, 0.6)) * ramps(m, rate_hz, min(1, 0.1 * m / rate_hz), 0.3)
    return field(FRONT, 0.8, floor=0.3)[:, None] * spike_and_wave(turns) * size


def sharp(turns: np.ndarray) -> np.ndarray:
    """A rhythm with harmonics."""
    return np.sin(2 * np.pi * turns) + 0.35 * np.sin(4 * np.pi * turns + 0.6) + 0.15 * np.sin(6 * np.pi * turns + 1.2)


def focal(rng: Generator, m: int, rate_hz: float, focus: str) -> np.ndarray:
    """(C, m) a rhythm of 6 to 9 Hz at one electrode that grows, slows to 2 to 3 Hz, and spreads to the other side.

    Regular 5 to 9 Hz begins most temporal seizures (Pacia and Ebersole 1997, 10.1111/j.1528-1157.1997.tb01233.x), and
    evolution in frequency, shape or place is what makes a rhythm ictal (Hirsch 2021, 10.1097/WNP.0000000000000806).
    """
    t = np.arange(m) / rate_hz
    share, slows = t / t[-1], rng.random() < 0.5
    first_hz, last_hz = rng.uniform(6, 9), rng.uniform(2, 3)
    speed_hz = first_hz * (last_hz / first_hz) ** share * (1 + 0.03 * wander(rng, m, rate_hz, 0.7))
    speed_hz *= 1 - slows * 0.4 * (share / 0.2 - 4).clip(0)  # over the last fifth
    turns = rng.uniform() + np.cumsum(speed_hz) / rate_hz
    grown = 0.2 + 0.8 * np.sin(np.pi / 2 * np.minimum(1, share / 0.7)) ** 2
    size = grown * (1 + 0.1 * wander(rng, m, rate_hz, 0.6)) * ramps(m, rate_hz, 1, 4 if slows else 0.3)
    other, half_s = OPPOSITE[focus], t[-1] / 2
    return size * (_spread(turns, t, focus, 0, half_s) + 0.7 * _spread(turns + 0.2, t, other, half_s, half_s))


def _spread(turns: np.ndarray, t: np.ndarray, origin: str, start_s: float, over_s: float) -> np.ndarray:
    """(C, m) a rhythm that begins at an electrode and reaches those a radian away ``over_s`` later."""
    away = distances(place(origin))[:, None]
    reached = 1 / (1 + np.exp(-(t - start_s - over_s * away).clip(-30, 30)))
    return field(place(origin), 0.9)[:, None] * reached * sharp(turns - 0.1 * away)


def spike(rng: Generator, rate_hz: float, origin: np.ndarray) -> np.ndarray:
    """(C, m) one spike with its slow wave, as they come between seizures."""
    turns = np.arange(int(0.4 * rate_hz)) / int(0.4 * rate_hz)
    return field(origin, 0.5)[:, None] * (spike_and_wave(turns) - 0.5)


def discharge(rng: Generator, rate_hz: float, focus: str | None) -> np.ndarray:
    """(C, m) what a seizure is made of, for 0.8 to 2.7 s: too short to be one. No ``focus``: generalised."""
    m = int(rng.uniform(0.8, 2.7) * rate_hz)
    if focus is None:
        return generalised(rng, m, rate_hz)
    turns = rng.uniform() + np.cumsum(np.full(m, rng.uniform(2.5, 7))) / rate_hz
    return field(place(focus), 0.6)[:, None] * sharp(turns) * np.hanning(m) ** 0.5
