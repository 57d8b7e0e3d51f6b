"""A random forest on envelope spectra, the classical method, on "CWRU, 3 faults, leave one bearing set out".

    python benchmarks/random_forest.py store=cwru.h5 window=8192 stride=1024 bands=4

Unlike the networks it is told the speed of the shaft and the geometry of the bearing. Shapes: B windows, C channels,
L samples.
"""

import statistics
import sys
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score

from vibench.data.store import Recording, Store
from vibench.data.windows import window_starts

SEEDS = (0, 1, 2, 3, 4)
MILS = ("007", "014", "021")
FAULTS = ("ball", "inner", "outer")
ORDERS = (3.5848, 5.4152, 4.7135)  # of the shaft: outer race, inner race, twice the ball spin of the SKF 6205
TOLERANCE = 0.015  # rolling elements slip
FLOOR_HZ = (20, 600)


def features(signal: np.ndarray, rate_hz: float, shaft_hz: float, bands: int) -> np.ndarray:
    """(B, C, L) -> (B, 3 C bands): log of the envelope spectrum's peak at each order over the spectrum's median."""
    width = signal.shape[-1] // 2 // bands
    lines = np.fft.rfft(signal)[..., 1 : width * bands + 1].reshape(*signal.shape[:2], bands, width)
    power = np.abs(np.fft.ifft(lines, 2 * width)) ** 2  # squared envelope of each band
    power -= power.mean(-1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(power * np.hanning(2 * width), 4 * width))
    hz = np.arange(spectrum.shape[-1]) * rate_hz / signal.shape[-1] / 2
    floor = np.median(spectrum[..., (hz >= FLOOR_HZ[0]) & (hz < FLOOR_HZ[1])], -1)
    near = [np.abs(hz - order * shaft_hz) <= max(TOLERANCE * order * shaft_hz, hz[1]) for order in ORDERS]
    peaks = [np.log(spectrum[..., lines_near].max(-1) / floor) for lines_near in near]
    return np.stack(peaks, -1).reshape(len(signal), -1)


def read(store: Store, recording: Recording, window: int, stride: int, bands: int) -> np.ndarray:
    """Features of all windows of a recording."""
    starts = window_starts(0, recording.length, window, stride)
    signal = np.stack([store.signal(recording, start, start + window).T for start in starts]).astype(np.float64)
    return features(signal, recording.rate_hz, float(recording.columns["rpm"]) / 60, bands)


def main() -> None:
    settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
    window, stride, bands = (int(settings[key]) for key in ("window", "stride", "bands"))
    store = Store(Path(settings["store"]))
    used = [r for r in store.recordings if r.columns["fault"] in FAULTS]
    parts = [read(store, r, window, stride, bands) for r in used]
    x = np.concatenate(parts)
    y, mils = (
        np.repeat([r.columns[column] for r in used], [len(part) for part in parts]) for column in ("fault", "mils")
    )

    def scores(train: np.ndarray, test: np.ndarray) -> list[tuple[float, float]]:
        """Accuracy and macro F1 of each seed."""
        forests = [RandomForestClassifier(300, random_state=seed).fit(x[train], y[train]) for seed in SEEDS]
        called = [forest.predict(x[test]) for forest in forests]
        return [(accuracy_score(y[test], c), float(f1_score(y[test], c, average="macro"))) for c in called]

    for test in MILS:
        a, b = (m for m in MILS if m != test)
        inner = scores(mils == a, mils == b) + scores(mils == b, mils == a)  # what choices may look at
        accuracy, macro_f1 = zip(*scores(mils != test, mils == test), strict=True)
        print(
            f"| test {test} | {_cell(accuracy)} | {_cell(macro_f1)} | {sum(mils == test)} | "
            f"{statistics.mean(score for score, _ in inner):.3f} |",
            flush=True,
        )


def _cell(values: tuple[float, ...]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
