"""The caching allocator, replayed: closed forms, and what holds for any sequence of requests."""

from itertools import pairwise, permutations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vibench.memory.allocator import CachingAllocator, reserved_peak
from vibench.memory.tracker import Block

KIB, MIB = 2**10, 2**20


@pytest.fixture
def allocator():
    """Of segments of a fixed size."""
    return CachingAllocator(expandable=False)


@pytest.fixture
def growing():
    """Of segments that grow."""
    return CachingAllocator(expandable=True)


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


def blocks(*mib):
    return [Block(size * MIB, "forward", "", 0) for size in mib]


def test_the_replay_of_a_timeline_is_what_was_reserved_at_its_end():
    """Segments that grow by 20 MiB, as vibench asks for, or one for each request."""
    come_and_go = [(0, True), (0, False), (1, True), (2, True), (1, False), (2, False)]
    assert reserved_peak(blocks(30, 30, 40), come_and_go, expandable=False) == 70 * MIB
    assert reserved_peak(blocks(30, 30, 40), come_and_go) == 80 * MIB
    together = [(0, True), (1, True), (2, True)]
    assert reserved_peak(blocks(30, 30, 40), together, expandable=False) == 100 * MIB
    assert reserved_peak(blocks(30, 30, 40), together) == 100 * MIB


# segments that grow


@pytest.mark.parametrize(
    ("nbytes", "reserved"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (20 * MIB, 20 * MIB),
        (20 * MIB + 1, 40 * MIB),
        (50 * MIB, 60 * MIB),
    ],
)
def test_a_segment_grows_by_2_mib_of_small_requests_and_by_20_of_large(growing, nbytes, reserved):
    growing.allocate(nbytes)
    assert growing.reserved == reserved


def test_a_free_end_is_extended_by_what_is_missing(growing):
    growing.allocate(15 * MIB)  # 5 MiB are free
    growing.allocate(25 * MIB)
    assert growing.reserved == 40 * MIB
    growing.allocate(512)
    growing.allocate(2 * MIB)
    assert growing.reserved == (60 + 2) * MIB


def test_an_end_in_use_is_followed_by_a_new_stretch(growing):
    growing.allocate(20 * MIB)
    growing.allocate(3 * MIB)
    assert growing.reserved == 40 * MIB
    growing.allocate(17 * MIB)
    assert growing.reserved == 40 * MIB


def test_a_rest_of_512_bytes_is_a_piece(growing):
    """Of a fixed segment, a rest of up to 1 MiB is none."""
    pieces = [growing.allocate(20 * MIB - 512), growing.allocate(2 * MIB)]
    assert growing.reserved == 40 * MIB
    assert [piece.size for piece in pieces] == [20 * MIB - 512, 2 * MIB]
    growing.allocate(18 * MIB + 512)  # with the rest at the end it would not fit, had it been lost
    assert growing.reserved == 40 * MIB


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_all_of_a_segment_becomes_one_piece_whatever_the_order_of_releases(growing, order):
    pieces = [growing.allocate(size * MIB) for size in (7, 9, 30, 5)]
    assert growing.reserved == 60 * MIB
    for number in order:
        growing.release(pieces[number])
    assert growing.allocate(60 * MIB).size == 60 * MIB
    assert growing.reserved == 60 * MIB


def test_a_gap_that_is_too_small_stays_and_the_end_grows(growing):
    pieces = [growing.allocate(size * MIB) for size in (10, 10, 20)]
    growing.release(pieces[0])
    growing.release(pieces[1])
    growing.allocate(21 * MIB)
    assert growing.reserved == 80 * MIB  # 40, and 40 for 21
    growing.allocate(20 * MIB)  # of the 19 left at the end it would need more
    assert growing.reserved == 80 * MIB


def test_the_smallest_gap_that_fits_is_taken(growing):
    pieces = [growing.allocate(size * MIB) for size in (12, 2, 8, 18)]
    growing.release(pieces[0])
    growing.release(pieces[2])
    assert growing.allocate(7 * MIB) is pieces[2]
    assert growing.allocate(12 * MIB) is pieces[0]
    assert growing.reserved == 40 * MIB


def test_the_open_end_is_taken_only_where_no_gap_fits(growing):
    """To the allocator it is as large as it can become (``get_free_block``), and so the worst of all fits."""
    pieces = [growing.allocate(size * MIB) for size in (12, 2)]  # 6 MiB are free at the end
    growing.release(pieces[0])
    growing.allocate(5 * MIB)
    growing.allocate(26 * MIB)  # the end and 20 MiB more
    assert growing.reserved == 40 * MIB


