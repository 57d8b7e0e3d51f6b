"""Running out of memory although the plan said otherwise: the same batch again, with less at once.

The levers of the plan, in the order of their cost, pulled while the run goes on: half the micro-batch, until it is one
window; blocks that keep less. Neither changes the gradient. Where the optimizer finds no room for its state, splitting
helps nothing: the run goes on from its last checkpoint with that state on the host. What was pulled stays so.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from vibench.config.training import Checkpointing, OptimizerState, TrainingConfig
from vibench.errors import OutOfMemoryError, Restart, VibenchError, is_out_of_memory
from vibench.memory.plan import MemoryPlan
from vibench.model import Model
from vibench.step.checkpointing import checkpoint_blocks, levels
from vibench.step.ranks import any_rank, first_told, ranks
from vibench.step.recovery import give_back, place_of, wanted

log = logging.getLogger("vibench")
T = TypeVar("T")
PATIENCE = 2  # steps in a row in which the allocator of a card had to free what it kept and ask again


class Recovery:
    """The levers that are left to a run.

    Args:
        model: what is trained.
        config: what the user fixed.
        plan: how the step is made; where it begins.
        device: where.
        note: takes what happened, for the status of the run.

    Attributes:
        micro_batch: windows at once in a step.
        checkpointing: none, selective, full or sliced.
    """

    def __init__(
        self,
        model: Model,
        config: TrainingConfig,
        plan: MemoryPlan,
        device: torch.device,
        note: Callable[[dict[str, Any]], None],
    ) -> None:
        self.model, self.config, self.plan, self.device, self.note = model, config, plan, device, note
        self.micro_batch, self.checkpointing = plan.micro_batch, plan.checkpointing
        self._eval_micro_batch = plan.micro_batch
        self._thrashing = Thrashing(_alloc_retries(device))

    def of_step(self, attempt: Callable[[int], T], again: Callable[[], None], size: int, step: int) -> T:
        """What an attempt returns, made with as much at once as there is room for.

        Args:
            attempt: given the size of the micro-batch.
            again: puts everything back to where it was before an attempt.
            size: windows of the batch.
            step: optimizer steps before this one.

        Raises:
            OutOfMemoryError: no lever is left.
            Restart: the ranks share their weights, so that none can try again on its own.
        """
        size = -(-size // ranks())
        while True:
            said, result = None, None
            try:
                result = attempt(self.micro_batch)
            except Exception as error:
                if isinstance(error, VibenchError) or not is_out_of_memory(error):
                    raise
                said = f"{place_of(error, self.model)} ({wanted(error)})"
            # out of the except block: the error is gone, and with it the activations that its frames held
            if said is not None and self.plan.sharding == "full":
                raise self._smaller(f"out of memory in {said}", size, step)
            told = first_told(said)
            if told is None:
                if self.device.type == "cuda" and any_rank(self._thrashing.seen(_alloc_retries(self.device))):
                    self._pull("the allocator frees and asks again in every step", size, step, "from now on")
                return result
            again()
            give_back(self.device)
            if not self._pull(f"out of memory in {told}", size, step):
                raise OutOfMemoryError(
                    f"out of memory at step {step + 1} in {told}, with micro-batch {min(self.micro_batch, size)} and "
                    f"checkpointing {self.checkpointing}"
                )

    def _pull(self, what: str, size: int, step: int, then: str = "the same batch again") -> bool:
        """Pull the next lever; False where none is left."""
        micro = min(self.micro_batch, size)
        if micro > 1:
            self.micro_batch = -(-micro // 2)
            text, changes = f"micro-batch {micro} -> {self.micro_batch}", {"micro_batch": str(self.micro_batch)}
        elif (kept := self._next()) is not None:
            before, self.checkpointing = self.checkpointing, kept
            checkpoint_blocks(self.model, self.checkpointing)
            text = f"checkpointing {before} -> {self.checkpointing}"
            changes = {"checkpointing": self.checkpointing}
        else:
            return False
        log.warning(f"MEMORY: {what} at step {step + 1}; {text}, {then}")
        self.note({"kind": "memory", "step": step + 1, "text": f"{what}: {text}", "changes": changes})
        return True

    def _next(self) -> str | None:
        """What keeps less than the present checkpointing; None where nothing does, or another was asked for."""
        after = levels(self.model)
        after = after[after.index(self.checkpointing) + 1 :] if self.checkpointing in after else []
        return after[0] if after and self.config.checkpointing is Checkpointing.auto else None

    def _smaller(self, what: str, size: int, step: int) -> VibenchError:
        """How ranks that share their weights go on: all of them from the last checkpoint."""
        micro = min(self.micro_batch, size)
        if micro > 1:
            return Restart(what, kind="MEMORY", changes={"micro_batch": str(-(-micro // 2))}, step=step + 1)
        if (kept := self._next()) is not None:
            return Restart(what, kind="MEMORY", changes={"checkpointing": kept}, step=step + 1)
        return OutOfMemoryError(f"{what} at step {step + 1}, with micro-batch 1, checkpointing {self.checkpointing}")

    @contextmanager
    def of_optimizer(self, step: int) -> Iterator[None]:
        """Around the change of the weights, of which a part may be done when memory runs out.

        Raises:
            Restart: from the last checkpoint, with the optimizer's state on the host.
            OutOfMemoryError: it is there already, or was to stay where it is.
        """
        said = None
        try:
            yield
        except Exception as error:
            if isinstance(error, VibenchError) or not is_out_of_memory(error):
                raise
            said = f"out of memory in the optimizer ({wanted(error)})"
        if said is None:
            return
        auto, on_card = self.config.optimizer_state is OptimizerState.auto, self.device.type == "cuda"
        movable = (
            self.plan.optimizer_state == "device" and self.plan.sharding == "none" and self.plan.precision != "fp16"
        )
        if auto and on_card and movable:
            raise Restart(said, kind="MEMORY", changes={"optimizer_state": "host"}, step=step + 1)
        raise OutOfMemoryError(f"{said} at step {step + 1}: a smaller micro-batch does not help there")

    def of_scores(self, attempt: Callable[[int], T], size: int, step: int) -> T:
        """What a whole pass over a split returns, begun again with half as much at once where there is no room.

        Raises:
            OutOfMemoryError: one window at a time is too much.
            Restart: the ranks share their weights, so that none can begin again on its own.
        """

        def halved(micro: int, what: str) -> None:
            self._eval_micro_batch = micro
            self.note({"kind": "memory", "step": step, "text": what, "changes": {}})

        if self.plan.sharding == "full":
            return self._of_scores_together(attempt, -(-size // ranks()), step)
        return halve_until_it_fits(attempt, self._eval_micro_batch, size, self.model, self.device, halved)

    def _of_scores_together(self, attempt: Callable[[int], T], size: int, step: int) -> T:
        try:
            return attempt(self._eval_micro_batch)
        except Exception as error:
            if isinstance(error, VibenchError) or not is_out_of_memory(error):
                raise
            said = f"out of memory in a validation, in {place_of(error, self.model)} ({wanted(error)})"
        raise self._smaller(said, size, step)


class Thrashing:
    """Whether the allocator was out of memory within itself, in one step after another: slow, and near the end.

    Args:
        retries: times so far that it had to free what it kept in order to go on.
    """

    def __init__(self, retries: int) -> None:
        self._retries, self._in_a_row = retries, 0

    def seen(self, retries: int) -> bool:
        """Asked after every step; then the count begins anew."""
        self._in_a_row = self._in_a_row + 1 if retries > self._retries else 0
        self._retries = retries
        if self._in_a_row < PATIENCE:
            return False
        self._in_a_row = 0
        return True


def halve_until_it_fits(
    attempt: Callable[[int], T],
    micro_batch: int,
    size: int,
    model: Model,
    device: torch.device,
    halved: Callable[[int, str], None],
) -> T:
    """What an evaluation returns that can be begun again, with as many windows at once as there is room for.

    Args:
        size: windows of a batch.
        halved: told the new size, and what happened.

    Raises:
        OutOfMemoryError: one window at a time is too much.
    """
    micro_batch = min(micro_batch, -(-size // ranks()))
    while True:
        said, result = None, None
        try:
            result = attempt(micro_batch)
        except Exception as error:
            if isinstance(error, VibenchError) or not is_out_of_memory(error):
                raise
            said = f"{place_of(error, model)} ({wanted(error)})"
        told = first_told(said)
        if told is None:
            return result
        give_back(device)
        if micro_batch == 1:
            raise OutOfMemoryError(f"out of memory in an evaluation, in {told}, one window at a time")
        what = f"out of memory in an evaluation, in {told}: micro-batch {micro_batch} -> {-(-micro_batch // 2)}"
        micro_batch = -(-micro_batch // 2)
        log.warning(f"MEMORY: {what}, from its beginning")
        halved(micro_batch, what)


def _alloc_retries(device: torch.device) -> int:
    """Times that a card's allocator had to free what it kept in order to go on."""
    if device.type != "cuda":
        return 0
    return torch.cuda.memory_stats_as_nested_dict(device)["num_alloc_retries"]
