"""A user's backbone for which one process of a run has too little memory: the kernel's limit is set around it."""

import hashlib
import os
import resource
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.distributed as dist

from vibench.backbones.transformer import Transformer
from vibench.config.backbone import TransformerConfig

MIB = 2**20
ROOM, PER_SEQUENCE = 72 * MIB, 4 * MIB  # beyond what the process has; 12 sequences fit with 24 MiB to spare, 24 do not


class Starved(Transformer):
    """Takes 4 MiB for every sequence in ``$VIBENCH_STARVED``, where the last rank has room for eighteen.

    Every rank writes what its weights are before each step, in ``$VIBENCH_TOLD``.
    """

    def forward(self, tokens):
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        here = os.environ.get("VIBENCH_STARVED") == ("training" if self.training else "validation")
        if here and rank == ranks - 1:
            starve(len(tokens))
        if self.training:
            weights = b"".join(p.detach().numpy().tobytes() for p in self.parameters() if type(p) is torch.nn.Parameter)
            with (Path(os.environ["VIBENCH_TOLD"]) / f"rank{rank}").open("a") as file:
                file.write(hashlib.sha256(weights).hexdigest() + "\n")
        return super().forward(tokens)


def starve(sequences: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, hard))
    try:
        torch.empty(sequences * PER_SEQUENCE, dtype=torch.uint8).fill_(1)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@dataclass(kw_only=True, slots=True)
class StarvedConfig(TransformerConfig):
    _target_: str = f"{__name__}.Starved"


def starved(config):
    """The experiment with that backbone."""
    old = config.backbone
    config.backbone = StarvedConfig(**{f.name: getattr(old, f.name) for f in fields(old) if f.name != "_target_"})
    return config
