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
    """Random numbers and buffers before a step. Of the buffers, those that steps have been seen to change are copied;
    the first time all are, since nothing is known yet.

    Args:
        modules: whose buffers there are.
        device: whose random numbers.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self.device = device
        self.buffers = [(m, name) for module in modules for m in module.modules() for name in m._buffers]
        self.rng: Rng = {}
        self._kept: list[tuple[nn.Module, str, Tensor | None, int, Tensor | None]] = []
        self._known = False

    def take(self) -> None:
        if self._kept and not self._known:
            self.buffers = [(m, name) for m, name, buffer, version, _ in self._kept if _moved(m, name, buffer, version)]
            self._known = True
        self.rng = rng_state(self.device)
        self._kept = []
        for module, name in self.buffers:
            buffer = module._buffers[name]
            copy, version = (None, 0) if buffer is None else (buffer.clone(), buffer._version)
            self._kept.append((module, name, buffer, version, copy))

    @torch.no_grad()
    def restore(self) -> None:
        set_rng_state(self.rng, self.device)
        for module, name, buffer, version, copy in self._kept:
            if _moved(module, name, buffer, version):
                module._buffers[name] = buffer
                if buffer is not None and copy is not None:
                    buffer.copy_(copy)


def _moved(module: nn.Module, name: str, buffer: Tensor | None, version: int) -> bool:
    now = module._buffers[name]
    return now is not buffer or (now is not None and now._version != version)


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
