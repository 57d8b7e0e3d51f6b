"""Records of EEG in EDF, EDF+ and BDF files: a few seconds of the wanted channels at a time, in microvolts.

edfio reads them, but never a file of a day at once: it is handed the data records that are needed, and of those the
signals that are used, as a small file of its own. Left to itself it reads a BDF file whole, and maps an EDF file, of
which every page that was touched stays resident; the annotations alone touch all of them.
"""

import io
import math
import os
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vibench.data.eeg.montage import interpolated, mixing
from vibench.errors import DataError

Annotation = tuple[float, float | None, str]  # onset in seconds of the record, duration in seconds, text
NAMELESS = {"x", "xx", "xxx", "-", "_", "0", "unknown", "anonymous", "anonymized", "anonymised", "none", "n/a", "na"}
MICROVOLTS = {"": 1.0, "uv": 1.0, "µv": 1.0, "μv": 1.0, "mv": 1e3, "v": 1e6, "nv": 1e-3}  # micro sign, Greek mu
VERSIONS = {b"0": 2, b"\xffBIOSEMI": 3}  # bytes of a sample
MAIN = 256  # bytes of the header, and again for each signal
FIELDS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)  # bytes of a signal's texts: its label first, its samples next to last
ASCII = bytes(range(128)) + b"?" * 128
_AGAIN = "fetch or export it again"


@dataclass(kw_only=True, slots=True)
class Layout:
    """Where in a file the samples of each signal lie.

    Attributes:
        main: header without the signals, 256 bytes.
        texts: of each signal, its :data:`FIELDS`.
        samples: of each signal, in a data record.
        annotating: signals that hold annotations; edfio keeps them apart.
        records: data records, each of ``record_s`` seconds.
        width: bytes of a sample.
    """

    path: Path
    main: bytes
    texts: list[list[bytes]]
    samples: list[int]
    annotating: list[int]
    records: int
    record_s: Fraction
    width: int


