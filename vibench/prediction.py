"""From a run and the files of a recorder to seizures: the path of the training, a piece of the record at a time."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vibench.config import frozen
from vibench.config.data import EEGDataConfig, Normalisation
from vibench.config.training import checkpoint_of
from vibench.data.eeg.annotations import Seizures, seizures_of, write_events
from vibench.data.eeg.edf import open_edf
from vibench.data.eeg.records import SYSTEM, samples_of, spooled
from vibench.data.normalisation import scaling_of
from vibench.data.splits import Segment
from vibench.data.store import Store
from vibench.data.windows import Windows, covering_starts
from vibench.data.writing import RawRecording, write_store
from vibench.errors import ConfigError
from vibench.memory.device import choose_device
from vibench.memory.recovery import halve_until_it_fits
from vibench.model import Model, build_model
from vibench.report.seizure_picture import Timeline, draw_seizures, stem_of
from vibench.report.status import read_status
from vibench.step.checkpointing import checkpoint_blocks
from vibench.step.precision import autocast
from vibench.tasks.postprocessing import EventStream
from vibench.tasks.seizure_detection import SeizureDetection
from vibench.tasks.szcore import RecordCounts, score_record
from vibench.training.checkpoints import load_weights, read_checkpoint

TASK = "seizure_detection"
POINTS = 2000  # of a picture, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Detector:
    """A trained model with its thresholds, and how a record is prepared for it."""

    data: EEGDataConfig
    model: Model
    task: SeizureDetection
    device: torch.device
    precision: str
    batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What was found in a record.

    Attributes:
        events: (k, 2) seconds.
        confidences: highest probability within each.
        reference: what the annotations beside the record say.
        counts: scores against them; None where nothing is known.
        written: files.
    """

    file: Path
    duration_s: float
    events: list[tuple[float, float]]
    confidences: list[float]
    reference: Seizures
    counts: RecordCounts | None
    written: list[Path]


def load_detector(run_dir: Path) -> Detector:
    """The model that a completed run was tested with.

    Raises:
        ConfigError: the run is not completed, or detects no seizures.
        CheckpointError: its weights cannot be read.
    """
    config = frozen.as_it_ran(run_dir)
    if TASK not in config.task or not isinstance(config.data, EEGDataConfig):
        raise ConfigError([f"{run_dir} detects no seizures (task: {', '.join(config.task)}); name a run that does"])
    if config.data.normalisation is Normalisation.train:
        raise ConfigError(
            [f"{run_dir} has data.normalisation=train, which needs its training data; train with recording or window"]
        )
    try:
        path = checkpoint_of(str(run_dir))
    except ValueError as error:
        raise ConfigError([f"{run_dir} {error}"]) from error
    checkpoint, plan = read_checkpoint(path), read_status(run_dir)["plan"]
    known = checkpoint["vibench"]
    model = build_model(config, n_channels=known["n_channels"], n_classes=known["n_classes"])
    load_weights(model, checkpoint, path)
    device = choose_device(config.hardware)
    checkpoint_blocks(model, plan["checkpointing"])  # slices, where a layer at a time was too much
    model.to(device).eval()
    return Detector(
        data=config.data,
        model=model,
        task=model.tasks[TASK],
        device=device,
        precision=plan["precision"] if device.type == "cuda" else "fp32",
        batch=plan["micro_batch"],
    )


def predict(
    detector: Detector, file: Path, out: Path, *, progress: Callable[[float], None] = lambda share: None
) -> Prediction:
    """Find the seizures of a record; writes a table (HED-SCORE) and a picture.

    Args:
        out: folder for both.
        progress: told which share of the windows is done.

    Raises:
        DataError: the record cannot be read, or lacks a channel.
    """
    data = detector.data
    record = open_edf(file, data.preprocessing.channels, data.preprocessing.interpolate)
    reference = seizures_of(record)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".vibench-") as folder:
        spool, _ = spooled(record, data.preprocessing, Path(folder) / "record.f32")
        raw = RawRecording(
            signal=spool,
            id=file.stem,
            system=SYSTEM,
            entity=file.stem,
            source=str(file),
            rate_hz=data.preprocessing.rate_hz,
        )
        write_store(Path(folder) / "record.h5", [raw])
        spool.path.unlink()
        store = Store(Path(folder) / "record.h5")
        found, curve = find(detector, store, progress)
        timeline = Timeline(
            channels=data.preprocessing.channels,
            duration_s=spool.length / raw.rate_hz,
            power=_power(store),
            probability=curve,
            threshold=detector.task.threshold,
            events=[event for event, _ in found],
            reference=reference.events,
        )
    events, confidences = timeline.events, [confidence for _, confidence in found]
    written = [out / f"{stem_of(file)}{suffix}" for suffix in (".tsv", ".svg")]
    write_events(written[0], events, duration_s=timeline.duration_s, start=record.start, confidences=confidences)
    draw_seizures(timeline, file.name, written[1])
    counts = None
    if reference.events is not None:
        spans = [samples_of(told, raw.rate_hz, spool.length) for told in (reference.events, events)]
        counts = score_record(spans[0], [spans[1]], n_samples=spool.length, rate_hz=raw.rate_hz)
    return Prediction(
        file=file,
        duration_s=timeline.duration_s,
        events=events,
        confidences=confidences,
        reference=reference,
        counts=counts,
        written=written,
    )


