"""Who held the memory of a run that ended for want of it."""

import dataclasses
import logging

from vibench.config.experiment import ExperimentConfig
from vibench.memory.host import PROCESS_GIB
from vibench.memory.plan import MemoryPlan, fit
from vibench.memory.refusal import gib

log = logging.getLogger("vibench")


def last_bill(config: ExperimentConfig, plan: MemoryPlan | None, sizes: dict[str, int] | None) -> str:
    """Who holds the memory of a run that ended for want of it, and what can be done; as much as is known.

    On a CPU nothing was traced before; it is now, of the smallest part of a batch, if there is room for that.
    """
    if plan is None or sizes is None:
        return f"nothing is planned yet, the process alone takes {PROCESS_GIB:g} GiB; use a machine with more memory"
    components, layers, micro = plan.components, plan.layers, plan.micro_batch
    if not components:
        smallest = dataclasses.replace(config.training, micro_batch="1", accumulation="auto")
        try:
            traced = fit(dataclasses.replace(config, training=smallest), **sizes, on_cpu=True)
            components, layers, micro = traced.components, traced.layers, 1
        except Exception as error:  # whatever: the run has ended, this is only about its last words
            log.debug(f"no bill can be traced: {error}")
    if components:
        told = f"predicted with micro-batch {micro}: {_sum(components)} GiB"
        largest = next((row for row in layers if row[0] != "-"), None)
        told += f", largest {largest[1]} of {largest[0]} {gib(largest[2])}" if largest else ""
    else:
        told = f"weights, gradients and optimizer state {gib(plan.state_gib)} GiB"
    host = _sum(plan.host)
    return (
        f"{told}; of the host {host} GiB; use a smaller d_model={config.d_model}, or more memory, then vibench-resume"
    )


def _sum(parts: dict[str, float]) -> str:
    return " + ".join(f"{name} {gib(there)}" for name, there in parts.items() if there >= 0.001)
