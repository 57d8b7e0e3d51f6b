"""Simulated machines: what a faulty bearing does to an accelerometer, from its geometry.

An impulse whenever a rolling element meets the damage, with slip; its strength follows the load zone; it rings a
resonance of the housing; shaft harmonics and noise lie over it (McFadden and Smith 1984, 10.1016/0022-460X(84)90595-9;
Randall and Antoni 2011, 10.1016/j.ymssp.2010.07.017).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng

from vibench.config.data import DemoConfig
from vibench.data.bearing import NSK_6804, SKF_6205, Bearing
from vibench.data.writing import RawRecording, write_store
from vibench.errors import DataError

SIMULATION = 2  # raised whenever the same config would simulate other samples: a cached store is then made anew
FAULTS = ("healthy", "inner", "outer", "ball")
SLIP = 0.01  # standard deviation of the time between two impulses, relative
LOAD_ZONE = 0.35  # half of it is loaded below 0.5: a bearing with clearance
PATH = {"outer": 1.0, "inner": 0.8, "ball": 0.62}  # resonance reached, relative: the path from damage to sensor differs


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A rig: its bearing, sensors, and the speeds and loads it is run at.

    Attributes:
        resonances_hz: of the housing at each channel's sensor.
        gains: of the path to each channel's sensor.
        conditions: (rpm, load in hp or kN, as the rig's literature has it).
    """

    name: str
    rate_hz: float
    bearing: Bearing
    resonances_hz: tuple[float, ...]
    gains: tuple[float, ...]
    conditions: tuple[tuple[float, float], ...]


MOTOR = Machine(
    name="motor",
    rate_hz=12_000,
    bearing=SKF_6205,
    resonances_hz=(3_400, 2_700),
    gains=(1.0, 0.5),
    conditions=((1797, 0), (1750, 2), (1772, 1), (1730, 3), (1500, 1), (1200, 2)),
)
RIG = Machine(
    name="rig",
    rate_hz=25_600,
    bearing=NSK_6804,
    resonances_hz=(5_200, 6_400, 4_300),
    gains=(1.0, 0.7, 0.4),
    conditions=((1800, 4.0), (1650, 4.2), (1500, 5.0), (1900, 3.8), (1400, 4.5), (2000, 4.0)),
)


def impulse_times(order: float, shaft_hz: float, duration_s: float, rng: Generator) -> np.ndarray:
    """Seconds at which damage is struck: ``order`` times per turn of the shaft, with slip."""
    period = 1 / (order * shaft_hz)
    count = int(duration_s / period * 1.2) + 8
    times = rng.uniform(0, period) + np.cumsum(period * (1 + SLIP * rng.standard_normal(count)))
    return times[times < duration_s]


def load_zone(angle: np.ndarray) -> np.ndarray:
    """Share of the load carried at an angle from its direction (Stribeck), in [0, 1]."""
    return np.maximum(0, 1 - (1 - np.cos(angle)) / (2 * LOAD_ZONE)) ** 1.5


def impulses(machine: Machine, fault: str, shaft_hz: float, duration_s: float, rng: Generator) -> tuple:
    """Times in seconds and strengths of the impulses of one fault."""
    bearing, phase = machine.bearing, rng.uniform(0, 2 * np.pi)
    if fault == "outer":  # stands still in the load zone
        times = impulse_times(bearing.bpfo, shaft_hz, duration_s, rng)
        return times, np.full(len(times), 0.9)
    if fault == "inner":  # turns with the shaft through the load zone
        times = impulse_times(bearing.bpfi, shaft_hz, duration_s, rng)
        return times, 0.1 + 0.9 * load_zone(2 * np.pi * shaft_hz * times + phase)
    times = impulse_times(2 * bearing.bsf, shaft_hz, duration_s, rng)  # strikes both races, turns with the cage
    races = np.where(np.arange(len(times)) % 2, 0.6, 1.0)
    return times, races * (0.2 + 0.8 * load_zone(2 * np.pi * bearing.ftf * shaft_hz * times + phase))


def ring(times: np.ndarray, strengths: np.ndarray, n: int, rate_hz: float, resonance_hz: float) -> np.ndarray:
    """(n,) response of one damped resonance to impulses."""
    train = np.zeros(n + 1)
    place = np.minimum(times * rate_hz, n - 1)
    whole = place.astype(int)
    np.add.at(train, whole, strengths * (1 - (place - whole)))
    np.add.at(train, whole + 1, strengths * (place - whole))
    t = np.arange(int(0.012 * rate_hz)) / rate_hz
    response = np.exp(-0.06 * 2 * np.pi * resonance_hz * t) * np.sin(2 * np.pi * resonance_hz * t)
    size = 1 << (n + len(t)).bit_length()
    return np.fft.irfft(np.fft.rfft(train, size) * np.fft.rfft(response, size), size)[:n]


@dataclass(kw_only=True, slots=True)
class Specimen:
    """What makes one bearing differ from the next of its kind."""

    tuning: float  # of the resonances, relative
    strength: float  # of its impulses, in units of the noise
    noise: float
    unbalance: float

    @classmethod
    def draw(cls, rng: Generator) -> "Specimen":
        return cls(
            tuning=rng.uniform(0.96, 1.04),
            strength=rng.uniform(9, 15),
            noise=rng.uniform(0.08, 0.12),
            unbalance=rng.uniform(0.05, 0.15),
        )