def find(
    detector: Detector, store: Store, progress: Callable[[float], None]
) -> tuple[list[tuple[tuple[float, float], float]], np.ndarray]:
    """Seizures in the one record of a store, each with its highest probability, and a curve of the probability.

    Returns:
        [((start_s, stop_s), confidence)], and (points,) highest probability of equal parts of the record.
    """
    (recording,) = store.recordings
    rate_hz = recording.rate_hz
    width = max(1, -(-recording.length // POINTS))  # samples of a point

    def attempt(size: int) -> tuple[list[tuple[tuple[float, float], float]], np.ndarray]:
        stream = EventStream(detector.task.postprocessing, threshold=detector.task.threshold, rate_hz=rate_hz)
        curve = np.zeros(-(-recording.length // width), np.float32)
        spans, done = [], 0
        for piece in probabilities(detector, store, size, progress):
            spans.append(stream.feed(piece))
            np.maximum.at(curve, np.arange(done, done + len(piece)) // width, piece)
            done += len(piece)
        spans.append(stream.finish())
        return [
            ((start / rate_hz, stop / rate_hz), float(curve[start // width : -(-stop // width)].max()))
            for start, stop in np.concatenate(spans).tolist()
        ], curve

    return halve_until_it_fits(
        attempt, detector.batch, detector.batch, detector.model, detector.device, lambda size, said: None
    )


@torch.inference_mode()
def probabilities(
    detector: Detector, store: Store, size: int, progress: Callable[[float], None] = lambda share: None
) -> Iterator[np.ndarray]:
    """Of a seizure, at every sample of the one record of a store, in pieces; windows that overlap are averaged.

    Args:
        size: windows at once.
    """
    windows = _windows(detector, store)
    (length,) = (recording.length for recording in store.recordings)
    starts = windows.places[:, 1].tolist()
    total, count = np.zeros(windows.window, np.float32), np.zeros(windows.window, np.float32)  # from ``done`` on
    done = 0
    for first in range(0, len(starts), size):
        rows = range(first, min(first + size, len(starts)))
        batch = windows.__getitems__(list(rows)).to(detector.device)
        with autocast(detector.precision, detector.device):
            tokens, real = detector.model.encode(batch)
            logits = detector.task(tokens, real)
        for row, probability in zip(rows, logits.float().sigmoid().cpu().numpy(), strict=True):
            if ahead := starts[row] - done:  # no later window sees the samples before this one
                yield total[:ahead] / count[:ahead]
                total[:-ahead], total[-ahead:] = total[ahead:].copy(), 0
                count[:-ahead], count[-ahead:] = count[ahead:].copy(), 0
                done = starts[row]
            total += probability
            count += 1
        progress((rows[-1] + 1) / len(starts))
    yield (total / count)[: length - done]


def _windows(detector: Detector, store: Store) -> Windows:
    """Every sample of the record, as the training saw it."""
    data, recordings = detector.data, store.recordings
    segment = Segment(0, 0, recordings[0].length)
    n_channels = store.channels(SYSTEM)
    starts = covering_starts(0, segment.stop, data.window, data.stride)
    return Windows(
        store=store,
        recordings=recordings,
        places=np.array([(0, start) for start in starts], np.int64),
        window=data.window,
        n_channels=n_channels,
        targets={},
        scaling=scaling_of(data.normalisation, store, recordings, [segment], n_channels),
        entities={recordings[0].entity: 0},
        clip=data.clip,
    )


def _power(store: Store) -> np.ndarray:
    """(channels, points) root mean square of equal parts of the record, in its unit."""
    (recording,) = store.recordings
    width = max(1, -(-recording.length // POINTS))
    total = np.zeros((-(-recording.length // width), store.channels(SYSTEM)))
    done = 0
    for block in store.blocks(recording):
        np.add.at(total, np.arange(done, done + len(block)) // width, block.astype(np.float64) ** 2)
        done += len(block)
    samples = np.minimum(width, recording.length - width * np.arange(len(total)))
    return np.sqrt(total / samples[:, None]).T