@dataclass(kw_only=True, slots=True)
class EDFRecording:
    """A file, and how the wanted channels are made of its signals. Holds no open file.

    Attributes:
        length: samples of each channel.
        start: of the first sample; None where the file does not say.
        patient: code of the patient in EDF+, where it says something.
        annotations: of EDF+: (onset in seconds of the record, duration in seconds or None, text), in order.
        interpolated: electrodes that were not recorded but made of their neighbours.
        used: the signals that the channels are made of.
        weights: (used signals, channels), to microvolts.
    """

    path: Path
    rate_hz: float
    length: int
    duration_s: float
    start: datetime | None
    patient: str | None
    annotations: list[Annotation]
    interpolated: list[str]
    layout: Layout
    used: list[int]
    weights: np.ndarray

    def microvolts(self, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to ``stop`` (stop - start, channels) in float32 microvolts.

        Raises:
            DataError: the file is gone, or shorter than it was.
        """
        assert 0 <= start <= stop <= self.length, f"samples {start} to {stop} of {self.length}"
        samples = self.layout.samples[self.used[0]]
        first, last = start // samples, -(-stop // samples)
        data = _data(self.layout, self.used, first, last)
        with _in_one_line(self.path):
            signals = _read(self.layout, _header(self.layout, self.used) + data).signals
            physical = np.stack([signal.data for signal in signals], 1)
        begin = start - first * samples
        return (physical[begin : begin + stop - start] @ self.weights).astype(np.float32)


def open_edf(path: Path, channels: list[str], interpolate: list[str]) -> EDFRecording:
    """Open a file for some channels.

    Args:
        channels: electrodes (Fp1) or pairs (Fp1-F7), as :func:`vibench.data.eeg.montage.mixing` takes them.
        interpolate: electrodes that may be made of their neighbours.

    Raises:
        DataError: edfio is missing; the file cannot be read, is damaged, cut short or not continuous; or the channels
            are missing, in a unit that is not volts, or at different rates. Names the file.
    """
    layout = _layout(path)
    ordinary = [i for i in range(len(layout.samples)) if i not in layout.annotating]
    with _in_one_line(path):
        edf = _read(layout, _header(layout, ordinary))
        signals, labels, patient = edf.signals, list(edf.labels), _patient(edf)
    mixes = mixing(labels, channels, interpolate, str(path))
    indices = sorted({i for mix in mixes for i in mix})
    used = [ordinary[i] for i in indices]
    rate_hz = _rate(layout, used, [labels[i] for i in indices])
    factors = [[_factor(path, signals[i])] for i in indices]
    with _in_one_line(path):
        clock, annotations = _annotated(layout)
        start = _start(clock or edf)
    return EDFRecording(
        path=path,
        rate_hz=rate_hz,
        length=layout.records * layout.samples[used[0]],
        duration_s=float(layout.records * layout.record_s),
        start=start,
        patient=patient,
        annotations=annotations,
        interpolated=interpolated(labels, channels, interpolate),
        layout=layout,
        used=used,
        weights=np.array(factors) * np.array([[mix.get(i, 0.0) for mix in mixes] for i in indices]),
    )


def write_edf(
    path: Path,
    signal: np.ndarray,
    channels: list[str],
    rate_hz: float,
    *,
    start: datetime,
    patient: str,
    annotations: Iterable[Annotation] = (),
) -> None:
    """Write an EDF+ file, whole or not at all. 16 bits span the largest sample of a channel, in whole microvolts.

    Args:
        signal: (samples, channels) in microvolts.
        start: from 1985 to 2084.
        patient: code; spaces become underscores, as EDF+ wants it.

    Raises:
        DataError: edfio is missing, the values do not fit the format, or the file cannot be written.
    """
    edfio = _edfio(f"writing {path}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        samples, duration_s = _record(path, len(signal), len(channels), rate_hz)
        edfio.Edf(
            [
                edfio.EdfSignal(
                    values, samples / duration_s, label=name, physical_dimension="uV", physical_range=_range(values)
                )
                for name, values in zip(channels, np.asarray(signal, np.float64).T, strict=True)
            ],
            patient=edfio.Patient(code="_".join(patient.split()) or "X"),
            recording=edfio.Recording(startdate=start.date()),
            starttime=start.time(),
            data_record_duration=duration_s,
            annotations=[edfio.EdfAnnotation(*annotation) for annotation in annotations],
        ).write(temporary)
        os.replace(temporary, path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _edfio(doing: str) -> Any:
    try:
        import edfio
    except ImportError as error:
        raise DataError(f"{doing} needs edfio; pip install 'vibench[eeg]'") from error
    return edfio


def _range(samples: np.ndarray) -> tuple[int, int]:
    largest = float(np.abs(samples).max(initial=0))
    if not largest < 9_999_999:  # eight characters, one of them the sign
        raise ValueError(f"a sample of {largest:g} microvolts does not fit the format")
    return -(math.floor(largest) + 1), math.floor(largest) + 1


def _record(path: Path, length: int, channels: int, rate_hz: float) -> tuple[int, float]:
    """Samples and seconds of a data record: near one second, filling the signal, in seconds of eight characters.

    A record should not exceed 61,440 bytes (https://www.edfplus.info/specs/edf.html).
    """
    tolerance = 1e-12 if float(rate_hz).is_integer() else 1e-6  # 256 Hz stay 256 Hz, or the file would be resampled
    divisors = {d for k in range(1, math.isqrt(length) + 1) if length % k == 0 for d in (k, length // k)}
    for samples in sorted(divisors, key=lambda n: abs(n - rate_hz)):
        duration_s = _eight(samples / rate_hz)
        fits = samples <= rate_hz or samples * channels * 2 <= 61_440
        if fits and duration_s > 0 and math.isclose(samples / duration_s, rate_hz, rel_tol=tolerance):
            return samples, duration_s
    raise DataError(
        f"{path} cannot be written: {length} samples at {rate_hz:g} Hz cannot be cut into equal data records; "
        f"cut it to whole seconds"
    )


def _eight(value: float) -> float:
    """Rounded to what eight characters can say."""
    return round(value, max(0, 7 - len(str(int(value)))))


def _layout(path: Path) -> Layout:
    """Read the header as far as it says where the samples are, and see that the file is as long as it says.

    A file may have bytes behind its last record (chb17b_69.edf of CHB-MIT has 256), but not a record's worth.

    Raises:
        DataError: it cannot be read, is of another format, is damaged, or was cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            main = file.read(MAIN)
            width = VERSIONS.get(main[:8].strip(b" \0"))
            if width is None:
                said = repr(main[:8]) if main else "nothing, it is empty"
                raise DataError(f"{path} is not an EDF or BDF file: it begins with {said}; {_AGAIN}")
            if len(main) < MAIN:
                raise DataError(f"{path} ends within its header, after {size} bytes; {_AGAIN}")
            count = _whole(path, "number of signals", main[252:256], least=1)
            rest = file.read(MAIN * count)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if len(rest) < MAIN * count:
        raise DataError(f"{path} ends within its header, after {size} of {MAIN * (count + 1)} bytes; {_AGAIN}")
    if (said := _whole(path, "size of the header", main[184:192], least=MAIN)) != MAIN * (count + 1):
        raise DataError(f"{path}: its header has {said} bytes for {count} signals, not 256 for each; {_AGAIN}")
    texts, place = [[] for _ in range(count)], 0
    for length in FIELDS:
        for text in texts:
            text.append(rest[place : place + length])
            place += length
    name = b"EDF Annotations" if width == 2 else b"BDF Annotations"
    layout = Layout(
        path=path,
        main=main,
        texts=texts,
        samples=[
            _whole(path, f"number of samples of signal {i}", text[-2], least=0) for i, text in enumerate(texts, 1)
        ],
        annotating=[i for i, text in enumerate(texts) if text[0].rstrip() == name],
        records=_whole(path, "number of data records", main[236:244], least=-1),
        record_s=_seconds(path, main[244:252]),
        width=width,
    )
    _check_length(layout, size - MAIN * (count + 1))
    return layout


def _whole(path: Path, what: str, text: bytes, *, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise _damaged(path, what, text)
    return number


def _seconds(path: Path, text: bytes) -> Fraction:
    """As the decimal that is written, so that 30 samples in 0.3 s are 100 Hz; 0 where it is less."""
    try:
        duration_s = max(Fraction(str(float(text))), Fraction(0))
    except ValueError:
        raise _damaged(path, "duration of a data record", text) from None
    if duration_s and not 1e-6 <= duration_s <= 1e6:
        raise _damaged(path, "duration of a data record", text)
    return duration_s


def _damaged(path: Path, what: str, text: bytes) -> DataError:
    said = text.decode("latin-1").strip(" \0")
    return DataError(f"{path}: its header is damaged: the {what} is {said!r}; {_AGAIN}")


def _check_length(layout: Layout, data_bytes: int) -> None:
    path, records = layout.path, layout.records
    if layout.record_s == 0 or not any(n for i, n in enumerate(layout.samples) if i not in layout.annotating):
        raise DataError(f"{path} holds no signal, only annotations or nothing; remove it")
    found = data_bytes // (sum(layout.samples) * layout.width)
    if records == -1:
        raise DataError(
            f"{path} was never closed by its recorder: its header does not say how many data records it has (-1), so "
            f"nobody can tell whether the {found} that are there are all; export it again"
        )
    if found < records:
        raise DataError(
            f"{path} is cut short: it holds {found} whole data records of {float(layout.record_s):g} s, "
            f"its header says {records}; {_AGAIN}"
        )
    if found > records:
        raise DataError(
            f"{path} holds {found} data records and its header says {records}; export it again, or correct its header"
        )
    if found == 0:
        raise DataError(f"{path} holds a header and no data; {_AGAIN}")


def _header(layout: Layout, signals: list[int], record_s: bytes | None = None) -> bytes:
    """Header of a file of some of the signals.

    Args:
        record_s: duration of a data record; None: as it is.
    """
    main, texts = layout.main, [layout.texts[i] for i in signals]
    size, count = (str(n).encode() for n in (MAIN * (len(signals) + 1), len(signals)))
    lasts = main[244:252] if record_s is None else record_s.ljust(8)
    fields = [text[k] for k in range(len(FIELDS)) for text in texts]
    return b"".join((main[:184], size.ljust(8), main[192:244], lasts, count.ljust(4), *fields))


def _data(layout: Layout, signals: list[int], first: int, last: int) -> bytes:
    """Data records ``first`` to ``last`` of a file of some of the signals, in ascending order."""
    edges = [0, *(np.cumsum(layout.samples) * layout.width).tolist()]
    begin, end = edges[signals[0]], edges[signals[-1] + 1]
    place = MAIN * (len(layout.samples) + 1) + begin
    spans = []
    try:
        with layout.path.open("rb", buffering=0) as file:
            for record in range(first, last):
                file.seek(place + record * edges[-1])
                spans.append(file.read(end - begin))
    except OSError as error:
        raise DataError(f"{layout.path} cannot be read any more: {error.strerror}; bring it back") from error
    if any(len(span) < end - begin for span in spans):
        raise DataError(f"{layout.path} was cut short while it was in use; bring it back as it was")
    table = np.frombuffer(b"".join(spans), np.uint8).reshape(last - first, end - begin)
    return np.concatenate([table[:, edges[i] - begin : edges[i + 1] - begin] for i in signals], 1).tobytes()


def _read(layout: Layout, content: bytes) -> Any:
    edfio = _edfio(f"reading {layout.path}")
    return (edfio.read_edf if layout.width == 2 else edfio.read_bdf)(io.BytesIO(content), header_encoding="latin-1")


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Turn whatever edfio raises into a DataError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are fewer data records than the header says: they were chosen
        try:
            yield
        except (ValueError, ArithmeticError, LookupError, MemoryError) as error:
            said = textwrap.shorten(str(error), 120, placeholder="...")
            raise DataError(f"{path} is damaged (edfio: {said}); {_AGAIN}") from error


def _rate(layout: Layout, used: list[int], labels: list[str]) -> float:
    rates = [float(layout.samples[i] / layout.record_s) for i in used]
    if len(set(rates)) > 1 or 0 in rates:
        said = ", ".join(f"{label} {rate:g} Hz" for label, rate in zip(labels, rates, strict=True))
        raise DataError(
            f"{layout.path} has the channels at different rates: {said}; resample them to one and export again"
        )
    return rates[0]


def _factor(path: Path, signal: Any) -> float:
    """From the unit of a signal to microvolts; edfio itself passes a signal on that it cannot scale."""
    unit = signal.physical_dimension.replace("Â", "").replace("Î¼", "μ").strip(" \0")  # UTF-8 read as Latin-1
    if unit == "MV" or unit.lower() not in MICROVOLTS:  # MV may be mega
        raise DataError(
            f"{path}: {signal.label} is in {unit!r}, which is not a unit of EEG; it may be uV, mV, V or nV; "
            f"correct the header or name other channels"
        )
    try:
        (low, high), (least, most) = signal.physical_range, signal.digital_range
    except ValueError as error:
        raise DataError(f"{path}: {signal.label} cannot be scaled: {error}; export it again") from error
    gain = (high - low) / (most - least) if least < most else 0.0  # low > high is a signal upside down
    if not (gain and math.isfinite(gain) and math.isfinite(high / gain)):
        raise DataError(
            f"{path}: {signal.label} cannot be scaled: its header has physical {low:g} to {high:g} for digital "
            f"{least} to {most}; export it again"
        )
    return MICROVOLTS[unit.lower()]


def _annotated(layout: Layout) -> tuple[Any | None, list[Annotation]]:
    """The annotation signals as edfio has them, None where there are none; and what they say, in order.

    Raises:
        DataError: an annotation is damaged, or the records do not follow each other without a gap (EDF+D; +C is
            contiguous by its own word, and many recorders never move its clock).
    """
    signals = layout.annotating
    data = _data(layout, signals, 0, layout.records) if signals else b""
    if not data.strip(b"\0"):
        return None, []
    data = data.replace(b"\n", b" ")  # edfio skips an annotation of two lines
    try:
        data.decode()
    except UnicodeDecodeError:  # Latin-1, against the standard
        data = data.translate(ASCII)
    edf = _read(layout, _header(layout, signals) + data)
    if edf.reserved[3:5] == "+D" and not edf.is_continuous:
        raise DataError(
            f"{layout.path} is not continuous (EDF+D): the clock of its data records jumps; split it at its gaps"
        )
    # the duration of a record moves no onset, but where n * 0.1 / 0.1 > n edfio 0.4.18 asks for one record too many
    marks = [mark for mark in _read(layout, _header(layout, signals, b"1") + data).annotations if mark.text]
    read = Counter((mark.text.encode(), mark.duration is not None) for mark in marks)
    if lost := Counter(_texts(data)) - read:  # edfio skips what it cannot read
        raise DataError(f"{layout.path}: the annotation {next(iter(lost))[0][:40]!r} is damaged; export the file again")
    return edf, [(mark.onset, mark.duration, mark.text.strip()) for mark in marks if mark.text.strip()]


def _texts(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Every text of ``ONSET[\\x15DURATION]\\x14TEXT\\x14...\\x00``, and if it has a duration; or what else stands."""
    for entry in re.findall(rb"[^\0]+", data):
        stamp, *texts = entry.split(b"\x14")
        stands = texts if texts and re.fullmatch(rb"[+-]?[\d.]+(\x15[\d.]*)?", stamp) else [entry]
        yield from ((text, b"\x15" in stamp) for text in stands if text)


def _start(edf: Any) -> datetime | None:
    """Start of the file; None where it says nothing, as ``Startdate X`` with 01.01.85 00.00.00 does."""
    hidden = edf.local_recording_identification.startswith("Startdate X")
    if hidden:
        edf.local_recording_identification = ""  # edfio then looks at the date of plain EDF
    try:
        start = edf.startdatetime
    except (ValueError, OverflowError):
        return None
    return None if hidden and start.replace(microsecond=0) == datetime(1985, 1, 1) else start


def _patient(edf: Any) -> str | None:
    code = edf.patient.code.strip("\0")
    return code if edf.reserved[3:4] == "+" and code and code.lower() not in NAMELESS else None