def simulate(
    machine: Machine, specimen: Specimen, fault: str, damage: float, condition: tuple, duration_s: float, rng: Generator
) -> np.ndarray:
    """(samples, channels) float32 in g.

    Args:
        damage: 0 none to 1 the specimen's full strength, and beyond.
        condition: rpm and load.
    """
    n, (rpm, load) = int(duration_s * machine.rate_hz), condition
    shaft_hz = rpm / 60 * (1 + 0.002 * rng.standard_normal())
    t = np.arange(n) / machine.rate_hz
    signal = np.empty((n, len(machine.gains)), np.float32)
    struck = None if fault == "healthy" else impulses(machine, fault, shaft_hz, duration_s, rng)
    for channel, (gain, resonance_hz) in enumerate(zip(machine.gains, machine.resonances_hz, strict=True)):
        wave = specimen.noise * rng.standard_normal(n)
        for harmonic, share in ((1, 1.0), (2, 0.5), (3, 0.25)):
            angle = 2 * np.pi * harmonic * shaft_hz * t + rng.uniform(0, 2 * np.pi)
            wave += specimen.unbalance * share * np.sin(angle)
        if struck is not None:
            strength = specimen.strength * specimen.noise * damage * (1 + 0.05 * load)
            tuned = resonance_hz * specimen.tuning * PATH[fault]
            wave += strength * ring(struck[0], struck[1], n, machine.rate_hz, tuned)
        signal[:, channel] = gain * wave
    return signal


def damage_over_life(t: float, onset: float) -> float:
    """Damage at a share ``t`` of the life: slow wear, and from the onset exponential growth to 2."""
    grown = max(0.0, (t - onset) / (1 - onset))
    return 0.3 * t + 1.7 * np.expm1(3 * grown) / np.expm1(3)


def recordings(config: DemoConfig) -> Iterator[RawRecording]:
    """Every recording of the demo store, in order."""
    for machine in (MOTOR, RIG):
        for fault in FAULTS:
            for number in range(config.bearings_per_class):
                yield from _bearing(config, machine, fault, number)
    for number in range(config.lives):
        yield from _life(config, (MOTOR, RIG)[number % 2], number)


def _bearing(config: DemoConfig, machine: Machine, fault: str, number: int) -> Iterator[RawRecording]:
    entity = _entity(config, f"{machine.name}-{fault}-{number}")
    rng = _stream(config, entity)
    specimen = Specimen.draw(rng)
    for condition in machine.conditions[: config.conditions]:
        yield RawRecording(
            signal=simulate(machine, specimen, fault, rng.uniform(0.7, 1.3), condition, config.duration_s, rng),
            id=f"{entity}-{condition[0]:g}rpm",
            system=machine.name,
            entity=entity,
            source="simulation",
            rate_hz=machine.rate_hz,
            anomaly=fault != "healthy",
            columns={"fault": fault, "rpm": f"{condition[0]:g}", "load": f"{condition[1]:g}"},
        )


def _life(config: DemoConfig, machine: Machine, number: int) -> Iterator[RawRecording]:
    entity = _entity(config, f"{machine.name}-life-{number}")
    rng = _stream(config, entity)
    specimen, fault = Specimen.draw(rng), FAULTS[1 + rng.integers(3)]
    life_s, onset = rng.uniform(5400, 10800), rng.uniform(0.2, 0.4)
    condition = machine.conditions[rng.integers(len(machine.conditions))]
    for k in range(config.snapshots_per_life):
        share = k / config.snapshots_per_life
        damage = damage_over_life(share, onset)
        yield RawRecording(
            signal=simulate(machine, specimen, fault, damage, condition, config.duration_s, rng),
            id=f"{entity}-{k}",
            system=machine.name,
            entity=entity,
            source="simulation",
            rate_hz=machine.rate_hz,
            rul_s=life_s * (1 - share),
            columns={"fault": "", "rpm": f"{condition[0]:g}", "load": f"{condition[1]:g}"},
        )


def _entity(config: DemoConfig, name: str) -> str:
    """A name of its own for every machine there can be: by their names it is known what a model has seen."""
    return name if config.machine_seed == 0 else f"{name}-seed{config.machine_seed}"


def _stream(config: DemoConfig, entity: str) -> Generator:
    """Random numbers of one bearing's own, so that more bearings do not change those there are."""
    return default_rng([config.machine_seed, *entity.encode()])


def demo_store(config: DemoConfig) -> Path:
    """Path of the demo store, simulated now if the cache does not hold it."""
    keys = ("machine_seed", "bearings_per_class", "conditions", "duration_s", "lives", "snapshots_per_life")
    asked = json.dumps({"simulation": SIMULATION} | {key: getattr(config, key) for key in keys}, sort_keys=True)
    name = hashlib.sha256(asked.encode()).hexdigest()[:12]
    path = Path(config.cache_dir).expanduser() / f"demo-{name}.h5"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_store(path, recordings(config))
        except OSError as error:
            raise DataError(f"data.cache_dir={config.cache_dir} cannot be written: {error}; name another") from error
    return path
