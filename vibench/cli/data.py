"""``vibench-data``: raw files to a store, and what a store holds.

Exit status: 0 done, 2 nothing was written.
"""

import sys
from collections import Counter
from pathlib import Path

from vibench.config import schemas
from vibench.config.compose import compose_all
from vibench.config.data import PreprocessingConfig
from vibench.config.resolve import examine
from vibench.errors import ConfigError, DataError

USAGE = """usage: vibench-data prepare cwru  raw=DIR [store=cwru.h5] [normal_rate_hz=48000|12000] [skip_broken=true]
       vibench-data prepare femto raw=DIR [store=femto.h5] [skip_broken=true]
       vibench-data prepare eeg   raw=DIR [store=eeg.h5] [data.preprocessing.KEY=VALUE ...] [skip_broken=true]
       vibench-data inspect FILE.h5

prepare turns a folder of raw files, and the folders in it, into one store that vibench-train reads:
  cwru   N.mat files of Case Western Reserve University, under their original numbers. The sources disagree on the
         rate of the normal files 97 to 100; normal_rate_hz says which is taken.
  femto  BearingX_Y/acc_NNNNN.csv of PRONOSTIA, from Learning_set and Full_Test_Set
  eeg    EDF, EDF+ and BDF files. Seizures from the first of: *_events.tsv (BIDS, HED-SCORE), .csv_bi or .csv (TUSZ),
         chbNN-summary.txt (CHB-MIT), Seizures-list-PNxx.txt (Siena), annotations in the file. Montage, rate and filters
         are those of conf/data/eeg.yaml; what is changed here is told to vibench-train, too.
inspect says what a store holds.
"""
KEYS = {
    "cwru": {"raw", "store", "normal_rate_hz", "skip_broken"},
    "femto": {"raw", "store", "skip_broken"},
    "eeg": {"raw", "store", "skip_broken"},
}
PREPROCESSING = "data.preprocessing."


