"""Memory that grows: the trend against scipy and against sums written out, and leaks of real memory."""

import gc
import math
import mmap
import re
import subprocess
import sys
import weakref
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics import Metric

from vibench.memory.growth import LEAST_BYTES, SKIPPED, WINDOW, Growth, census, measure, trend

CPU = torch.device("cpu")
MB, MIB, GIB = 10**6, 2**20, 2**30
EPOCHS = 200
T = np.arange(EPOCHS)


def random_levels(n, seed, ties):
    random = np.random.default_rng(seed)
    steps = random.integers(0, 5, n) if ties else random.normal(size=n)
    return [float(level) for level in 4 * MB * (np.arange(n) + 3 * steps)]


def mann_kendall(values):
    """Written out: its variance is that of the sums of signs over orders that are drawn, ties corrected by groups."""
    n = len(values)
    score = sum(int(np.sign(b - a)) for a, b in combinations(values, 2))
    groups = np.unique(values, return_counts=True)[1].tolist()
    variance = n * (n - 1) * (2 * n + 5) / 18 - sum(t * (t - 1) * (2 * t + 5) for t in groups) / 18
    return 0.0 if score == 0 else (abs(score) - 1) * (1 if score > 0 else -1) / math.sqrt(variance)


CASES = [(n, seed, ties) for n in (SKIPPED + 2, 9, SKIPPED + WINDOW, 40) for seed in range(5) for ties in (False, True)]


@pytest.mark.parametrize(("n", "seed", "ties"), CASES)
def test_the_slope_is_that_of_theil_and_sen(n, seed, ties):
    levels = random_levels(n, seed, ties)
    assert trend(levels).slope == pytest.approx(stats.theilslopes(levels[SKIPPED:][-WINDOW:]).slope)


@pytest.mark.parametrize(("n", "seed", "ties"), CASES)
def test_the_significance_is_that_of_mann_and_kendall(n, seed, ties):
    levels = random_levels(n, seed, ties)
    assert trend(levels).z == pytest.approx(mann_kendall(levels[SKIPPED:][-WINDOW:]))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_without_its_correction_for_continuity_the_significance_is_that_of_scipy(seed, ties):
    levels = random_levels(SKIPPED + WINDOW, seed, ties)
    recent = levels[SKIPPED:]
    score = sum(int(np.sign(b - a)) for a, b in combinations(recent, 2))
    p = stats.kendalltau(range(WINDOW), recent, method="asymptotic").pvalue
    assert score
    assert abs(trend(levels).z) == pytest.approx(stats.norm.isf(p / 2) * (1 - 1 / abs(score)))


@pytest.mark.parametrize("n", range(SKIPPED + 2))
def test_too_few_epochs_have_no_trend(n):
    found = trend([k * 100.0 * MB for k in range(n)])
    assert (found.slope, found.z) == (0, 0)


def test_the_first_epochs_and_those_long_ago_are_not_looked_at():
    recent = random_levels(WINDOW, 0, ties=False)
    assert trend([9e12, 0.0, 5e12, *recent]) == trend([0.0] * 50 + recent)


@pytest.mark.parametrize(("slope", "sure"), [(LEAST_BYTES, True), (LEAST_BYTES - 1, False), (-LEAST_BYTES, False)])
def test_what_grows_by_less_than_the_least_is_never_sure(slope, sure):
    assert trend([1e12 + slope * k for k in range(30)]).sure is sure


@pytest.mark.parametrize(("epochs", "seen", "sure"), [(6, False, False), (7, True, False), (8, True, False), (9, 1, 1)])
def test_a_trend_is_seen_after_four_epochs_that_count_and_sure_after_six(epochs, seen, sure):
    found = trend([38.0 * MB * k for k in range(epochs)])
    assert (found.seen, found.sure) == (bool(seen), bool(sure))


def first_sure(levels):
    """The epoch after which a trend is sure, from 1; None where it is not."""
    levels = [float(level) for level in levels]
    return next((n for n in range(1, len(levels) + 1) if trend(levels[:n]).sure), None)


def first_alarm(levels, room=1500 * MB):
    """The epoch after which what is to come has no room, of 200."""
    levels = [float(level) for level in levels]
    found = ((n, trend(levels[:n])) for n in range(1, len(levels) + 1))
    return next((n for n, one in found if one.sure and one.to_come(EPOCHS - n) > room), None)


def noise(seed, size_mb):
    return size_mb * MB * np.random.default_rng(seed).standard_normal(EPOCHS)


def test_a_flat_series_is_never_sure():
    assert first_sure([GIB] * EPOCHS) is None


@pytest.mark.parametrize("size_mb", [0.5, 2, 5])
def test_noise_is_never_sure(size_mb):
    assert [first_sure(GIB + noise(seed, size_mb)) for seed in range(20)] == [None] * 20


