"""TimesNet: a sequence folded by its own periods into planes, and convolved there.

Shapes: S sequences, N tokens, D model width, F frequencies 1..N/2, k periods of a sequence, U different periods.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from vibench.layers.inception import Inception, convolve
from vibench.layers.precision import single_precision


class TimesNet(nn.Module):
    """Blocks of two-dimensional variation (Wu et al. 2023, https://arxiv.org/abs/2210.02186).

    Three departures: every sequence has periods of its own, as in the paper (the published code takes those of the
    mean over the batch, so that a prediction would depend on its neighbours); no instance normalisation, since the
    amplitude of a vibration carries the fault; no positions added, which is the embedding's affair.

    Args:
        n_tokens: N.
        d_model: D.
        e_layers: blocks.
        d_ff: features between the two convolutions of a block.
        top_k: k, the strongest frequencies whose periods fold a sequence; at most N/2.
        period: tokens; folds every sequence by this period alone instead.
        num_kernels: sizes of convolution in an inception block: 1, 3, 5, ...
        dropout: probability, on the tokens that come in.
    """

    def __init__(
        self,
        *,
        n_tokens: int,
        d_model: int,
        e_layers: int,
        d_ff: int,
        top_k: int,
        period: int | None,
        num_kernels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TimesBlock(n_tokens, d_model, d_ff, top_k, period, num_kernels) for _ in range(e_layers)
        )
        self.norm = nn.LayerNorm(d_model)  # one for all blocks, as published

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = self.norm(block(tokens))
        return tokens


class TimesBlock(nn.Module):
    """Fold by the k strongest periods, convolve, unfold, and add, weighted by the strength of each.

    Frequencies whose periods round to the same number of tokens fold alike, so they are convolved once and their
    weights added. Sequences with the same period go through the convolution together.

    Args: as of :class:`TimesNet`.
    """

    def __init__(
        self, n_tokens: int, d_model: int, d_ff: int, top_k: int, period: int | None, num_kernels: int
    ) -> None:
        super().__init__()
        self.n_tokens, self.top_k = n_tokens, top_k
        rounded = [-(-n_tokens // f) for f in range(1, n_tokens // 2 + 1)] if period is None else [period]
        self.periods = sorted(set(rounded), reverse=True)  # U of them
        of_frequency = torch.tensor([self.periods.index(p) for p in rounded])
        self.register_buffer("of_frequency", of_frequency, persistent=False)
        self.widen, self.narrow = Inception(d_model, d_ff, num_kernels), Inception(d_ff, d_model, num_kernels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        kernels = (*self.widen.merged(), *self.narrow.merged())
        if len(self.periods) == 1:
            return tokens + self._varied(tokens, self.periods[0], *kernels)
        share, chosen = self._shares(tokens)
        mixed = torch.zeros_like(tokens)
        for column, sequences in self._groups(chosen):
            varied = self._varied(tokens[sequences], self.periods[column], *kernels)
            weighted = varied * share[sequences, column, None, None]
            mixed.index_add_(0, sequences, weighted.to(mixed.dtype))
        return tokens + mixed

    def _shares(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Weight of each period for each sequence (S, U), and whether it is among its strongest (S, U)."""
        with single_precision(tokens):  # no FFT in half precision
            amplitude = torch.fft.rfft(tokens.float(), dim=1).abs().mean(2)[:, 1:]  # (S, F)
        strongest, frequency = amplitude.topk(self.top_k, dim=1)
        period = self.of_frequency[frequency]  # (S, k)
        share = strongest.new_zeros(len(tokens), len(self.periods)).scatter_add(1, period, strongest.softmax(1))
        return share, torch.zeros_like(share, dtype=torch.bool).scatter_(1, period, True)

    def _groups(self, chosen: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(index of a period, the sequences that have it), from (S, U)."""
        if isinstance(chosen, FakeTensor) or chosen.is_meta:  # a trace has shapes and no numbers: the most there can be
            for column in self._widest(self.top_k):
                yield column, torch.arange(len(chosen), device=chosen.device)
            return
        there = chosen.T.cpu()  # the one wait for the device
        rows = there.nonzero()[:, 1]
        groups = rows.to(chosen.device, non_blocking=True).split(there.sum(1).tolist())
        yield from ((column, sequences) for column, sequences in enumerate(groups) if len(sequences))

    def _widest(self, count: int) -> list[int]:
        """The periods whose planes hold the most tokens, padding included."""
        padded = [-(-self.n_tokens // period) * period for period in self.periods]
        return sorted(range(len(padded)), key=padded.__getitem__)[-count:]

    @staticmethod
    def _varied(tokens: Tensor, period: int, *kernels: Tensor) -> Tensor:
        """(n, N, D) -> (n, N, D), through planes of whole periods as rows."""
        n, length, d = tokens.shape
        rows = -(-length // period)
        planes = F.pad(tokens, (0, 0, 0, rows * period - length)).view(n, rows, period, d).permute(0, 3, 1, 2)
        planes = convolve(F.gelu(convolve(planes, *kernels[:2])), *kernels[2:])
        return planes.permute(0, 2, 3, 1).reshape(n, rows * period, d)[:, :length]
