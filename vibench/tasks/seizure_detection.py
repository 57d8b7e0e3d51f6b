"""When a seizure begins and ends: a logit for every sample, scored record by record.

Shapes: B windows, G sequences per window (its channels, or one), N tokens, D model width, L samples of a window.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from vibench.config.task import SeizureDetectionConfig
from vibench.data.batch import Batch, Target
from vibench.data.drawing import kinds_of
from vibench.data.loader import Data
from vibench.data.store import Recording
from vibench.tasks.postprocessing import Postprocessing
from vibench.tasks.record_scores import RecordScores
from vibench.tasks.szcore import choose, f1, false_alarms_per_24h, sensitivity
from vibench.tasks.task import Sizes, Task, check_present, check_shape

BUDGETS = (10.0, 5.0, 2.5, 1.0)  # false alarms in 24 h at which a sensitivity is told
LOG_ODDS = np.concatenate(  # of the thresholds that a validation may choose: 0.018 to 0.998, closest in the middle
    [np.arange(-4, -2, 0.25), np.arange(-2, 3, 0.1), np.arange(3, 6.1, 0.25)]
)
RARE = 1e-3  # least and most share of windows with a seizure that the loss believes in, from either end


class SeizureDetection(Task):
    """Each token read to a few features, these to every sample, with a focal loss (Lin et al. 2017,
    https://arxiv.org/abs/1708.02002).

    Thresholds are no weight, and are not fitted to a test: a validation chooses them (:meth:`settle`), checkpoints
    carry them. Before there was one, ``threshold`` holds.

    Args:
        sizes: of the model and the data.
        hidden: features from which each sample is read.
        alpha: share of the loss that is of seizures; their rarity is made up for besides (:meth:`meet`).
        gamma: how much less a sample counts that is told well already.
        threshold: probability that begins a seizure, before a validation has found one.
        max_fa_per_24h: false alarms in 24 h that the chosen threshold may have on the validation.
        off_ratio: probability that ends a seizure, as a share of the one that begins it.
        opening, closing: samples: shorter bursts are no seizure, shorter gaps are none.
        min_duration_s: seconds that a seizure lasts at least.
        merge_gap_s: seconds: seizures closer than that are one.
    """

    def __init__(
        self,
        *,
        sizes: Sizes,
        hidden: int,
        alpha: float,
        gamma: float,
        threshold: float,
        max_fa_per_24h: float,
        off_ratio: float,
        opening: int,
        closing: int,
        min_duration_s: float,
        merge_gap_s: float,
    ) -> None:
        super().__init__()
        self.window, self.alpha, self.gamma = sizes.window, alpha, gamma
        self.budgets = (max_fa_per_24h, *BUDGETS)
        self.postprocessing = Postprocessing(
            off_ratio=off_ratio,
            opening=opening,
            closing=closing,
            min_duration_s=min_duration_s,
            merge_gap_s=merge_gap_s,
        )
        self.grid = np.unique([*(1 / (1 + np.exp(-LOG_ODDS))), threshold])
        self.reduce = nn.Linear(sizes.d_model, hidden)
        self.read = nn.Conv1d(hidden, 1, 1)
        self.register_buffer("positive_weight", torch.ones(()))
        self.register_buffer("chosen", torch.full((len(self.budgets),), threshold, dtype=torch.float64))

    @staticmethod
    def target(config: SeizureDetectionConfig, window: int) -> Target:
        def of(recording: Recording, future: np.ndarray, end: int) -> np.ndarray | None:
            if recording.events is None:
                return None
            ictal = np.zeros(window, np.float32)
            for start, stop in (recording.events - (end - window)).tolist():
                ictal[max(start, 0) : max(stop, 0)] = 1
            return ictal

        return Target(of=of, shape=(), dtype=torch.float32, per_sample=True, distinct=2)

    @property
    def threshold(self) -> float:
        """Probability that begins a seizure."""
        return float(self.grid[self._place(0)])

    def _place(self, budget: int) -> int:
        """Of a chosen threshold in the grid; the nearest, where a checkpoint brings one of another grid."""
        return int(np.abs(self.grid - float(self.chosen[budget])).argmin())

    def meet(self, data: Data) -> None:
        """A sample of a seizure counts sqrt((1 - r) / r) times, where r of the windows of an epoch hold a seizure."""
        train = data.splits["train"]
        has = kinds_of(train.recordings, train.places, train.window) > 0
        share = sum(count * has[pool].mean() for pool, count in data.draw.pools if count) / len(data.draw)
        share = min(max(share, RARE), 1 - RARE)
        self.positive_weight.fill_(((1 - share) / share) ** 0.5)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """(B, G, N, D) -> logits (B, L)."""
        share = (real / real.sum(1, keepdim=True)).to(tokens.dtype)
        mean = tokens[:, 0] if tokens.shape[1] == 1 else torch.einsum("bgnd,bg->bnd", tokens, share)
        features = F.gelu(self.reduce(mean)).transpose(1, 2)  # (B, H, N)
        return self.read(F.interpolate(features, size=self.window, mode="linear")).squeeze(1)

    def loss(self, prediction: Tensor, target: Tensor, present: Tensor) -> Tensor:
        check_shape("seizure_detection", prediction, target)
        check_present("seizure_detection", present, target.shape)
        logits = prediction.float()
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=self.positive_weight)
        wrong = F.logsigmoid(torch.where(target > 0.5, -logits, logits))  # log of the probability of the other answer
        weight = torch.where(target > 0.5, self.alpha, 1 - self.alpha) * torch.exp(self.gamma * wrong)
        return (weight * entropy * present).sum()

    def naive(self, batch: Batch, known: Tensor) -> Tensor:
        """The share of seizures in the training, whatever the window."""
        return known.mean().clamp(1e-6, 1 - 1e-6).logit().expand(len(batch), self.window)

    def metrics(self) -> MetricCollection:
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        records = RecordScores(postprocessing=self.postprocessing, grid=self.grid, ordered=alone)

        def at(budget: int, score: Callable[[RecordScores], np.ndarray]) -> "OfRecords":
            return OfRecords(records, lambda records: float(score(records)[self._place(budget)]))

        return MetricCollection(
            {
                "event_f1": at(0, lambda records: f1(records.counts.event)),
                "event_sensitivity": at(0, lambda records: sensitivity(records.counts.event)),
                "fa_per_24h": at(0, lambda records: false_alarms_per_24h(records.counts)),
                "sample_f1": at(0, lambda records: f1(records.counts.sample)),
                "sample_sensitivity": at(0, lambda records: sensitivity(records.counts.sample)),
            }
            | {
                f"sensitivity_{f'{budget:g}'.replace('.', '_')}fa": at(
                    1 + place, lambda records: sensitivity(records.counts.event)
                )
                for place, budget in enumerate(BUDGETS)
            }
            | {
                "auroc": OfRecords(records, RecordScores.auroc),
                "auprc": OfRecords(records, RecordScores.average_precision),
                "taes_sensitivity": at(0, lambda records: sensitivity(records.counts.taes)),
                "taes_f1": at(0, lambda records: f1(records.counts.taes)),
            },
            compute_groups=False,  # they share their records themselves
        )

    def settle(self, metrics: MetricCollection) -> None:
        """Choose the thresholds; a validation has a seizure, or the data is refused."""
        records = next(iter(metrics.values())).records
        records.finish()
        chosen = [self.grid[choose(records.counts, max_fa_per_24h=budget)] for budget in self.budgets]
        self.chosen.copy_(torch.tensor(chosen, dtype=torch.float64))

    def update(
        self, metrics: MetricCollection, prediction: Tensor, target: Tensor, present: Tensor, batch: Batch
    ) -> None:
        if not present.any():
            return
        told = (batch.recording, batch.start, batch.rate_hz, prediction.float().sigmoid(), target > 0.5, present)
        next(iter(metrics.values())).records.add(*(tensor.detach().cpu() for tensor in told))
        metrics.update()


class OfRecords(Metric):
    """One number of the scores of whole records, which several metrics share; its state is theirs, on the host.

    Args:
        records: shared.
        number: of them, when all are closed.
    """

    full_state_update = False

    def __init__(self, records: RecordScores, number: Callable[[RecordScores], float]) -> None:
        super().__init__()
        self.records, self.number = records, number

    def update(self) -> None:
        """What was computed before does not hold any more."""

    def compute(self) -> Tensor:
        self.records.finish()
        return torch.tensor(self.number(self.records), dtype=torch.float64)

    def reset(self) -> None:
        super().reset()
        self.records.reset()
