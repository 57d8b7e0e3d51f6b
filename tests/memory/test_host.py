"""What a run takes of the host's memory, and what there is."""

from pathlib import Path

import pytest
from torch.utils._pytree import tree_leaves

from tests.memory.own import hardware, training
from tests.model.batches import N_CHANNELS
from vibench.data.batch import blank_batch
from vibench.errors import MemoryFitError
from vibench.memory.host import CUDA_GIB, GIB, PROCESS_GIB, WORKER_GIB, check_host, free_gib, host_bill
from vibench.memory.trace import Levers
from vibench.model import targets

MEMINFO = Path("/proc/meminfo")


def billed(config, *, state="device", parameters=0, trained=0, windows=0, step_gib=0.0):
    return host_bill(
        config,
        Levers(precision="fp32", checkpointing="none", optimizer_state=state),
        n_channels=N_CHANNELS,
        parameters=parameters,
        trained=trained,
        windows=windows,
        step_gib=step_gib,
    )


@pytest.fixture(scope="module")
def on(small):
    """The experiment on a hardware with so many loading processes, on so many cards."""

    def call(name, workers=0, gpus=1):
        return hardware(small(name, "hardware.cpus=8", f"data.workers={workers}"), gpus=gpus)

    return call


def bytes_of_a_window(config):
    """fp32: signal and scale of every channel and the rate; int64: channels, system, entity, recording, start, class;
    bool: present.
    """
    return 4 * (N_CHANNELS * config.data.window + N_CHANNELS + 1) + 8 * 6 + 1


def test_the_batch_of_one_task_is_what_its_fields_say(on):
    config = on("cpu")
    leaves = tree_leaves(blank_batch(targets(config), 5, N_CHANNELS, config.data.window).values())
    assert sum(leaf.nbytes for leaf in leaves) == 5 * bytes_of_a_window(config)


@pytest.mark.parametrize(("workers", "batches"), [(0, 2), (1, 3), (2, 5), (4, 9)])
@pytest.mark.parametrize(("name", "copies"), [("cpu", 1), ("rtx3090", 2)])
def test_every_worker_loads_two_batches_ahead_of_the_one_that_is_trained(on, name, copies, workers, batches):
    """Beside each, for a card, lies its copy in pinned memory."""
    config = training(on(name, workers), global_batch_size=48)
    found = billed(config)["batches"]
    assert found * GIB == pytest.approx(copies * batches * 48 * bytes_of_a_window(config))


@pytest.mark.parametrize(
    ("name", "gpus", "processes"),
    [("cpu", 1, PROCESS_GIB), ("rtx3090", 1, PROCESS_GIB + CUDA_GIB), ("rtx3090", 2, 2 * (PROCESS_GIB + CUDA_GIB))],
)
def test_every_card_has_a_process_with_its_workers_and_its_list_of_windows(on, name, gpus, processes):
    found = billed(on(name, 3, gpus), windows=2**26)
    assert found["processes"] == pytest.approx(processes)
    assert found["workers"] == pytest.approx(3 * gpus * WORKER_GIB)
    assert found["windows"] == pytest.approx(gpus * 1.0)  # 16 bytes each


@pytest.mark.parametrize(
    ("name", "item"), [("rtx3090", "batches"), ("rtx3090", "optimizer on the host"), ("cpu", "training step")]
)
def test_every_process_has_batches_an_optimizer_and_a_step_of_its_own(on, name, item):
    """Each loads the whole batch and takes its share of it to its card (``step/ranks.py``)."""
    one, two = (
        billed(on(name, 1, gpus), state="host", parameters=2**20, trained=2**20, step_gib=0.5) for gpus in (1, 2)
    )
    assert two[item] == pytest.approx(2 * one[item])


def test_the_weights_are_there_twice_and_the_checkpoint_has_the_state_too(on):
    found = billed(on("rtx3090"), parameters=2**28, trained=2**27)
    assert found["weights before and after training"] == 2 * 1.0 + 1.0
    assert "optimizer on the host" not in found


def test_an_optimizer_on_the_host_keeps_copies_of_weights_and_gradients_and_the_state_there(on):
    found = billed(on("rtx3090"), state="host", parameters=2**28, trained=2**27)
    assert found["optimizer on the host"] == 2 * 1.0 + 1.0


def test_the_training_step_is_the_hosts_where_it_runs_there(on):
    assert billed(on("cpu"), step_gib=0.75)["training step"] == 0.75
    assert "training step" not in billed(on("rtx3090"))


def test_the_bill_is_largest_first_and_without_what_takes_nothing(on):
    found = billed(on("rtx3090", 2), parameters=2**32, windows=100)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert min(found.values()) > 0
    assert next(iter(found)) == "weights before and after training"


def test_what_the_host_cannot_hold_is_refused_with_its_bill(on):
    config = hardware(on("cpu"), ram_gib=4.0)
    bill = {"training step": 3.0, "processes": 1.5, "windows": 0.001}
    with pytest.raises(
        MemoryFitError,
        match=r"takes 4\.5 GiB of the host's memory, hardware\.ram_gib=4: training step 3\.00 \+ processes 1\.50 GiB; "
        r"use fewer data\.workers, a smaller training\.global_batch_size",
    ):
        check_host(config.hardware, bill)


def test_what_the_host_can_hold_is_not_refused(on):
    check_host(hardware(on("cpu"), ram_gib=4.5).hardware, {"training step": 3.0, "processes": 1.5})
    check_host(on("cpu").hardware, {"processes": 0.01})  # what is free here


def test_without_a_number_what_is_free_here_is_the_limit(on):
    if free_gib() is None:
        pytest.skip("this machine does not tell what is free")
    assert on("cpu").hardware.ram_gib is None
    with pytest.raises(MemoryFitError, match=r"takes 1000000\.0 GiB .* this machine has [\d.]+ free: training step"):
        check_host(on("cpu").hardware, {"training step": 1e6})


def test_what_is_free_is_no_more_than_the_kernel_says():
    if not MEMINFO.exists():
        pytest.skip("this machine does not tell what is free")

    def available():
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) / 2**20, int(lines["MemTotal"].split()[0]) / 2**20

    before, total = available()
    free = free_gib()
    after, _ = available()
    assert 0 < free < total
    assert free <= max(before, after) + 0.25  # others come and go meanwhile


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_control_group_leaves_is_the_limit_less_what_is_taken_but_for_files(control_group, version):
    control_group(version, most=0.5, used=0.25, cached=0.0625)
    assert free_gib() == 0.5 - 0.25 + 0.0625


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_above_its_own_limits_a_process_too(control_group, version):
    control_group(version, most=0.5, used=0.25, cached=0.0)
    control_group(version, most=0.5, used=0.375, cached=0.0, above=True)
    assert free_gib() == 0.125


def test_a_control_group_without_a_limit_leaves_what_the_kernel_says(control_group):
    before = free_gib()
    control_group(2, most="max", used=0.25, cached=0.0)
    assert free_gib() == pytest.approx(before, abs=0.5)
