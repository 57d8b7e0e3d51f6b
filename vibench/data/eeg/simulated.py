"""One simulated patient with epilepsy: what differs from patient to patient, and a record of it."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from vibench.data.eeg import artefacts, waves
from vibench.data.eeg.scalp import place

FOCI = ("F7", "T7", "P7", "F3", "C3", "P3", "F8", "T8", "P8", "F4", "C4", "P4")
PER_MINUTE = {  # of the patients, lowest and highest
    "blink": (3, 15),
    "flutter": (0, 0.4),
    "muscle": (0.3, 1.5),
    "chewing": (0, 0.3),
    "pop": (0.1, 1),
    "wobble": (0, 0.3),
    "sway": (0.1, 0.8),
    "alpha_burst": (0.1, 0.6),
    "drowsy_theta": (0, 0.4),
    "spike": (0.5, 4),
    "discharge": (0.2, 1.2),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Seizure:
    """Seconds of a record."""

    onset_s: float
    duration_s: float

    @property
    def end_s(self) -> float:
        return self.onset_s + self.duration_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """What makes one patient differ from the next.

    Attributes:
        exponent: of the spectrum of the background, 1 / f ** exponent.
        focus: electrode at which the seizures begin; None: they are generalised spike-and-wave.
        seizure_uv: their amplitude at its highest, of spike-and-wave from peak to peak.
        activity: seizures of this patient over those of an average one.
        per_minute: artefacts and benign waves, by the name of their function.
    """

    background_uv: float
    exponent: float
    alpha_hz: float
    alpha_uv: float
    focus: str | None
    seizure_uv: float
    activity: float
    per_minute: dict[str, float]
    mains_hz: float
    hum_uv: float

    @classmethod
    def draw(cls, rng: Generator, *, generalised: bool) -> "Patient":
        return cls(
            background_uv=rng.uniform(9, 16),
            exponent=rng.uniform(1.2, 1.8),
            alpha_hz=rng.uniform(8.5, 11.5),
            alpha_uv=rng.uniform(8, 25),
            focus=None if generalised else FOCI[rng.integers(len(FOCI))],
            seizure_uv=rng.uniform(60, 130) if generalised else rng.uniform(40, 90),
            activity=rng.uniform(0.6, 1.4),
            per_minute={name: rng.uniform(*limits) for name, limits in PER_MINUTE.items()},
            mains_hz=(50.0, 60.0)[rng.integers(2)],
            hum_uv=rng.uniform(0.5, 4),
        )

    def wave(self, name: str, rng: Generator, rate_hz: float) -> np.ndarray:
        """(C, m) in microvolts of one of ``per_minute``."""
        if name == "alpha_burst":
            return rng.uniform(1.5, 3) * self.alpha_uv * waves.alpha_burst(rng, rate_hz, self.alpha_hz)
        if name == "drowsy_theta":
            return rng.uniform(25, 50) * waves.drowsy_theta(rng, rate_hz)
        if name == "spike":
            direction = waves.FRONT if self.focus is None else place(self.focus)
            return rng.uniform(0.7, 1.3) * self.seizure_uv * waves.spike(rng, rate_hz, direction)
        if name == "discharge":
            return rng.uniform(0.5, 1) * self.seizure_uv * waves.discharge(rng, rate_hz, self.focus)
        return getattr(artefacts, name)(rng, rate_hz)

    def seizure(self, rng: Generator, m: int, rate_hz: float) -> np.ndarray:
        """(C, m) in microvolts."""
        if self.focus is None:
            return self.seizure_uv * waves.generalised(rng, m, rate_hz)
        return self.seizure_uv * waves.focal(rng, m, rate_hz, self.focus)


def simulate(
    rng: Generator, *, duration_s: float, rate_hz: float, seizures: list[Seizure], patient: Patient
) -> np.ndarray:
    """(samples, 19) float32 in microvolts against a quiet reference, channels as in ``CHANNELS``.

    It is made at once: an hour at 256 Hz takes about 500 MB.

    Args:
        rate_hz: above 125, or the mains could not be there.
        seizures: apart from each other, within the record.
    """
    n = round(duration_s * rate_hz)
    signal = patient.background_uv * waves.background(rng, n, rate_hz, patient.exponent)
    signal += patient.alpha_uv * waves.alpha(rng, n, rate_hz, patient.alpha_hz)
    if patient.focus is not None:  # absences end as if nothing had been
        signal *= waves.calm_after(n, rate_hz, [seizure.end_s for seizure in seizures])
    for seizure in seizures:
        _add(signal, patient.seizure(rng, round(seizure.duration_s * rate_hz), rate_hz), seizure.onset_s, rate_hz)
    for name, per_minute in patient.per_minute.items():
        for onset_s in rng.uniform(0, duration_s, rng.poisson(per_minute * duration_s / 60)):
            _add(signal, patient.wave(name, rng, rate_hz), onset_s, rate_hz)
    signal += patient.hum_uv * artefacts.hum(rng, n, rate_hz, patient.mains_hz)
    signal += 0.8 * rng.standard_normal(signal.shape)  # of the amplifier
    return np.ascontiguousarray(signal.T, np.float32)


def _add(signal: np.ndarray, wave: np.ndarray, onset_s: float, rate_hz: float) -> None:
    """Add a wave to (C, n) in place; the record may end before it does."""
    start = round(onset_s * rate_hz)
    there = signal[:, start : start + wave.shape[1]]
    there += wave[:, : there.shape[1]]
