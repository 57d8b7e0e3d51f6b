"""An epoch of few windows with a seizure's edge and some of the many others: which, how many, and that nothing else is
asked than the seed and the epoch."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from tests.data.conftest import patient, raw
from vibench.data.build import survey
from vibench.data.drawing import KINDS, Draw, all_of, draw_of, kinds_of
from vibench.data.store import Recording
from vibench.errors import DataError
from vibench.training.fit import promised_steps

BACKGROUND, PARTIAL, ICTAL = range(3)
NAMED = {"train": ["a", "b", "c"], "val": ["d"], "test": ["e"]}


def people(**more):
    """Long seizures, so that some windows lie within one; ``a`` has two, and nobody has looked through ``c``."""
    others = {name: patient(name, 480, (100, 260)) for name in "bde"}
    return [patient("a", 640, (96, 200), (400, 500)), patient("c", 320, unknown=True), *(others | more).values()]


@pytest.fixture
def drawn(eeg):
    """Audited splits whose epochs are drawn with some ratios."""

    def call(background=2.5, ictal=0.3, **values):
        values = {"split": NAMED} | values
        return eeg(people(), background_per_partial=background, ictal_per_partial=ictal, **values)

    return call


def kinds(data):
    train = data.splits["train"]
    return kinds_of(train.recordings, train.places, train.window)


def counted(data, rows):
    """Windows of each kind among some, and those of no kind first."""
    return [int((kinds(data)[rows] == number).sum()) for number in (-1, BACKGROUND, PARTIAL, ICTAL)]


def recording(length, spans):
    return Recording(
        id="r", system="eeg", entity="r", source="r.edf", rate_hz=8.0, start=0, length=length, anomaly=None, rul_s=None,
        events=None if spans is None else np.array(spans, np.int64).reshape(-1, 2),
    )  # fmt: skip


@st.composite
def spans_in(draw, length):
    edges = sorted(draw(st.sets(st.integers(0, length), max_size=8)))
    return list(zip(edges[::2], edges[1::2], strict=False))


# kinds


@settings(max_examples=60, deadline=None)
@given(data=st.data(), length=st.integers(1, 120), window=st.integers(1, 40))
def test_the_kind_of_a_window_is_that_of_a_loop_over_its_samples(data, length, window):
    spans = data.draw(spans_in(length))
    starts = range(max(1, length - window + 1))
    slow = []
    for start in starts:
        ictal = [any(a <= n < b for a, b in spans) for n in range(start, min(start + window, length))]
        slow.append(ICTAL if all(ictal) else PARTIAL if any(ictal) else BACKGROUND)
    places = np.array([(0, start) for start in starts])
    assert kinds_of([recording(length, spans)], places, window).tolist() == slow


def test_a_window_of_which_nothing_is_known_is_of_no_kind():
    known, unknown = recording(64, [(0, 64)]), recording(64, None)
    places = np.array([(1, 0), (0, 0), (1, 32), (0, 32)])
    assert kinds_of([known, unknown], places, 32).tolist() == [-1, ICTAL, -1, ICTAL]


def test_what_a_short_record_is_filled_up_with_is_no_background():
    """A record of 20 samples, all of a seizure, in a window of 32."""
    assert kinds_of([recording(20, [(0, 20)])], np.array([(0, 0)]), 32).tolist() == [ICTAL]
    assert KINDS == ("background", "partial", "ictal")


# how many


@pytest.mark.parametrize(("background", "ictal"), [(2.5, 0.3), (1.0, 0.5), (0.0, 0.0), (0.5, 0.0)])
def test_an_epoch_holds_every_partial_window_and_the_asked_share_of_others(drawn, background, ictal):
    data = drawn(background, ictal)
    _, there, partial, within = counted(data, slice(None))
    asked = [0, round(background * partial), partial, round(ictal * partial)]
    assert asked[1] < there
    assert asked[3] < within
    for epoch in range(3):
        order = data.draw.order(7, epoch)
        assert len(order) == len(set(order.tolist())) == len(data.draw) == sum(asked)
        assert counted(data, order) == asked


def test_where_there_are_fewer_than_asked_all_are_held(drawn):
    data = drawn(99.0, 99.0)
    everything = counted(data, slice(None))
    assert counted(data, data.draw.order(0, 0)) == [0, *everything[1:]]
    assert everything[0] > 0


@pytest.mark.parametrize(
    ("background", "ictal", "whole"), [(None, 0.3, BACKGROUND), (2.5, None, ICTAL)], ids=["background", "ictal"]
)
def test_null_keeps_every_window_of_its_kind_and_draws_the_others(drawn, background, ictal, whole):
    data = drawn(background, ictal)
    held, there = counted(data, data.draw.order(0, 0)), counted(data, slice(None))
    other = ICTAL + BACKGROUND - whole
    assert held[1 + whole] == there[1 + whole]
    assert held[1 + other] < there[1 + other]


def test_without_ratios_an_epoch_is_every_window_known_or_not(drawn):
    data = drawn(None, None)
    order = data.draw.order(0, 0)
    assert sorted(order.tolist()) == list(range(len(data.splits["train"])))
    assert counted(data, order)[0] > 0


def test_data_without_seizures_in_its_schema_are_not_drawn_from(built):
    data = built([raw(name) for name in "abcde"])
    assert (
        sorted(data.draw.order(3, 0).tolist())
        == list(range(len(data.splits["train"])))
        == sorted(range(len(data.draw)))
    )


def test_records_nobody_has_looked_through_are_not_drawn_from_where_others_are_known(drawn):
    data = drawn()
    seen = {int(row) for epoch in range(40) for row in data.draw.order(0, epoch)}
    assert seen == set(np.flatnonzero(kinds(data) >= 0).tolist())


def test_without_the_edge_of_a_seizure_there_is_nothing_to_draw_by_and_the_remedy_works(eeg):
    whole = [patient(name, 96, (0, 96)) for name in "ab"] + [patient("c", 96)]
    others = [patient("d", 96, (20, 60)), patient("e", 96, (20, 60))]
    with pytest.raises(
        DataError, match=r"no training window holds the beginning or end of a seizure, .*=null, or split otherwise$"
    ) as refused:
        eeg([*whole, *others], split=NAMED)
    keys = re.findall(r"data\.(\w+)=null", str(refused.value))
    assert keys == ["background_per_partial", "ictal_per_partial"]
    assert len(eeg([*whole, *others], split=NAMED, **dict.fromkeys(keys)).draw) == 15


# which


def test_an_epoch_follows_from_the_seed_and_its_number_alone(drawn):
    first, second = drawn().draw, drawn().draw
    orders = [first.order(3, epoch).tolist() for epoch in range(4)]
    np.random.seed(9)  # nobody's seed here
    torch.manual_seed(9)
    backwards = [second.order(3, epoch).tolist() for epoch in (3, 2, 1, 0)]
    assert orders == backwards[::-1]
    assert first.order(4, 0).tolist() != orders[0]


def test_every_epoch_draws_other_background_and_the_same_edges(drawn):
    data = drawn()
    sets = [set(data.draw.order(3, epoch).tolist()) for epoch in range(6)]
    edges = set(np.flatnonzero(kinds(data) == PARTIAL).tolist())
    assert len({frozenset(one) for one in sets}) == 6
    assert all(edges <= one for one in sets)
    assert set().union(*(data.draw.order(3, epoch).tolist() for epoch in range(60))) == set(
        np.flatnonzero(kinds(data) >= 0).tolist()
    )  # in time, everything is seen


def test_a_kind_is_drawn_evenly():
    draw = Draw(pools=[(np.arange(10), 3), (np.arange(10, 14), 4)])
    seen = np.bincount(np.concatenate([draw.order(0, epoch) for epoch in range(2000)]), minlength=14)
    assert (seen[10:] == 2000).all()
    assert seen[:10] == pytest.approx(600, abs=90)  # four deviations


def test_kinds_are_mixed_within_an_epoch():
    order = Draw(pools=[(np.arange(50), 50), (np.arange(50, 100), 50)]).order(0, 0)
    assert 15 < (order[:50] < 50).sum() < 35


def test_a_draw_of_everything_is_a_permutation():
    assert sorted(all_of(7).order(1, 2).tolist()) == list(range(7))


# the loader


def told(batches):
    return [(number, start) for batch in batches for number, start in zip(*_places(batch), strict=True)]


def _places(batch):
    return batch.recording.tolist(), batch.start.tolist()


def test_the_batches_of_an_epoch_are_the_windows_that_were_drawn(drawn):
    data = drawn()
    loader = data.loader("train", 5, seed=3)
    for epoch in range(2):
        expected = data.splits["train"].places[data.draw.order(3, epoch)]
        assert told(loader) == list(map(tuple, expected.tolist()))
    assert len(loader) == -(-len(data.draw) // 5)


def test_a_split_that_is_scored_is_whole_and_in_order(drawn):
    data = drawn()
    for name in ("val", "test", "train"):
        assert told(data.loader(name, 5)) == list(map(tuple, data.splits[name].places.tolist()))


@pytest.mark.parametrize("done", [1, 3])
def test_an_epoch_that_was_broken_off_goes_on_where_it_stood(drawn, done):
    data = drawn()
    loader = data.loader("train", 4, seed=3)
    whole = [told([batch]) for _ in range(2) for batch in loader]
    again = data.loader("train", 4, seed=3)
    again.sampler.begin(1, 4 * done)
    assert [told([batch]) for batch in again] == whole[len(loader) + done :]
    following = told(again)  # a whole epoch, the next
    assert len(following) == len(data.draw)
    assert sorted(following) != sorted(place for batch in whole[len(loader) :] for place in batch)


def test_processes_that_read_beside_the_training_draw_the_same(drawn):
    alone, helped = drawn().loader("train", 5, seed=3), drawn(workers=1).loader("train", 5, seed=3)
    for _ in range(2):
        assert told(alone) == told(helped)


def test_the_windows_of_a_step_are_named_as_they_were_drawn(drawn):
    data = drawn()
    loader = data.loader("train", 5, seed=3)
    for epoch in range(2):
        for number, batch in enumerate(loader):
            records = data.splits["train"].recordings
            names = [f"{records[r].id}[{s}:{s + 32}]" for r, s in told([batch])]
            assert data.names(5, seed=3, epoch=epoch, number=number) == names


# what counts an epoch


def test_promised_steps_and_the_plan_count_what_is_drawn(drawn, eeg_of, seizures_of, shipped_eeg, tmp_path):
    data = drawn()
    config = eeg_of(tmp_path / "eeg.h5", split=NAMED)
    found = survey(config, seizures_of(config))
    assert found.windows["train"] == len(data.draw) < len(data.splits["train"])
    assert found.windows["test"] == len(data.splits["test"])
    training = replace(shipped_eeg.training, epochs=3, global_batch_size=7, warmup_steps=1)
    steps = promised_steps(data, replace(shipped_eeg, data=config, training=training))
    assert steps == 3 * -(-len(data.draw) // 7) == 3 * len(data.loader("train", 7, seed=0))


def test_where_nothing_is_known_of_any_record_every_window_is_drawn(eeg_of, tmp_path):
    config = eeg_of(tmp_path / "none.h5")
    places = np.array([(0, start) for start in range(0, 64, 16)])
    assert sorted(draw_of([recording(96, None)], places, config).order(0, 0).tolist()) == [0, 1, 2, 3]


def test_orders_of_many_seeds_and_epochs_differ():
    draw = Draw(pools=[(default_rng(0).permutation(100), 60)])
    assert len({draw.order(seed, epoch).tobytes() for seed in range(8) for epoch in range(8)}) == 64
