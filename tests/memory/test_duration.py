"""How long a run will take, and whether it can end in its time."""

from dataclasses import replace

import pytest

from tests.conftest import slurm
from tests.memory.own import hardware, training
from vibench.config.training import TaskOrder
from vibench.errors import TimeFitError
from vibench.memory.duration import UNKNOWN, Duration, duration, words
from vibench.memory.measured import Measured, remember
from vibench.memory.trace import Levers
from vibench.memory.work import LAUNCH_S, STREAMS, Kernel, Work, count

LEVERS = Levers(precision="fp32", checkpointing="none")
WINDOWS = {"train": 100, "val": 30, "test": 20}
PART, UPDATE, SCORE = 0.2, 0.5, 0.1  # seconds at best: a micro-batch, the optimizer, the prediction of a micro-batch

pytestmark = pytest.mark.usefixtures("own_cache")


def work(scale=1.0):
    """Kernels that move so many bytes, at 10^9 bytes a second."""
    seconds = {"forward": PART, "optimizer": UPDATE, "score": SCORE}
    kernels = [Kernel(0, s * scale * 1e9, False, phase, 1) for phase, s in seconds.items()]
    return Work(kernels, kernels)


@pytest.fixture(scope="module")
def config(small):
    """Two epochs of four steps, each of 32 windows but the last."""
    two = training(small("rtx3090"), global_batch_size=32, epochs=2)
    return hardware(two, name="new", fp32_tflops=1.0, half_tflops=1.0, bandwidth_gbs=1.0)


def within(config, time):
    return hardware(config, slurm=slurm(time=time))


def took(config, micro_batch=8, windows=WINDOWS, scale=1.0, requeues=0):
    return duration(config, LEVERS, micro_batch, windows, lambda make: work(scale), requeues)


def measure(*steps, backbone="PatchTST", name="new"):
    for step in steps:
        remember(Measured(hardware=name, backbone=backbone, precision="fp32", peak=None, step=step))


@pytest.mark.parametrize(("micro_batch", "parts"), [(32, 1), (16, 2), (8, 4), (5, 7), (1, 32)])
def test_a_step_is_its_micro_batches_and_the_optimizer(config, micro_batch, parts):
    step = took(config, micro_batch).step
    assert step == pytest.approx(parts * PART / STREAMS + UPDATE / STREAMS + (parts + 1) * LAUNCH_S)


def test_a_run_is_its_steps_and_its_predictions(config):
    """Eight steps; the validation is predicted after each epoch, the test once, in micro-batches of 8 windows."""
    found = took(config)
    assert found.run == pytest.approx(8 * found.step + (2 * 30 + 20) / 8 * (SCORE / STREAMS + LAUNCH_S))
    assert found.pace is None


def test_without_a_validation_none_is_predicted(config):
    found = took(config, windows={"train": 100, "test": 20})
    assert found.run == pytest.approx(8 * found.step + 20 / 8 * (SCORE / STREAMS + LAUNCH_S))


def test_a_run_that_ends_early_has_only_the_epochs_it_begins(config):
    """Five steps: a whole epoch and a step of the second, after either of which the validation is predicted."""
    found = took(training(config, epochs=10, max_steps=5))
    assert found.run == pytest.approx(5 * found.step + (2 * 30 + 20) / 8 * (SCORE / STREAMS + LAUNCH_S))


def test_two_cards_share_batches_and_predictions(config):
    """Each sees 16 windows of a batch: half the micro-batches, half of a validation; the test is the first one's."""
    found = took(hardware(config, gpus=2))
    assert found.step == pytest.approx((2 * PART + UPDATE) / STREAMS + 3 * LAUNCH_S)
    assert found.run == pytest.approx(8 * found.step + (60 / 2 + 20) / 8 * (SCORE / STREAMS + LAUNCH_S))


def test_twice_the_epochs_take_twice_the_training(config):
    windows = {"train": 100, "test": 0}
    assert took(training(config, epochs=4), windows=windows).run == pytest.approx(2 * took(config, windows=windows).run)


@pytest.mark.parametrize("key", ["fp32_tflops", "bandwidth_gbs"])
def test_where_the_rates_are_not_known_neither_is_the_time(config, key):
    assert took(within(hardware(config, **{key: None}), "00:00:01")) == UNKNOWN == Duration(None, None, None)


@pytest.mark.parametrize("name", ["cpu", "local"])
def test_without_a_card_no_work_is_counted(small, name):
    def traced(make):
        raise AssertionError("there is nothing to estimate")

    assert duration(small(name), LEVERS, 8, WINDOWS, traced) == UNKNOWN


def test_of_a_model_that_cannot_be_traced_no_time_is_known(config):
    def traced(make):
        assert make is count
        raise RuntimeError("it asks for numbers")

    assert duration(within(config, "00:00:01"), LEVERS, 8, WINDOWS, traced) == UNKNOWN