def test_requests_that_grow_and_go_take_one_stretch_and_not_a_segment_each():
    sizes = range(30, 50, 2)
    events = [(number, comes) for number in range(len(sizes)) for comes in (True, False)]
    assert reserved_peak(blocks(*sizes), events, expandable=False) == sum(sizes) * MIB
    assert reserved_peak(blocks(*sizes), events, expandable=True) == 60 * MIB  # of 48


REQUESTS = st.one_of(st.integers(1, 4 * KIB), st.integers(1, 2 * MIB), st.integers(1, 50 * MIB))


STEPS = st.lists(st.one_of(REQUESTS, st.floats(0, 1, exclude_max=True)), max_size=60)


def rounded(nbytes):
    return max(512, -(-nbytes // 512) * 512)


def run(allocator, steps):
    """Yield what is alive after each step: a number of bytes is a request, a fraction says which of the living dies."""
    living = {}
    for number, step in enumerate(steps):
        if isinstance(step, int):
            living[number] = allocator.allocate(step), step
        elif living:
            piece, _ = living.pop(list(living)[int(step * len(living))])
            allocator.release(piece)
        yield list(living.values())


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


@given(STEPS)
def test_segments_keep_their_size_and_hold_what_is_alive(steps):
    allocator = CachingAllocator(expandable=False)
    for living in run(allocator, steps):
        alive = [piece for piece, _ in living]
        assert len({id(piece) for piece in alive}) == len(alive)  # none was handed out twice
        assert all(not piece.free and piece.size >= nbytes for piece, nbytes in living)
        found = {id(pieces[0]): pieces for pieces in map(segment, alive)}
        for pieces in found.values():
            assert not any(a.free and b.free for a, b in pairwise(pieces))  # they would be one
            total = sum(piece.size for piece in pieces)
            assert total == 2 * MIB if pieces[0].small else total % (2 * MIB) == 0 and total >= 10 * MIB
        assert sum(piece.size for pieces in found.values() for piece in pieces) <= allocator.reserved
        assert sum(rounded(nbytes) for _, nbytes in living) <= allocator.reserved


@given(STEPS)
def test_two_segments_that_grow_hold_what_is_alive_and_nothing_is_lost(steps):
    """Pieces are as large as what they hold, rounded; gaps are one with their neighbours; all of it is reserved."""
    allocator = CachingAllocator(expandable=True)
    for living in run(allocator, steps):
        assert len({id(piece) for piece, _ in living}) == len(living)
        assert all(not piece.free and piece.size == rounded(nbytes) for piece, nbytes in living)
        found = {pieces[0].small: pieces for pieces in (segment(piece) for piece, _ in living)}
        for small, pieces in found.items():
            assert {id(p) for p in pieces if not p.free} == {id(p) for p, _ in living if p.small == small}
            assert not any(a.free and b.free for a, b in pairwise(pieces))
            assert sum(piece.size for piece in pieces) % ((2 if small else 20) * MIB) == 0
        if len(found) == 2:
            assert sum(piece.size for pieces in found.values() for piece in pieces) == allocator.reserved


@given(st.lists(REQUESTS, max_size=40))
def test_requests_that_only_come_fill_growing_segments_to_the_end(requests):
    allocator = CachingAllocator(expandable=True)
    for nbytes in requests:
        allocator.allocate(nbytes)
    small = sum(size for size in map(rounded, requests) if size <= MIB)
    large = sum(size for size in map(rounded, requests) if size > MIB)
    assert allocator.reserved == -(-small // (2 * MIB)) * 2 * MIB + -(-large // (20 * MIB)) * 20 * MIB


def done(allocator, steps):
    """Bytes reserved by the end of the steps, after which all that lives goes."""
    living = []
    for living in run(allocator, steps):  # noqa: B007
        pass
    for piece, _ in living:
        allocator.release(piece)
    return allocator.reserved


@given(STEPS)
@example([12 * MIB, 2 * MIB, 0.0, 5 * MIB, 12 * MIB, 41 * MIB])
def test_what_was_done_once_can_be_done_again_in_what_is_reserved(steps):
    """The second of two steps of training takes no more than the first: its gaps are the same, its end is larger."""
    allocator = CachingAllocator(expandable=True)
    assert done(allocator, steps) == done(allocator, steps)


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
