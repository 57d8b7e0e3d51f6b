"""Learning rate over the steps of a run, as a factor of its peak."""

import math

from vibench.config.training import Schedule


def lr_factor(step: int, total: int, warmup: int, schedule: Schedule) -> float:
    """Factor in [0, 1] for the step with that number, counted from 0.

    Linear warm-up from ``1 / warmup`` to 1, then constant, linear or half a cosine (Loshchilov and Hutter 2017,
    https://arxiv.org/abs/1608.03983) that would reach 0 at step ``total``.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    if schedule is Schedule.linear:
        return 1 - done
    return (1 + math.cos(math.pi * done)) / 2 if schedule is Schedule.cosine else 1.0