# runs that were measured


def test_the_estimate_is_corrected_by_the_pace_of_measured_runs(config):
    before = took(config)
    measure(3.0)
    after = took(config)
    assert after.step == pytest.approx(3 * before.step)
    assert after.run == pytest.approx(3 * before.run)
    assert after.pace == 3.0


def test_the_pace_is_of_the_same_backbone_where_it_is_known(config):
    measure(3.0)
    measure(9.0, 9.0, 9.0, backbone="FNO")
    measure(7.0, 7.0, name="v100")
    assert took(config).pace == 3.0


# in its time: 11.4 s at best, 16.3 s by the usual shares of the rates


def best(config):
    """Seconds of the run at the rates of the data sheet."""
    return 8 * (4 * PART + UPDATE) + 80 / 8 * SCORE


def test_a_run_that_ends_in_its_time_is_not_talked_of(config, caplog):
    assert took(within(config, "00:01:00")) == took(config)
    assert caplog.text == ""


def test_a_run_that_cannot_end_at_the_rates_of_the_data_sheet_is_refused(config):
    assert 11 < best(config) < 12
    with pytest.raises(
        TimeFitError,
        match=r"new needs 11 s for the 8 steps of this run, at the rates of its data sheet, 1\.3 s each; "
        r"hardware\.slurm\.time=00:00:11 ends it before; use more time, fewer training\.epochs, or a faster hardware",
    ):
        took(within(config, "00:00:11"))


def test_a_run_that_may_not_end_by_an_estimate_is_only_warned_of(config, caplog):
    found = took(within(config, "00:00:12"))
    assert found.run > 12 > best(config)
    assert "THIS RUN MAY NOT END: about 16 s, and hardware.slurm.time=00:00:12" in caplog.text
    assert "no such run was measured there often enough" in caplog.text


def test_a_run_too_long_by_two_measured_ones_is_only_warned_of_and_by_three_refused(config, caplog):
    measure(3.0, 3.0)
    assert took(within(config, "00:00:48")).run > 48
    assert "THIS RUN MAY NOT END: about 49 s" in caplog.text
    measure(3.0)
    with pytest.raises(TimeFitError, match=r"new needs 49 s .*, at the pace of the runs measured there"):
        took(within(config, "00:00:48"))


def test_the_pace_of_another_backbone_refuses_nothing(config):
    measure(3.0, 3.0, 3.0, backbone="DLinear")
    assert took(within(config, "00:00:48")).run > 48


def test_a_run_that_is_begun_again_has_its_time_as_often(config, caplog):
    """11.4 s at best: within four times three seconds, and not within three times."""
    assert took(within(config, "00:00:03"), requeues=3).run > 12 > best(config)
    assert "THIS RUN MAY NOT END: about 16 s, and hardware.slurm.time=00:00:03" in caplog.text
    with pytest.raises(
        TimeFitError, match=r"=00:00:03, 3 times by hardware\.slurm\.requeues, ends it before; use more time"
    ):
        took(within(config, "00:00:03"), requeues=2)


@pytest.mark.parametrize("how", ["order", "schedule"])
def test_where_a_step_may_be_of_fewer_tasks_no_data_sheet_refuses(config, how):
    with pytest.raises(TimeFitError, match="at the rates of its data sheet"):
        took(within(config, "00:00:01"))
    if how == "order":
        may_be_less = training(config, task_order=TaskOrder.alternating)
    else:
        name = next(iter(config.task))
        may_be_less = replace(config, task=config.task | {name: replace(config.task[name], first_epoch=2)})
    assert took(within(may_be_less, "00:00:01")).run > 1


def test_a_run_that_cannot_end_at_the_pace_of_measured_ones_is_refused(config):
    """Thrice the estimate."""
    measure(3.0, 3.0, 3.0)
    step = took(config).step
    with pytest.raises(
        TimeFitError,
        match=rf"new needs 49 s .*, at the pace of the runs measured there, {step:.3g} s each; .*=00:00:48",
    ):
        took(within(config, "00:00:48"))
    assert took(within(config, "00:00:50")).run < 50


def test_runs_that_were_faster_than_the_estimate_are_believed(config, caplog):
    """Even below what the data sheet would need: they were measured."""
    measure(0.5, 0.5, 0.5)
    assert took(within(config, "00:00:09")).run < 9 < best(config)
    assert caplog.text == ""


def test_without_a_limit_nothing_is_refused(config):
    assert took(within(config, None), scale=1e6).run > 1e6


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (3000, "50 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (9e4, "25.0 h"),
    ],
)
def test_a_duration_is_said_in_the_unit_one_would_say_it_in(seconds, said):
    assert words(seconds) == said
