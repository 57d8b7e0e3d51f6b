"""Where a run goes, and the card that ``hardware=local`` finds."""

import dataclasses

import pytest
import torch

from vibench.config.hardware import Device
from vibench.config.training import Precision
from vibench.errors import ConfigError
from vibench.memory.device import GIB, as_found, choose_device, device_name, peak_gib, reset_peak

CPU = torch.device("cpu")
GPU = torch.cuda.is_available()


@pytest.mark.parametrize(("choice", "expected"), [("cpu", "cpu"), ("local", "cuda" if GPU else "cpu")])
def test_the_cpu_is_taken_when_asked_for_and_local_takes_what_is_there(resolved, choice, expected):
    assert choose_device(resolved(f"hardware={choice}").hardware).type == expected


def test_a_card_that_is_not_here_is_replaced_loudly(resolved, caplog, monkeypatch):
    if GPU:
        pytest.skip("this machine has a GPU")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert choose_device(resolved("hardware=a100_80").hardware) == CPU
    assert "NO GPU HERE: planned for hardware=a100_80, running on the CPU" in caplog.text


def test_under_slurm_a_missing_gpu_is_an_error(resolved, monkeypatch):
    if GPU:
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with pytest.raises(ConfigError, match="hardware=a100_80 needs a GPU, this SLURM job sees none; check its gres"):
        choose_device(resolved("hardware=a100_80").hardware)


@pytest.mark.parametrize("choice", ["cpu", "local", "rtx3090"])
def test_without_a_gpu_the_hardware_stays_as_it_is_written(resolved, choice):
    hardware = resolved(f"hardware={choice}").hardware
    assert as_found(hardware, Precision.auto, CPU) is hardware


def test_local_takes_the_card_of_this_machine(resolved):
    if not GPU:
        pytest.skip("this machine has no GPU")
    hardware = resolved("hardware=local").hardware
    found = as_found(hardware, Precision.auto, torch.device("cuda"))
    memory = torch.cuda.get_device_properties(0).total_memory / GIB
    assert found == dataclasses.replace(
        hardware, device=Device.cuda, gpu_memory_gib=memory, compute_capability=found.compute_capability
    )


def test_the_device_and_its_peak_are_reported():
    assert device_name(CPU) == f"cpu ({torch.get_num_threads()} threads)"
    before = peak_gib(CPU)
    held = torch.ones(2**26)  # 0.25 GiB
    assert peak_gib(CPU) >= before > 0.1
    assert held.sum() == 2**26


def test_the_peak_is_that_of_the_run_and_not_of_the_process():
    held = torch.ones(2**27)  # 0.5 GiB
    high = peak_gib(CPU)
    del held
    reset_peak(CPU)
    assert peak_gib(CPU) < high - 0.3
