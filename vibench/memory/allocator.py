"""The caching allocator of CUDA, replayed: how much it must reserve for a sequence of allocations.

Rounds to 512 bytes; requests up to 1 MiB share segments of 2 MiB, up to 10 MiB segments of 20 MiB, larger ones get one
of their own, rounded to 2 MiB; the best fitting free piece is taken, split where the rest is worth it, and merged with
its free neighbours when it is freed (``c10/cuda/CUDACachingAllocator.cpp``). Segments are never given back: a card that
is full gives them back and tries again, so a little less than this may do.

With expandable segments, as vibench asks for, there are two, one of small requests and one of large, which grow by 2
and 20 MiB: no piece is too small for want of a neighbour in another segment.
"""

import bisect
from dataclasses import dataclass

from vibench.memory.tracker import Block

MIB = 2**20
ROUND, SMALL, LARGE = 512, MIB, 10 * MIB
SMALL_SEGMENT, LARGE_SEGMENT, STEP = 2 * MIB, 20 * MIB, 2 * MIB


@dataclass(slots=True, eq=False)
class Piece:
    """A stretch of a segment."""

    size: int
    small: bool
    free: bool = False
    before: "Piece | None" = None
    after: "Piece | None" = None


class CachingAllocator:
    """Keeps count of what is reserved, in bytes.

    Args:
        expandable: segments grow.
    """

    def __init__(self, *, expandable: bool) -> None:
        self.reserved, self.expandable = 0, expandable
        self._last: dict[bool, Piece] = {}  # piece of the growing segment of each pool
        self._free: dict[bool, list[tuple[int, int, Piece]]] = {True: [], False: []}
        self._count = 0

    def allocate(self, nbytes: int) -> Piece:
        size = max(ROUND, -(-nbytes // ROUND) * ROUND)
        small = size <= SMALL
        piece = self._best(size, small) or (self._grow if self.expandable else self._segment)(size, small)
        rest = piece.size - size
        if rest >= ROUND if small or self.expandable else rest > SMALL:
            tail = Piece(rest, small, True, piece, piece.after)
            if piece.after:
                piece.after.before = tail
            elif self.expandable:
                self._last[small] = tail
            piece.size, piece.after = size, tail
            self._keep(tail)
        piece.free = False
        return piece

    def release(self, piece: Piece) -> None:
        piece.free = True
        for neighbour in (piece.before, piece.after):
            if neighbour is not None and neighbour.free:
                self._forget(neighbour)
                self._merge(piece, neighbour)
        self._keep(piece)

    def _best(self, size: int, small: bool) -> Piece | None:
        """The smallest free piece that is large enough; the open end of a growing segment only if there is no other,
        since it is as large as it can become."""
        pool = self._free[small]
        at = bisect.bisect_left(pool, (size, -1))
        if at + 1 < len(pool) and pool[at][2] is self._last.get(small):
            at += 1
        return pool.pop(at)[2] if at < len(pool) else None

    def _segment(self, size: int, small: bool) -> Piece:
        wanted = SMALL_SEGMENT if small else LARGE_SEGMENT if size < LARGE else -(-size // STEP) * STEP
        self.reserved += wanted
        return Piece(wanted, small)

    def _grow(self, size: int, small: bool) -> Piece:
        step, last = SMALL_SEGMENT if small else LARGE_SEGMENT, self._last.get(small)
        open_end = last is not None and last.free
        missing = size - last.size if open_end else size
        more = -(-missing // step) * step
        self.reserved += more
        if open_end:
            self._forget(last)
            last.size += more
            return last
        piece = Piece(more, small, before=last)
        if last is not None:
            last.after = piece
        self._last[small] = piece
        return piece

    def _keep(self, piece: Piece) -> None:
        self._count += 1
        bisect.insort(self._free[piece.small], (piece.size, self._count, piece))

    def _forget(self, piece: Piece) -> None:
        pool = self._free[piece.small]
        at = bisect.bisect_left(pool, (piece.size, -1))
        while pool[at][2] is not piece:
            at += 1
        pool.pop(at)

    def _merge(self, piece: Piece, other: Piece) -> None:
        if self._last.get(piece.small) is other:
            self._last[piece.small] = piece
        piece.size += other.size
        if other is piece.before:
            piece.before = other.before
            if piece.before:
                piece.before.after = piece
        else:
            piece.after = other.after
            if piece.after:
                piece.after.before = piece


def reserved_peak(blocks: list[Block], events: list[tuple[int, bool]], *, expandable: bool = True) -> int:
    """Bytes reserved by the end of what comes and goes, which is the most there were."""
    allocator, pieces = CachingAllocator(expandable=expandable), {}
    for number, comes in events:
        if comes:
            pieces[number] = allocator.allocate(blocks[number].nbytes)
        else:
            allocator.release(pieces.pop(number))
    return allocator.reserved
