"""Patches of one channel as tokens.

Shapes: B windows, C channels, L samples, N patches, P patch length, D model width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vibench.config.embedding import patch_count


class Patch(nn.Module):
    """Cut each channel into overlapping patches and project them (Nie et al. 2023, https://arxiv.org/abs/2211.14730).

    Channels become sequences of their own and share the projection.

    Args:
        d_model: D.
        n_channels: C.
        window: L.
        patch_len: P, samples in a patch.
        stride: samples from one patch to the next; the end is padded with the last sample.
    """

    channel_independent = True

    def __init__(self, *, d_model: int, n_channels: int, window: int, patch_len: int, stride: int) -> None:
        super().__init__()
        self.patch_len, self.stride = patch_len, stride
        self.padding = (patch_count(window, patch_len, stride) - 1) * stride + patch_len - window
        self.project = nn.Linear(patch_len, d_model)

    def forward(self, signal: Tensor, channels: Tensor, rate_hz: Tensor) -> Tensor:
        """(B, C, L) -> (B*C, N, D)."""
        padded = F.pad(signal, (0, self.padding), mode="replicate") if self.padding else signal
        patches = padded.unfold(-1, self.patch_len, self.stride)  # (B, C, N, P)
        return self.project(patches.flatten(0, 1))
