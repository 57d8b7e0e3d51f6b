"""Who held the memory of a run that ended for want of it."""

import dataclasses
import logging

from vibench.config.experiment import ExperimentConfig
from vibench.memory.plan import MemoryPlan, fit
from vibench.memory.refusal import gib

log = logging.getLogger("vibench")


def last_bill(config: ExperimentConfig, *, plan: MemoryPlan | None = None, sizes: dict[str, int] | None = None) -> str:
    """Who holds the memory of a run that ended for want of it, and what can be done; as much as is known.

    On a CPU nothing was traced before; it is now, of the smallest part of a batch, if there is room for that.
    """
    if plan is None or sizes is None:
        return "nothing is planned yet; use a machine with more memory, or less data at once"
    components, layers, micro = plan.components, plan.layers, plan.micro_batch
    if not components:
        smallest = dataclasses.replace(config.training, micro_batch="1", accumulation="auto")
        try:
            traced = fit(dataclasses.replace(config, training=smallest), **sizes, on_cpu=True)
            components, layers, micro = traced.components, traced.layers, 1
        except Exception as error:  # whatever: the run has ended, this is only about its last words
            log.debug(f"no bill can be traced: {error}")
    if components:
        parts = " + ".join(f"{name} {gib(there)}" for name, there in components.items() if there >= 0.001)
        told = f"predicted with micro-batch {micro}: {parts} GiB"
        if layers:
            layer, component, most = layers[0]
            told += f"; largest: {component} of {layer}, {gib(most)} GiB"
    else:
        parts = " + ".join(f"{name} {gib(there)}" for name, there in plan.host.items() if there >= 0.001)
        told = f"weights, gradients and optimizer state {gib(plan.state_gib)} GiB; of the host: {parts} GiB"
    return f"{told}; use a smaller d_model={config.d_model}, or a machine with more memory, then vibench-resume"
