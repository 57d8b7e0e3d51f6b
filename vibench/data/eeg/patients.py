"""Whose record a file is: by its name in the public corpora, else by its header, else by its folder."""

import os
import re
from pathlib import Path

from vibench.errors import DataError

# One girl recorded twice, a year and a half apart, as the page of CHB-MIT says (https://doi.org/10.13026/C2K01R).
SAME = {"chb21": "chb01"}
_BIDS = re.compile(r"(sub-[A-Za-z0-9]+)(?:_.*)?")
_CHB = re.compile(r"(chb\d\d)(?:[a-z]?_.*)?", re.IGNORECASE)
_TUSZ = re.compile(r"([a-z]{8})_s\d{3}_t\d{3}.*")
_SIENA = re.compile(r"PN[O0-9](\d)(?:[-.].*)?", re.IGNORECASE)


def patient_of(path: Path, raw: Path, code: str | None) -> str:
    """The patient of a record.

    Args:
        raw: the folder that all records are in.
        code: of the patient in the header of the file, None where it has none.

    Raises:
        DataError: nothing says whose record it is.
    """
    stem, folders = path.stem, _folders(path, raw)
    for name in (stem, *folders):
        if match := _BIDS.fullmatch(name):
            return match[1]
    if match := _CHB.fullmatch(stem):
        return SAME.get(match[1].lower(), match[1].lower())
    if match := _TUSZ.fullmatch(stem):
        return match[1]
    if _SIENA.fullmatch(stem):
        return stem[:4].upper().replace("O", "0")
    if code:
        return code
    if folders:
        return folders[0]
    raise DataError(
        f"{path}: nothing says whose record it is; put the records of each patient into a folder of their own below "
        f"{raw}, or name the file sub-XX_eeg.edf"
    )


def _folders(path: Path, raw: Path) -> tuple[str, ...]:
    """Names of the folders between the two."""
    path, raw = Path(os.path.abspath(path)), Path(os.path.abspath(raw))  # not what links lead to, as in DataLad
    return path.parent.relative_to(raw).parts if path.is_relative_to(raw) else ()