def main() -> None:
    try:
        _run(sys.argv[1:])
    except (DataError, ConfigError) as error:
        for text in error.complaints if isinstance(error, ConfigError) else [str(error)]:
            print(f"vibench-data: {text}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    match arguments:
        case [] | ["--help" | "-h", *_]:
            print(USAGE, end="")
        case ["inspect", path]:
            inspect(Path(path))
        case ["prepare", "eeg", *settings]:
            own = [text for text in settings if text.startswith(PREPROCESSING)]
            prepare_records(_settings("eeg", [text for text in settings if text not in own]), own)
        case ["prepare", ("cwru" | "femto") as name, *settings]:
            prepare_store(name, _settings(name, settings))
        case ["prepare", name, *_]:
            raise DataError(f"{name} is no data set that can be prepared; there are {', '.join(KEYS)}")
        case _:
            raise DataError(f"cannot read {' '.join(arguments)!r}\n{USAGE}".rstrip())


def _settings(name: str, texts: list[str]) -> dict[str, str]:
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in KEYS[name]:
            raise DataError(f"{text} is not a setting of prepare {name}; there are {', '.join(sorted(KEYS[name]))}")
        settings[key] = value
    if not settings.get("raw"):
        raise DataError(f"raw is missing: the folder that holds the files; use prepare {name} raw=DIR")
    if settings.setdefault("skip_broken", "false") not in ("true", "false"):
        raise DataError(f"skip_broken={settings['skip_broken']} is neither true nor false")
    if settings.setdefault("normal_rate_hz", "48000") not in ("48000", "12000"):
        raise DataError(f"normal_rate_hz={settings['normal_rate_hz']} is neither 48000 nor 12000")
    return settings


def prepare_store(name: str, settings: dict[str, str]) -> None:
    """Write a store and say what became of every file."""
    from vibench.data import cwru, femto
    from vibench.data.prepare import files_below, prepare

    files = files_below(Path(settings["raw"]).expanduser())
    store = Path(settings.get("store", f"{name}.h5")).expanduser()
    read = cwru.reader(int(settings["normal_rate_hz"])) if name == "cwru" else femto.reader(files)
    done = prepare(files, read, store, skip_broken=settings["skip_broken"] == "true")
    for file, reason in done.skipped:
        print(f"skipped {file}: {reason}")
    for _, error in done.broken:  # names the file itself
        print(f"skipped {error}")
    if name == "cwru":
        print(f"normal files taken at {settings['normal_rate_hz']} Hz (normal_rate_hz)")
    print(f"{done.recordings} recordings from {len(files)} files, {len(files) - done.recordings} skipped")
    inspect(store)
    print(f"next: vibench-train data={name} data.store={store} {_next(store)}")


def prepare_records(settings: dict[str, str], overrides: list[str]) -> None:
    """Write a store of EEG and say what became of every file.

    Args:
        overrides: of ``conf/data/eeg.yaml``, as typed.
    """
    from vibench.data.eeg.records import prepare_eeg

    raw, store = (Path(text).expanduser() for text in (settings["raw"], settings.get("store", "eeg.h5")))
    config = _preprocessing(overrides)
    done, reader = prepare_eeg(raw, store, config, skip_broken=settings["skip_broken"] == "true")
    for _, error in done.broken:  # names the file itself
        print(f"skipped {error}")
    for source, count in sorted(reader.sources.items()):
        print(f"{count} records: {source}")
    for electrode, count in sorted(reader.interpolated.items()):
        print(f"{electrode} was made of its neighbours in {count} records")
    if reader.filled:
        print(f"{sum(reader.filled.values())} lost samples were filled in, in {len(reader.filled)} records")
    print(f"{done.recordings} records, {len(done.broken)} skipped")
    inspect(store)
    print(f"next: vibench-train experiment=seizure_v3 data.store={store} {' '.join(overrides)}".rstrip())


def _preprocessing(overrides: list[str]) -> PreprocessingConfig:
    """
    Raises:
        ConfigError: with everything that is wrong.
    """
    schemas.register()
    cfg, complaints = compose_all(["data=eeg", "data.store=unused", *overrides])
    if cfg is not None:
        found, config = examine(cfg)
        complaints += [text for text in found if text.startswith(PREPROCESSING)]
    if complaints:
        raise ConfigError(complaints)
    return config.data.preprocessing


def _next(store: Path) -> str:
    """What can be trained on a store as it is."""
    from vibench.data.store import Store

    recordings = Store(store).recordings
    lives = sorted({r.entity for r in recordings if r.rul_s is not None})
    if not lives:
        return "task=classification"
    if len(lives) > 4:  # enough to draw a validation and a test from
        return "task=rul_prediction"
    named = f"data.split.train=[{','.join(lives[:-1])}] data.split.test=[{lives[-1]}]" if len(lives) > 1 else ""
    return f"task=rul_prediction training.monitor=null {named}".rstrip()


def inspect(path: Path) -> None:
    """One table: what a store holds."""
    from rich.console import Console
    from rich.table import Table

    from vibench.data.store import Store

    store = Store(path)
    table = Table(
        *("system", "rate Hz", "channels", "recordings", "entities", "minutes", "fault", "lives", "events"),
        title=str(path),
    )
    for system in store.systems:
        own = [r for r in store.recordings if r.system == system]
        faults = Counter(r.columns.get("fault", "") for r in own)
        table.add_row(
            system,
            ", ".join(f"{rate:g}" for rate in sorted({r.rate_hz for r in own})),
            str(store.channels(system)),
            str(len(own)),
            str(len({r.entity for r in own})),
            f"{sum(r.length / r.rate_hz for r in own) / 60:.1f}",
            ", ".join(f"{fault} {count}" for fault, count in sorted(faults.items()) if fault) or "-",
            str(len({r.entity for r in own if r.rul_s is not None})),
            _events(own),
        )
    console = Console()
    Console(width=None if console.is_terminal else 160).print(table)
    print(f"columns: entity, system, id, source, {', '.join(store.columns)}")


def _events(recordings: list) -> str:
    """How many there are and how long, and how many recordings nobody has looked through."""
    known = [r for r in recordings if r.events is not None]
    if not known:
        return "-"
    count = sum(len(r.events) for r in known)
    minutes = sum(float((r.events[:, 1] - r.events[:, 0]).sum()) / r.rate_hz for r in known) / 60
    unknown = len(recordings) - len(known)
    return f"{count}, {minutes:.1f} min" + (f"; {unknown} recordings unknown" if unknown else "")
