"""The caching allocator, replayed: closed forms, and what holds for any sequence of requests."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibench.memory.allocator import CachingAllocator, reserved_peak
from vibench.memory.tracker import Block

KIB, MIB = 2**10, 2**20


@pytest.fixture
def allocator():
    return CachingAllocator(expandable=False)


@pytest.mark.parametrize(
    ("nbytes", "reserved"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (3 * MIB // 2, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (30 * MIB, 30 * MIB),
        (30 * MIB + 1, 32 * MIB),
    ],
)
def test_one_request_reserves_a_segment_of_its_kind(allocator, nbytes, reserved):
    allocator.allocate(nbytes)
    assert allocator.reserved == reserved


@pytest.mark.parametrize(("nbytes", "size"), [(1, 512), (512, 512), (513, 1024), (MIB - 1, MIB)])
def test_a_request_is_rounded_to_512_bytes(allocator, nbytes, size):
    assert allocator.allocate(nbytes).size == size


def test_small_requests_share_a_segment_to_its_last_bytes(allocator):
    for _ in range(2 * MIB // 512):
        allocator.allocate(500)
    assert allocator.reserved == 2 * MIB
    allocator.allocate(1)
    assert allocator.reserved == 4 * MIB


def test_requests_of_some_mib_share_a_segment(allocator):
    for _ in range(4):
        allocator.allocate(5 * MIB)
    assert allocator.reserved == 20 * MIB
    allocator.allocate(5 * MIB)
    assert allocator.reserved == 40 * MIB


def test_small_and_large_requests_share_nothing(allocator):
    allocator.allocate(2 * MIB)  # 18 MiB are left
    allocator.allocate(512)
    assert allocator.reserved == 22 * MIB


def test_a_piece_that_was_freed_is_used_again(allocator):
    for _ in range(5):
        allocator.release(allocator.allocate(30 * MIB))
    assert allocator.reserved == 30 * MIB


def test_nothing_is_given_back(allocator):
    allocator.release(allocator.allocate(30 * MIB))
    allocator.allocate(31 * MIB)
    assert allocator.reserved == 62 * MIB


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_neighbours_that_are_free_hold_a_larger_request_together(allocator, order):
    pieces = [allocator.allocate(5 * MIB) for _ in range(4)]
    for number in order:
        allocator.release(pieces[number])
    allocator.allocate(15 * MIB)
    assert allocator.reserved == 20 * MIB


def test_free_pieces_that_are_no_neighbours_do_not(allocator):
    pieces = [allocator.allocate(5 * MIB) for _ in range(4)]
    allocator.release(pieces[0])
    allocator.release(pieces[2])
    allocator.allocate(10 * MIB)
    assert allocator.reserved == 30 * MIB


def test_the_smallest_piece_that_fits_is_taken(allocator):
    """Else the small request would take a bite of what the large one needs."""
    pieces = [allocator.allocate(size * MIB) for size in (40, 30)]
    for piece in pieces:
        allocator.release(piece)
    assert allocator.allocate(30 * MIB) is pieces[1]
    assert allocator.allocate(40 * MIB) is pieces[0]
    assert allocator.reserved == 70 * MIB


@pytest.mark.parametrize(
    ("nbytes", "size", "rest"),
    [
        (512, 512, 2 * MIB - 512),
        (18 * MIB, 18 * MIB, 2 * MIB),
        (19 * MIB, 20 * MIB, None),  # a rest of up to 1 MiB is no piece of a large segment
        (19 * MIB - 512, 19 * MIB - 512, MIB + 512),
    ],
)
def test_a_piece_is_split_where_the_rest_is_worth_it(allocator, nbytes, size, rest):
    allocator.release(allocator.allocate(512))
    allocator.release(allocator.allocate(2 * MIB))  # a segment of 20 MiB
    piece = allocator.allocate(nbytes)
    assert piece.size == size
    assert (piece.after.size if piece.after else None) == rest
    assert allocator.reserved == 22 * MIB


def test_the_replay_of_a_timeline_is_what_was_reserved_at_its_end():
    blocks = [Block(size * MIB, "forward", "", 0) for size in (30, 30, 40)]
    come_and_go = [(0, True), (0, False), (1, True), (2, True), (1, False), (2, False)]
    assert reserved_peak(blocks, come_and_go) == 70 * MIB
    together = [(0, True), (1, True), (2, True)]
    assert reserved_peak(blocks, together) == 100 * MIB


REQUESTS = st.one_of(st.integers(1, 4 * KIB), st.integers(1, 2 * MIB), st.integers(1, 50 * MIB))


def segment(piece):
    """All pieces of a piece's segment, in their order."""
    while piece.before is not None:
        piece = piece.before
    pieces = [piece]
    while piece.after is not None:
        assert piece.after.before is piece
        piece = piece.after
        pieces.append(piece)
    return pieces


@given(st.lists(st.one_of(REQUESTS, st.floats(0, 1, exclude_max=True)), max_size=60))
def test_segments_keep_their_size_and_hold_what_is_alive(steps):
    """A number of bytes is a request, a fraction says which of the living pieces dies."""
    allocator, living = CachingAllocator(expandable=False), {}
    for number, step in enumerate(steps):
        if isinstance(step, int):
            living[number] = allocator.allocate(step), step
        elif living:
            piece, _ = living.pop(list(living)[int(step * len(living))])
            allocator.release(piece)
        alive = [piece for piece, _ in living.values()]
        assert len({id(piece) for piece in alive}) == len(alive)  # none was handed out twice
        assert all(not piece.free and piece.size >= nbytes for piece, nbytes in living.values())
        found = {id(pieces[0]): pieces for pieces in map(segment, alive)}
        for pieces in found.values():
            assert not any(a.free and b.free for a, b in pairwise(pieces))  # they would be one
            total = sum(piece.size for piece in pieces)
            assert total == 2 * MIB if pieces[0].small else total % (2 * MIB) == 0 and total >= 10 * MIB
        assert sum(piece.size for pieces in found.values() for piece in pieces) <= allocator.reserved
        assert sum(nbytes for _, nbytes in living.values()) <= allocator.reserved


@st.composite
def come_and_gone(draw):
    """Requests, and an order in which they are released."""
    requests = draw(st.lists(REQUESTS, min_size=1, max_size=30))
    return requests, draw(st.permutations(range(len(requests))))


@given(come_and_gone())
def test_whatever_the_order_of_releases_all_that_is_reserved_is_whole_segments_again(case):
    requests, order = case
    allocator = CachingAllocator(expandable=False)
    pieces = [allocator.allocate(nbytes) for nbytes in requests]
    whole = 0
    for number in order:
        piece = pieces[number]
        allocator.release(piece)
        if segment(piece) == [piece]:  # the last of its segment, which it has to itself now
            whole += piece.size
    assert whole == allocator.reserved
