"""The windows of one record, laid back onto its clock.

Windows overlap: what is scored window by window counts a seizure once for each that shows it, and what is scored
without their record mixes the clocks of several. Here every sample of a record has one score.

Shapes: n samples of the record, L samples of a window.
"""

import numpy as np
import torch
import torch.distributed as dist

LEAST = 2**16  # samples there is room for at first


class Stitched:
    """Mean probability of each sample of a record over the windows that show it, which come in any order.

    9 bytes a sample; 22.1 million samples are a day at 256 Hz. Room is doubled when it is short, and what is not
    written yet takes no memory.

    Attributes:
        sums: (room,) float32, of the probabilities.
        counts: (room,) int32, windows that show a sample.
        targets: (room,) bool, whether any of them says that it is of a seizure.
    """

    def __init__(self) -> None:
        self.sums = np.zeros(LEAST, np.float32)
        self.counts = np.zeros(LEAST, np.int32)
        self.targets = np.zeros(LEAST, bool)
        self._length = 0

    def __len__(self) -> int:
        """n: up to the last sample with a score. Padding behind it is not of the record."""
        return self._length

    def add(self, start: int, probability: np.ndarray, target: np.ndarray, valid: np.ndarray) -> None:
        """Lay one window onto the clock.

        Args:
            start: sample of the record that the window begins with, from 0.
            probability: (L,) float32; anything where not valid, NaN too.
            target: (L,) bool.
            valid: (L,) bool, samples that are measured and labelled.
        """
        assert start >= 0, f"a window cannot begin {-start} samples before its record"
        assert probability.shape == target.shape == valid.shape, (probability.shape, target.shape, valid.shape)
        length = len(valid) - int(np.argmax(valid[::-1])) if valid.any() else 0
        valid = valid[:length]
        place = slice(start, start + length)
        self.grow(start + length if length else 0)
        self.sums[place] += np.where(valid, probability[:length], np.float32(0))
        self.counts[place] += valid
        self.targets[place] |= target[:length] & valid

    def grow(self, length: int) -> None:
        """Make the record at least as long as that, in samples."""
        self._length = max(self._length, length)
        room = len(self.sums)
        if length > room:
            self.sums, self.counts, self.targets = (
                _wider(part, max(length, 2 * room)) for part in (self.sums, self.counts, self.targets)
            )

    def probability(self) -> np.ndarray:
        """(n,) float32, NaN where no window has a score."""
        mean = np.full(len(self), np.nan, np.float32)
        return np.divide(self.sums[: len(self)], self.counts[: len(self)], out=mean, where=self.covered())

    def target(self) -> np.ndarray:
        """(n,) bool; False where no window knows."""
        return self.targets[: len(self)]

    def covered(self) -> np.ndarray:
        """(n,) bool, samples with a score."""
        return self.counts[: len(self)] > 0


def sum_to(owner: int, stitched: Stitched) -> None:
    """Give the process of that rank what all have of a record; all must call it with the same length.

    What is left in the others is of no use.
    """
    if not len(stitched):
        return
    nccl = dist.get_backend() == "nccl"  # knows no memory of the host
    device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    targets = stitched.targets.view(np.uint8)
    for part, how in ((stitched.sums, "SUM"), (stitched.counts, "SUM"), (targets, "MAX")):
        told = torch.from_numpy(part[: len(stitched)]).to(device)
        dist.reduce(told, owner, op=getattr(dist.ReduceOp, how))
        part[: len(stitched)] = told.cpu().numpy()


def _wider(part: np.ndarray, room: int) -> np.ndarray:
    wide = np.zeros(room, part.dtype)
    wide[: len(part)] = part
    return wide
