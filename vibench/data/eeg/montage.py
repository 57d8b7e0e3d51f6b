"""Names of EEG signals, and how the wanted channels are made of the signals of a file.

An electrode has its name in the 10-20 system (Fp1, Fz, T7); a channel is an electrode, or the difference of two
(Fp1-F7). Files name the same electrode ``EEG FP1-REF``, ``FP1-LE``, ``Fp1``, and T7, T8, P7, P8 by their old names.
"""

import re

from vibench.errors import DataError

OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
REFERENCES = frozenset(  # common, average, linked ears, one ear or mastoid; CS2, on the neck, is in CHB-MIT
    {"REF", "LE", "AR", "AVG", "AV", "CAR", "A1", "A2", "M1", "M2", "A1A2", "A1+A2", "M1M2", "M1+M2", "CS2"}
)
NEIGHBOURS = {
    # The midline from its own row only: what lies before and behind has no opposite here for Fz (Fpz) and Pz (Oz), and
    # with Cz alone the mean would move to the vertex.
    "Fz": ("F3", "F4"),
    "Cz": ("C3", "C4"),
    "Pz": ("P3", "P4"),
    "Fp1": ("Fp2", "F7", "F3"),
    "Fp2": ("Fp1", "F8", "F4"),
    "F7": ("Fp1", "F3", "T7"),
    "F8": ("Fp2", "F4", "T8"),
    "F3": ("Fp1", "F7", "Fz", "C3"),
    "F4": ("Fp2", "F8", "Fz", "C4"),
    "T7": ("F7", "C3", "P7"),
    "T8": ("F8", "C4", "P8"),
    "C3": ("F3", "T7", "Cz", "P3"),
    "C4": ("F4", "T8", "Cz", "P4"),
    "P7": ("T7", "P3", "O1"),
    "P8": ("T8", "P4", "O2"),
    "P3": ("C3", "P7", "Pz", "O1"),
    "P4": ("C4", "P8", "Pz", "O2"),
    "O1": ("O2", "P7", "P3"),
    "O2": ("O1", "P8", "P4"),
}
_PREFIX = re.compile(r"(?:EEG[\s:_-]*|POL\s+)(?=\S)", re.IGNORECASE)  # POL: Nihon Kohden
_SITE = re.compile(r"(FP|AF|FT|FC|F|TP|T|CP|C|PO|P|O|I|A|M)(Z|\d{1,2})")


def clean(label: str) -> str:
    """The electrode, or pair of electrodes, that a label speaks of, in the spelling of the 10-20 system.

    A reference is left out (``EEG FP1-REF`` is Fp1), the second electrode of a pair is not (``FP1-F7`` is Fp1-F7).
    """
    name = _spelled(label)
    return name if _reference(name) is None else name.partition("-")[0]


def mixing(labels: list[str], channels: list[str], interpolate: list[str], source: str) -> list[dict[int, float]]:
    """How each channel is made of the signals of a file: index of a signal -> its weight.

    Args:
        labels: of the signals, as the file has them; of two with one name the first is taken.
        channels: electrodes or pairs; a pair is the signal of that name, or else the difference of two electrodes.
        interpolate: electrodes that are the mean of their neighbours where the file lacks them.
        source: names the file in errors.

    Raises:
        DataError: channels that cannot be made; names all of them.
    """
    montage = _Montage(labels, interpolate)
    made = [montage.channel(channel) for channel in channels]
    missing = [channel for channel, mix in zip(channels, made, strict=True) if mix is None]
    if missing:
        has = ", ".join(dict.fromkeys(clean(label) for label in labels)) or "no signal"
        raise DataError(
            f"{source} lacks {', '.join(montage.why(name) for name in missing)}; it has {has}; name channels that "
            f"every file has in data.preprocessing.channels, or electrodes to be made of their neighbours in "
            f"data.preprocessing.interpolate"
        )
    return [mix for mix in made if mix is not None]


def interpolated(labels: list[str], channels: list[str], interpolate: list[str]) -> list[str]:
    """The electrodes that :func:`mixing` makes of their neighbours."""
    montage = _Montage(labels, interpolate)
    for channel in channels:
        montage.channel(channel)
    return montage.interpolated


class _Montage:
    def __init__(self, labels: list[str], interpolate: list[str]) -> None:
        self.signals: dict[str, int] = {}  # by the full name, e.g. T8-A2
        self.electrodes: dict[str, int] = {}  # by the name without a reference
        self.references = [_reference(_spelled(label)) for label in labels]
        for i, label in enumerate(labels):
            self.signals.setdefault(_spelled(label), i)
            self.electrodes.setdefault(clean(label), i)
        self.allowed = {clean(name) for name in interpolate}
        self.interpolated: list[str] = []

    def channel(self, name: str) -> dict[int, float] | None:
        name = _spelled(name)
        first, _, second = name.partition("-")
        if not (first and second):
            return self._electrode(name)
        if name in self.signals:
            return {self.signals[name]: 1.0}
        if (turned := f"{second}-{first}") in self.signals:
            return {self.signals[turned]: -1.0}
        return self._difference(first, second)

    def _difference(self, first: str, second: str) -> dict[int, float] | None:
        plus, minus = self._electrode(first), self._electrode(second)
        if plus is None or minus is None or self._references_differ(plus | minus):
            return None
        return {i: plus.get(i, 0.0) - minus.get(i, 0.0) for i in plus | minus}

    def _electrode(self, name: str) -> dict[int, float] | None:
        if name in self.electrodes:
            return {self.electrodes[name]: 1.0}
        near = [self.electrodes[other] for other in NEIGHBOURS.get(name, ()) if other in self.electrodes]
        if name not in self.allowed or len(near) < 2:  # one alone would be a copy, and their difference flat
            return None
        if name not in self.interpolated:
            self.interpolated.append(name)
        return {i: 1 / len(near) for i in near}

    def _references_differ(self, mix: dict[int, float]) -> bool:
        return len({self.references[i] for i in mix}) > 1

    def why(self, name: str) -> str:
        """A channel that cannot be made; with the reason where its electrodes are there."""
        first, _, second = _spelled(name).partition("-")
        there = second and self._electrode(first) and self._electrode(second)
        return f"{name} ({first} and {second} have different references)" if there else name


def _spelled(label: str) -> str:
    """A label without prefix and spaces, each of its electrodes in the spelling of the 10-20 system."""
    text = "".join(_PREFIX.sub("", label.strip(), count=1).split()).strip(".")
    return "-".join(_site(part) for part in text.split("-"))


def _site(text: str) -> str:
    text = OLD_NAMES.get(text.upper(), text.upper())
    match = _SITE.fullmatch(text)
    return f"{match[1].replace('FP', 'Fp')}{match[2].lower()}" if match else text


def _reference(name: str) -> str | None:
    """What an electrode was recorded against, where its name says so; None for a pair too."""
    first, _, second = name.partition("-")
    return second if first and second.upper() in REFERENCES else None