def test_large_noise_is_never_sure():
    assert [first_sure(GIB + noise(seed, 20)) for seed in range(20)] == [None] * 20


@pytest.mark.parametrize("size_mb", [0, 1])
@pytest.mark.parametrize(
    ("amplitude_mb", "constant"),
    [
        (50, 1),
        (300, 1),
        (50, 2),
        (300, 3),
        (300, 5),
        (300, 10),
    ],
)
def test_a_plateau_that_is_approached_is_no_alarm(amplitude_mb, constant, size_mb):
    """Its growth slows down, and what is to come of it with that has room; carried on straight it would not."""
    approach = GIB + amplitude_mb * MB * (1 - np.exp(-T / constant))
    assert [first_alarm(approach + noise(seed, size_mb)) for seed in range(5)] == [None] * 5


@pytest.mark.parametrize("constant", [3, 6, 9])
def test_what_is_to_come_of_a_plateau_is_what_is_missing_to_it(constant):
    """Of growth that slows down evenly the closed form is known; it is told a little early, so a little too much."""
    levels = [float(300 * MB * (1 - np.exp(-t / constant))) for t in range(SKIPPED + 10)]
    missing = 300 * MB - levels[-1]
    assert 1 <= trend(levels).to_come(10_000) / missing < 1.2 * np.exp(2.5 / constant)


def test_what_is_to_come_of_a_steady_leak_is_its_slope_for_every_epoch():
    assert trend([38.0 * MB * k for k in range(15)]).to_come(188) == pytest.approx(188 * 38 * MB)


@pytest.mark.parametrize("size_mb", [0, 0.5])
@pytest.mark.parametrize(
    "at",
    [
        2,
        5,
        8,
        20,
    ],
)
def test_a_jump_is_never_sure(at, size_mb):
    jump = GIB + 500 * MB * np.heaviside(T - at, 1)
    assert [first_sure(jump + noise(seed, size_mb)) for seed in range(10)] == [None] * 10


def test_a_leak_without_noise_is_sure_after_the_ninth_epoch():
    assert first_sure(GIB + 38 * MB * T) == 9


def test_a_leak_with_noise_is_sure_by_the_fourteenth_epoch_and_mostly_by_the_twelfth():
    found = [first_sure(GIB + 38 * MB * T[:15] + noise(seed, 20)[:15]) for seed in range(200)]
    assert None not in found
    assert 9 <= min(found) <= max(found) <= 14
    assert sum(epoch <= 12 for epoch in found) > 190


# of real memory

EACH = 6 * MIB


class Hoard(Metric):
    """A metric that keeps all it is given."""

    def __init__(self):
        super().__init__()
        self.add_state("kept", default=[], dist_reduce_fx="cat")

    def update(self, values):
        self.kept.append(values)

    def compute(self):
        return torch.cat(self.kept).sum()


def mapped():
    """Memory of its own, in use: what the heap gives may have been taken before, by what has let go of it."""
    memory = mmap.mmap(-1, EACH, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"\1" * EACH)
    return memory


def tensor():
    return torch.frombuffer(mapped(), dtype=torch.uint8)


