"""The loop over epochs and steps. It begins wherever a checkpoint says, also in the middle of an epoch, or between the
last step of one and its validation."""

import logging
import math
from collections.abc import Iterator

from torch.utils.data import DataLoader

from vibench.config.training import OnGrowth
from vibench.data.batch import Batch
from vibench.data.loader import batches
from vibench.errors import GrowthError, NanError
from vibench.memory.growth import Growth
from vibench.step.ranks import first_told, rank, ranks
from vibench.step.scores import total_loss
from vibench.training.keeper import Keeper
from vibench.training.pace import Pace
from vibench.training.progress import ProgressLine
from vibench.training.training import Training
from vibench.training.watch import Watch

log = logging.getLogger("vibench")


class Loop:
    """Trains to the end, or to the early stop.

    Args:
        training: what is trained; says where to begin.
        loader: batches of an epoch, in the order that its sampler draws for it.
        validation: batches of the validation, None for none.
        pace: told when steps begin.
        keeper: saves, and stops where a signal asked for it.
        watch: of the monitored metric, None for none.
        growth: measures memory after every epoch.
    """

    def __init__(
        self,
        training: Training,
        loader: DataLoader[Batch],
        validation: DataLoader[Batch] | None,
        *,
        pace: Pace,
        keeper: Keeper,
        watch: Watch | None,
        growth: Growth,
    ) -> None:
        self.training, self.loader, self.validation = training, loader, validation
        self.pace, self.keeper, self.watch, self.growth = pace, keeper, watch, growth
        self.progress = ProgressLine(training, watch.monitor if watch else None)

    def run(self) -> None:
        """
        Raises:
            Stopped: a signal asked for it; the last checkpoint is of that moment.
            VibenchError: it cannot go on; the last checkpoint is there.
        """
        if rank():
            self._run()
            return
        with self.progress:
            self._run()

    def _run(self) -> None:
        while not self.training.finished:
            self._train()
            values = self._validate() if self.validation is not None else {}
            self._end(values)

    def _train(self) -> None:
        """The steps of the present epoch that are not done yet."""
        training = self.training
        done = training.steps_in_epoch
        if not done:
            training.begin_epoch()
        if training.epoch_trained:
            return
        self.loader.sampler.begin(training.epoch, done * self.loader.batch_size)
        self.pace.begin_epoch()
        for batch in batches(self.loader):
            self.pace.begin_step(training.steps_done)
            training.train_on(batch)
            if not rank():
                self.progress.after_step()
            self.keeper.after_step()
            if training.epoch_trained:
                break

    def _validate(self) -> dict[str, float]:
        training, watch = self.training, self.watch
        results = training.validate(_Stoppable(self.validation, self.keeper))
        self.keeper.stop_if_asked()
        values = {f"val/{task}/{name}": v for task, result in results.items() for name, v in result.metrics.items()}
        values |= {f"val/{task}/loss": result.loss for task, result in results.items()}
        values |= {"val/loss": total_loss(training.tasks, results)}
        training.write(values)
        if watch is not None and not math.isfinite(values[watch.monitor]):
            raise NanError(
                f"training.monitor={training.config.monitor} is {values[watch.monitor]} on the validation split after "
                f"step {training.steps_done}; monitor loss, or give the validation labels of more than one kind"
            )
        return values

    def _end(self, values: dict[str, float]) -> None:
        """Of an epoch: what is best, what memory does, and a checkpoint."""
        training = self.training
        memory, grows = self.growth.after_epoch(-(-(training.total_steps - training.steps_done) // training.per_epoch))
        best = self.watch is not None and self.watch.judge(values, training.epoch + 1)
        training.end_epoch(memory)
        if not rank():
            self.progress.after_epoch(values)
        if best:
            self.keeper.save_best()  # first: a last checkpoint that knows of a best one finds it there
        self.keeper.save()
        if grows := first_told(grows):
            self._act_on(grows)
        self.keeper.stop_if_asked()

    def _act_on(self, grows: str) -> None:
        step = self.training.steps_done
        if self.training.config.on_growth is OnGrowth.stop and not self.training.finished:
            raise GrowthError(
                f"{grows}; stopped after step {step}, before it runs out: vibench-resume goes on in a new process, "
                "whose memory begins anew; training.on_growth=go_on does not stop"
            )
        log.warning(f"MEMORY GROWS: {grows}")
        self.training.note({"kind": "growth", "step": step, "text": grows, "changes": {}})


class _Stoppable:
    """Batches of a validation, between which a run can be stopped; several ranks are stopped after it, together."""

    def __init__(self, loader: DataLoader[Batch], keeper: Keeper) -> None:
        self.loader, self.keeper = loader, keeper

    def __iter__(self) -> Iterator[Batch]:
        for batch in batches(self.loader):
            if ranks() == 1:
                self.keeper.stop_if_asked()
            yield batch
