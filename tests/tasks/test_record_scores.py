"""Whole records from windows: against scores of the records as they are, and two processes against one."""

import multiprocessing
import pickle
from dataclasses import astuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import average_precision_score, roc_auc_score

from vibench.tasks.postprocessing import Postprocessing, runs
from vibench.tasks.record_scores import RecordScores
from vibench.tasks.szcore import RecordCounts, f1, false_alarms_per_24h, score_record, sensitivity

pytest.importorskip("timescoring")

RATE_HZ, L, STRIDE = 16.0, 480, 80
HOW = Postprocessing(off_ratio=0.9, opening=3, closing=5, min_duration_s=3.0, merge_gap_s=2.0)
GRID = np.array([0.3, 0.5, 0.7])


def record(seed, *seizures, minutes=10):
    """Probability and truth of every sample; found late, and now and then something else is taken for a seizure."""
    random = np.random.default_rng(seed)
    truth = np.zeros(round(minutes * 60 * RATE_HZ), bool)
    for start, stop in seizures:
        truth[round(start * RATE_HZ) : round(stop * RATE_HZ)] = True
    likely = np.roll(truth, 60) | np.repeat(random.random(len(truth) // 240) < 0.05, 240)
    return (0.15 * random.random(len(truth)) + 0.6 * likely + 0.05).astype(np.float32), truth


RECORDS = {7: record(0, (100, 160), (400, 430)), 2: record(1), 5: record(2, (30, 90), minutes=5)}


def windows(numbers, length=L, stride=STRIDE):
    """Every window of the records: number, start, rate, probability, target, valid."""
    found = []
    for number in numbers:
        probability, truth = RECORDS[number]
        for start in range(0, len(truth) - length + 1, stride):
            place = slice(start, start + length)
            found.append((number, start, RATE_HZ, probability[place], truth[place], np.ones(length, bool)))
    return found


def fed(rows, *, ordered=False, batch=16):
    scores = RecordScores(postprocessing=HOW, grid=GRID, ordered=ordered)
    for start in range(0, len(rows), batch):
        scores.add(*map(np.array, zip(*rows[start : start + batch], strict=True)))
    return scores


def finished(rows, **options):
    scores = fed(rows, **options)
    scores.finish()
    return scores


def expected(numbers=tuple(RECORDS)):
    counts = RecordCounts.none(len(GRID))
    for probability, truth in (RECORDS[number] for number in numbers):
        events = HOW.events_at(probability, GRID, RATE_HZ)
        counts += score_record(runs(truth), events, n_samples=len(truth), rate_hz=RATE_HZ)
    return counts


def assert_same(found, wanted):
    np.testing.assert_equal(astuple(found), astuple(wanted))


@pytest.fixture
def shuffled():
    rows = windows(RECORDS)
    np.random.default_rng(3).shuffle(order := np.arange(len(rows)))
    return [rows[place] for place in order]


def test_windows_of_many_records_in_any_order_score_as_the_records_do(shuffled):
    found = finished(shuffled)
    assert found.counts.event.total == 3
    assert found.counts.event.fp.any()
    assert_same(found.counts, expected())


def test_windows_of_different_records_never_share_a_clock():
    """On one clock, the quiet record would lower every score of the other, and have its seizure."""
    rows = windows([7, 2])
    apart = finished([row for pair in zip(rows[::2], rows[1::2], strict=True) for row in pair])
    assert_same(apart.counts, expected([7, 2]))
    assert apart.counts.seconds == 1200
    assert sensitivity(apart.counts.event)[0] == 1


@pytest.mark.parametrize("stride", [L, L // 2, L // 6])
def test_a_seizure_is_counted_once_however_many_windows_show_it(stride):
    counts = finished(windows([7], stride=stride)).counts
    assert (counts.event.total, counts.sample.total, counts.records) == (2, 90, 1)
    assert counts.event.tp.max() == counts.event.total


def test_a_seizure_that_two_windows_show_in_part_is_one_event():
    """Of the 30 s windows without overlap, two show the seizure from 100 s to 160 s in part, one in full."""
    counts = finished(windows([7], stride=L)).counts
    assert counts.taes.total == 2


def test_auroc_and_average_precision_are_of_the_samples_of_records_not_of_windows(shuffled):
    """Windows overlap more in the middle of a record than at its ends, and are noisier than their mean."""
    random = np.random.default_rng(4)
    wrong = [0.7 * random.random(L).astype(np.float32) * (start // STRIDE % 2) for _, start, *_ in shuffled]
    noisy = [(*row[:3], np.maximum(row[3], noise), *row[4:]) for row, noise in zip(shuffled, wrong, strict=True)]
    found = finished(noisy)
    sums, counts = ({n: np.zeros(len(t)) for n, (_, t) in RECORDS.items()} for _ in range(2))
    for number, start, _, probability, _, _ in noisy:
        sums[number][start : start + L] += probability
        counts[number][start : start + L] += 1
    mean = np.concatenate([sums[n] / counts[n] for n in RECORDS])
    truth = np.concatenate([truth for _, truth in RECORDS.values()])
    exact = roc_auc_score(truth, mean), average_precision_score(truth, mean)
    of_windows = [np.concatenate([row[place] for row in noisy]) for place in (4, 3)]
    assert (found.auroc(), found.average_precision()) == pytest.approx(exact, abs=1e-3)
    assert abs(roc_auc_score(*of_windows) - exact[0]) > 5e-3
    assert abs(average_precision_score(*of_windows) - exact[1]) > 5e-3


def test_in_order_a_record_is_closed_when_the_next_one_begins():
    scores = fed(windows([7, 2, 5]), ordered=True)
    assert list(scores._open) == [5]
    assert scores.counts.records == 2
    scores.finish()
    assert_same(scores.counts, expected())


def test_out_of_order_nothing_is_closed_before_the_end(shuffled):
    scores = fed(shuffled)
    assert (sorted(scores._open), scores.counts.records) == ([2, 5, 7], 0)


def test_what_is_left_of_a_closed_record_does_not_depend_on_its_length():
    sizes = [len(pickle.dumps(finished(windows(numbers), ordered=True))) for numbers in ([5], [7])]
    assert len(RECORDS[7][1]) == 2 * len(RECORDS[5][1])
    assert sizes[0] == pytest.approx(sizes[1], abs=64)


def test_a_window_of_a_closed_record_is_refused():
    rows = windows([7, 2])
    with pytest.raises(AssertionError, match="a window of record 7 after it was closed"):
        fed([*rows, rows[0]], ordered=True)


def test_thresholds_that_do_not_rise_are_refused():
    with pytest.raises(AssertionError, match=r"the thresholds \[0\.5 0\.5\] do not rise"):
        RecordScores(postprocessing=HOW, grid=np.array([0.5, 0.5]), ordered=True)


def test_a_record_without_a_seizure_is_neither_zero_nor_one():
    found = finished(windows([2]))
    assert found.counts.records == 1
    for score in (*sensitivity(found.counts.event), *f1(found.counts.event), found.auroc(), found.average_precision()):
        assert np.isnan(score)
    assert np.isfinite(false_alarms_per_24h(found.counts)).all()


def test_a_record_of_which_nothing_is_known_scores_nothing():
    unknown = [(9, start, rate, p, t, np.zeros(L, bool)) for _, start, rate, p, t, _ in windows([7])]
    found = finished([*windows([5]), *unknown])
    assert_same(found.counts, expected([5]))
    assert_same(finished(unknown).counts, RecordCounts.none(len(GRID)))


def test_time_without_a_score_is_no_time_for_false_alarms():
    rows = windows([2], stride=L)
    assert finished(rows[:5] + rows[10:]).counts.seconds == 15 * L / RATE_HZ


def test_tensors_of_half_precision_and_targets_of_zeros_and_ones_are_taken():
    rows = list(map(np.array, zip(*windows([5]), strict=True)))
    scores = RecordScores(postprocessing=HOW, grid=GRID, ordered=True)
    numbers, starts, rates, probability, target, valid = map(torch.from_numpy, rows)
    scores.add(numbers, starts, rates, probability.requires_grad_(), target.float(), valid)
    scores.finish()
    assert_same(scores.counts, expected([5]))
    scores.reset()
    scores.add(numbers, starts, rates, probability.bfloat16(), target, valid)
    scores.finish()
    assert scores.counts.event.total == 1


def test_after_a_reset_nothing_is_left_of_before():
    scores = finished(windows([7]))
    scores.reset()
    assert np.isnan(scores.auroc())
    scores.add(*map(np.array, zip(*windows([7]), strict=True)))
    scores.finish()
    assert_same(scores.counts, expected([7]))
    assert scores.auroc() == finished(windows([7])).auroc()


def one_of_two(rank, folder, rows):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    if rank == 0:  # the other does not take part
        alone = finished(windows([5]), ordered=True)
        assert_same(alone.counts, expected([5]))
    scores = fed(rows)
    scores.finish()
    result = scores.counts, scores.auroc(), scores.average_precision()
    scores.finish()  # nothing is open any more
    assert_same(scores.counts, result[0])
    (folder / f"{rank}").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()


def test_two_processes_that_see_half_of_the_windows_each_end_with_the_scores_of_one(shuffled, tmp_path):
    """Record 5 is known to one of them alone; of record 7, each knows a part, which meet within a seizure."""
    halves = [], []
    for place, row in enumerate(shuffled):
        halves[{7: row[1] > 118 * RATE_HZ, 5: True, 2: place % 2}[row[0]]].append(row)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=one_of_two, args=(rank, tmp_path, rows)) for rank, rows in enumerate(halves)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    one = finished(shuffled)
    for rank in range(2):
        counts, *ranked = pickle.loads((tmp_path / f"{rank}").read_bytes())
        assert_same(counts, one.counts)
        assert ranked == [one.auroc(), one.average_precision()]