@pytest.fixture(scope="module")
def frozen():
    """What there was before is no part of these tests, and takes a second to go through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def alone(frozen):
    """What the tests before held is gone: metrics hold themselves in circles."""
    gc.collect()


def leaking(leak, more_mib, epochs=14, to_come=100):
    """What is said after each epoch where there are so many MiB more than are taken now, and the values of the last."""
    growth = Growth(CPU, None, (measure(CPU).host + more_mib * MIB) / GIB)
    said = []
    for epoch in range(epochs):
        leak()
        values, text = growth.after_epoch(to_come - epoch)
        said.append(text)
    return said, values, growth


@pytest.fixture(scope="module")
def hoarded(frozen):
    owner = {"seen": Hoard()}
    found = leaking(lambda: owner["seen"].update(tensor()), more_mib=200)
    owner.clear()
    return found


def test_a_leak_that_will_not_last_is_told_once_as_soon_as_it_is_sure(hoarded):
    said, _, _ = hoarded
    assert [epoch for epoch, text in enumerate(said, 1) if text] == [9]


def test_the_metric_and_its_state_are_named_with_what_they_took_since_it_was_seen(hoarded):
    (text,) = filter(None, hoarded[0])
    assert "growing: state kept of the metric Hoard (+12.0 MiB)" in text


def test_the_number_of_epochs_that_are_left_is_what_there_is_room_for(hoarded):
    said, _, growth = hoarded
    (text,) = filter(None, said)
    levels = growth.levels["host"][:9]
    slope = stats.theilslopes(levels[SKIPPED:]).slope
    room = growth.ram_gib * GIB - levels[-1]
    assert int(re.search(r"exhausted in (\d+) epochs; there are 92 to come", text)[1]) == int(room / slope)
    assert room / slope == pytest.approx((200 - 9 * 6) / 6, rel=0.2)
    assert f"the memory of the host grows by {slope / MIB:.1f} MiB an epoch, from {levels[-1] / GIB:.2f} GiB" in text


def test_what_is_taken_is_logged_in_gib(hoarded):
    _, values, growth = hoarded
    assert values == {"memory/host_gib": growth.levels["host"][-1] / GIB}
    grown = growth.levels["host"][-1] - growth.levels["host"][0]
    assert grown == pytest.approx(13 * EACH, rel=0.2)


def test_a_leak_that_there_is_room_for_is_not_told(alone):
    kept = []
    said, _, growth = leaking(lambda: kept.append(tensor()), more_mib=2000, epochs=10)
    assert trend(growth.levels["host"]).sure
    assert said == [None] * 10


def test_a_leak_that_begins_to_matter_is_told_when_it_does(alone):
    """Its trend is sure from the ninth epoch on; only with more epochs to come than there is room for it is told."""
    kept = []
    growth = Growth(CPU, None, (measure(CPU).host + 300 * MIB) / GIB)
    said = []
    for left in [5] * 10 + [500]:
        kept.append(tensor())
        said.append(growth.after_epoch(left)[1])
    assert said[:-1] == [None] * 10
    assert "there are 500 to come; growing: tensors (6291456,) of uint8 (+24.0 MiB)" in said[-1]


def test_what_no_tensor_holds_is_told_to_be_another_kind_of_object(alone):
    kept = []
    said, _, _ = leaking(lambda: kept.append(mapped()), more_mib=0, epochs=9)
    assert said[-1].endswith("no tensor that Python knows of grows, so it is a library or an object of another kind")
    assert "exhausted in 0 epochs" in said[-1]


def test_without_a_number_what_is_free_here_is_the_limit(alone):
    kept = []
    growth = Growth(CPU, None, None)
    for left in [10**9] * 9:
        kept.append(tensor())
        _, said = growth.after_epoch(left)
    assert "there are 1000000000 to come" in said


def test_a_run_that_takes_the_same_in_every_epoch_is_left_in_peace(alone):
    def work():
        torch.ones(EACH, dtype=torch.uint8).sum()

    said, _, growth = leaking(work, more_mib=0, epochs=15)
    assert said == [None] * 15
    assert not trend(growth.levels["host"]).seen


def test_the_memory_of_a_process_that_was_started_counts():
    before = measure(CPU).host
    code = f"kept = b'1' * {64 * MIB}; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        during = measure(CPU).host
        child.communicate(b"\n")
    assert 60 * MIB < during - before < 120 * MIB


def test_a_cpu_has_no_memory_of_a_card():
    found = measure(CPU)
    assert (found.device, found.device_peak) == (None, None)


class Held:
    def __init__(self, value):
        self.value = value


STATE = "state kept of the metric Hoard"


@pytest.mark.parametrize(
    "hold",
    [
        lambda one: {"a": one},
        lambda one: [[one]],
        Held,
        lambda one: lambda: one,
        lambda one: torch.nn.ModuleList([one]),
    ],
    ids=["dict", "list", "attribute", "closure", "module"],
)
def test_a_census_finds_the_states_of_metrics_wherever_they_are(alone, hold):
    metric = Hoard()
    for _ in range(3):
        metric.update(torch.ones(1000))
    before = census()
    holder = hold(metric)
    del metric
    assert census()[STATE] == before[STATE] == 3 * 4000
    del holder
    gc.collect()
    assert census()[STATE] == 0


def test_a_tensor_is_a_states_or_one_of_its_shape_and_kind(alone):
    metric, other = Hoard(), torch.ones(7, 13, dtype=torch.float64)
    metric.update(torch.ones(5, 11))
    found = census()
    assert found[STATE] == 4 * 55
    assert found["tensors (5, 11) of float32"] == 0
    assert found["tensors (7, 13) of float64"] == other.nbytes


def test_a_view_counts_as_the_memory_that_it_keeps(alone):
    kept = torch.ones(1000, 9)[:3]
    assert census()["tensors (3, 9) of float32"] == 4 * 9000
    assert len(kept) == 3


def test_a_census_passes_by_a_proxy_of_what_is_gone(alone):
    held, metric = Held(None), Hoard()
    metric.update(torch.ones(1000))
    kept = [weakref.proxy(held)]
    del held
    assert census()[STATE] == 4000
    assert kept


def test_a_proxy_of_a_metric_is_not_counted_beside_it(alone):
    metric = Hoard()
    metric.update(torch.ones(1000))
    kept = [weakref.proxy(metric)]
    assert census()[STATE] == 4000
    assert kept
