"""Hierarchical signal embedding: patches drawn in time, of each channel in turn, each with its time in seconds.

Shapes: B windows, C channels, L samples, N patches, P samples and Q channels of a patch, D model width.
"""

import torch
from torch import Tensor, nn


class HSE(nn.Module):
    """Tokens from systems of any rate and channel count (E_01_HSE of PHM-Vibench, https://github.com/PHMbench/PHM-Vibench).

    In training one patch is drawn from each of N equal stretches of the window, in evaluation they are spread evenly:
    a token keeps its place in time. (Patches drawn anywhere leave a forecast nothing to learn from.) Channels take
    turns, among those the system has, so zero padding is never seen.

    Args:
        d_model: D.
        n_channels: C; taken for the contract.
        window: L.
        num_patches: N.
        patch_size_l: P, samples in a patch.
        patch_size_c: Q, neighbouring channels in a patch; they repeat where a system has fewer.
    """

    channel_independent = False

    def __init__(
        self, *, d_model: int, n_channels: int, window: int, num_patches: int, patch_size_l: int, patch_size_c: int
    ) -> None:
        super().__init__()
        self.num_patches, self.patch_size_l, self.patch_size_c = num_patches, patch_size_l, patch_size_c
        self.last_start = window - patch_size_l
        self.project = nn.Sequential(
            nn.Linear(patch_size_l * (patch_size_c + 1), d_model), nn.SiLU(), nn.Linear(d_model, d_model)
        )
        self.register_buffer("offsets", torch.arange(patch_size_l), persistent=False)
        self.register_buffer("neighbours", torch.arange(patch_size_c), persistent=False)

    def forward(self, signal: Tensor, channels: Tensor, rate_hz: Tensor) -> Tensor:
        """(B, C, L) -> (B, N, D)."""
        start, channel = self._places(len(signal), channels)  # (B, N) each
        time = start[..., None] + self.offsets  # (B, N, P)
        sensor = (channel[..., None] + self.neighbours) % channels[:, None, None]  # (B, N, Q)
        window = torch.arange(len(signal), device=signal.device)[:, None, None, None]
        patches = signal[window, sensor[..., None], time[:, :, None]]  # (B, N, Q, P)
        seconds = time / rate_hz[:, None, None]
        return self.project(torch.cat([patches.flatten(2), seconds.to(patches.dtype)], dim=-1))

    def _places(self, size: int, channels: Tensor) -> tuple[Tensor, Tensor]:
        """First sample and first channel of every patch."""
        turn = torch.arange(self.num_patches, device=channels.device)
        if self.training:
            place = turn + torch.rand(size, self.num_patches, device=channels.device)
            start = (place * (self.last_start + 1) / self.num_patches).long()
        else:
            start = torch.linspace(0, self.last_start, self.num_patches, device=channels.device).round().long()
        return start.clamp(max=self.last_start).expand(size, -1), turn % channels[:, None]
