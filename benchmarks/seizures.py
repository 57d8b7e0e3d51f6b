"""What seizure detection does with whole records: how fast a window is read, what a day takes, what is found.

    python -m benchmarks.seizures records
    python -m benchmarks.seizures corpus [RUN]

``records``: a window of 60 s from a record of an hour, 19 channels at 256 Hz; and ``vibench-predict`` of a record of
24 h at 256 Hz, in a process of its own, with the most memory it ever had. Bars: 3 ms, 1 GB.
``corpus``: ``experiment=seizure_demo`` (or a RUN of it), then patients of another corpus, whom nobody has seen, by the
thresholds of its validation. Bars: event F1 0.9 with fewer than 5 false alarms in 24 h.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.random import default_rng

from vibench.config import schemas
from vibench.config.data import Normalisation
from vibench.data.eeg.corpus import write_corpus
from vibench.data.eeg.edf import write_edf
from vibench.data.eeg.scalp import CHANNELS
from vibench.data.normalisation import scaling_of
from vibench.data.splits import Segment
from vibench.data.store import Store
from vibench.data.windows import Windows, covering_starts
from vibench.data.writing import RawRecording, write_store
from vibench.tasks.szcore import RecordCounts, f1, false_alarms_per_24h, sensitivity

RATE_HZ, WINDOW, STRIDE = 256, 15_360, 2_560
HOURS = 24
SMALL = [  # a model that is nothing beside a day of signal
    "experiment=seizure_demo",
    f"data.preprocessing.rate_hz={RATE_HZ}",
    f"data.window={WINDOW}",
    f"data.stride={WINDOW}",
    "data.patients=6",
    "embedding.channels=[8,8]",
    "embedding.stride=256",
    "training.max_steps=4",
    "training.warmup_steps=1",
    "training.monitor=null",
]


def records() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(f"a window of 60 s from a record of an hour: {_window_ms(Path(folder)):.2f} ms (bar 3 ms)", flush=True)
        seconds, peak_gb = _day(Path(folder))
        print(f"vibench-predict of {HOURS} h: {peak_gb:.2f} GB at most (bar 1 GB), {seconds:.0f} s", flush=True)


def _window_ms(folder: Path) -> float:
    """Median over windows in an order that jumps, the file in the page cache."""
    signal = default_rng(0).standard_normal((3600 * RATE_HZ, 19)).astype(np.float32)
    raw = RawRecording(signal=signal, id="hour", system="eeg", entity="a", source="", rate_hz=RATE_HZ)
    write_store(folder / "hour.h5", [raw])
    store = Store(folder / "hour.h5")
    starts = covering_starts(0, len(signal), WINDOW, STRIDE)
    scaling = scaling_of(Normalisation.recording, store, store.recordings, [Segment(0, 0, len(signal))], 19)
    windows = Windows(
        store=store,
        recordings=store.recordings,
        places=np.array([(0, start) for start in starts]),
        window=WINDOW,
        n_channels=19,
        targets={},
        scaling=scaling,
        entities={"a": 0},
        clip=10,
    )
    took = []
    for index in default_rng(1).permutation(len(windows)).tolist():
        begin = time.perf_counter()
        windows[index]
        took.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(took)


def _day(folder: Path) -> tuple[float, float]:
    """Seconds and GB of a prediction."""
    hour = 30 * default_rng(2).standard_normal((3600 * RATE_HZ, len(CHANNELS)))
    path = folder / "day.edf"
    write_edf(path, np.tile(hour, (HOURS, 1)), list(CHANNELS), RATE_HZ, start=datetime(2020, 1, 1), patient="a")
    del hour
    run = folder / "run"
    _command("train", *SMALL, f"hydra.run.dir={run}")
    told = folder / "status"
    code = (
        f"import atexit; atexit.register(lambda: open({str(told)!r}, 'w').write(open('/proc/self/status').read()))\n"
        "from vibench.cli.predict import main; main()"
    )  # of the process itself: what its parent is told holds what the parent had
    begin = time.perf_counter()
    line = [sys.executable, "-c", code, str(run), str(path), f"out={folder}"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    (peak,) = (text.split()[1] for text in told.read_text().splitlines() if text.startswith("VmHWM"))
    return seconds, int(peak) * 1024 / 1e9


def corpus() -> None:
    from vibench.prediction import load_detector, predict

    with tempfile.TemporaryDirectory() as folder:
        run = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(folder) / "run"
        if len(sys.argv) <= 2:
            begin = time.perf_counter()
            _command("train", "experiment=seizure_demo", f"hydra.run.dir={run}")
            print(f"experiment=seizure_demo: {time.perf_counter() - begin:.0f} s", flush=True)
        unseen = Path(folder) / "unseen"
        write_corpus(
            unseen, seed=2, patients=20, records_per_patient=2, record_s=1200, seizures_per_hour=4, rate_hz=RATE_HZ
        )
        detector = load_detector(run)
        total = RecordCounts.none(1)
        for file in sorted(unseen.rglob("*.edf")):
            total += predict(detector, file, Path(folder) / "found").counts
    found, false = total.event.tp[0], total.event.fp[0]
    print(f"20 patients of another corpus, {total.seconds / 3600:.1f} h, {total.event.total:g} seizures, threshold")
    print(f"{detector.task.threshold:.3f} of the validation: {found:g} found, {false:g} false alarms")
    scores = {
        "event F1 (bar 0.9)": f1(total.event)[0],
        "sensitivity": sensitivity(total.event)[0],
        "false alarms in 24 h (bar 5)": false_alarms_per_24h(total)[0],
        "sample F1": f1(total.sample)[0],
        "TAES F1": f1(total.taes)[0],
    }
    for name, value in scores.items():
        print(f"{name:<30}{value:.3f}")


def _line(command: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"from vibench.cli.{command} import main; main()", *arguments]


def _command(command: str, *arguments: str) -> None:
    subprocess.run(_line(command, *arguments), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


PARTS = {"records": records, "corpus": corpus}


def main() -> None:
    schemas.register()
    for name in sys.argv[1:2] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
