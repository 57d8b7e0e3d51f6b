"""What a step needs in order to be made again, with less memory, as if nothing had happened.

Restoring the random numbers and the buffers makes the second attempt equal to the bit to one that was begun with that
size of micro-batch.
"""

import ctypes
import gc
import re
import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn

Rng = dict[str, Tensor]


def rng_state(device: torch.device) -> Rng:
    """States of the generators that a step draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Rng, device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class Snapshot:
    """Random numbers and buffers before a step. All buffers are copied: no version of them tells what a batch
    normalisation does to its own, and those of the shipped models are small.

    Args:
        modules: whose buffers there are, and below them.
        device: whose random numbers.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self.device = device
        self.modules = [module for root in modules for module in root.modules() if module._buffers]
        self.rng: Rng = {}
        self._kept: list[tuple[nn.Module, str, Tensor | None, Tensor | None]] = []

    def take(self) -> None:
        self.rng = rng_state(self.device)
        self._kept = [
            (module, name, buffer, None if buffer is None else buffer.clone())
            for module in self.modules
            for name, buffer in module._buffers.items()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        set_rng_state(self.rng, self.device)
        for module, name, buffer, copy in self._kept:
            module._buffers[name] = buffer  # also where another was put in its place
            if buffer is not None and copy is not None:
                buffer.copy_(copy)


def give_back(device: torch.device) -> None:
    """Let go of everything that nobody holds, so that a smaller attempt finds room."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            return


def place_of(error: BaseException, root: nn.Module) -> str:
    """Where an error was raised: the innermost layer of the model that was at work. Of the backward pass nothing more
    is known: its kernels have no frame of Python.
    """
    names = {id(module): name for name, module in root.named_modules()}
    layer, phase, link = "", "", error.__traceback__
    while link is not None:
        code, found = link.tb_frame.f_code, link.tb_frame.f_locals.get("self")
        if isinstance(found, nn.Module) and names.get(id(found)):
            layer = names[id(found)]
        if code.co_name == "backward":
            phase = "the backward pass"
        link = link.tb_next
    if phase:
        return phase + (f" of {layer}" if layer else "")
    return f"the forward pass of {layer}" if layer else "the step"


def wanted(error: BaseException) -> str:
    """What an error of an allocator says of how much it could not have; else its first line."""
    found = re.search(r"tried to allocate ([\d.]+) (bytes|[KMGT]iB)", str(error), re.IGNORECASE)
    if found is None:
        return first_line(error)
    number, unit = float(found[1]), found[2]
    return f"asked for {number / 2**20:.1f} MiB" if unit == "bytes" else f"asked for {number:g} {unit}"


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]
