"""Every sample a token.

Shapes: B windows, C channels, L samples, D model width.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Pointwise(nn.Module):
    """Lift each sample of all channels with a short convolution (TimesNet's value embedding, Wu et al. 2023,
    https://arxiv.org/abs/2210.02186).

    Channels that a system does not have are zero in the batch, so they add nothing.

    Args:
        d_model: D.
        n_channels: C.
        window: L; taken for the contract.
        kernel: samples under the convolution, odd; the edges wrap around, as published.
    """

    channel_independent = False

    def __init__(self, *, d_model: int, n_channels: int, window: int, kernel: int) -> None:
        super().__init__()
        self.edge = kernel // 2
        self.lift = nn.Conv1d(n_channels, d_model, kernel, bias=False)
        nn.init.kaiming_normal_(self.lift.weight, mode="fan_in", nonlinearity="leaky_relu")

    def forward(self, signal: Tensor, channels: Tensor, rate_hz: Tensor) -> Tensor:
        """(B, C, L) -> (B, L, D)."""
        return self.lift(F.pad(signal, (self.edge, self.edge), mode="circular")).transpose(1, 2)
