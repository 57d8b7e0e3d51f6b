"""Embedding schemas. Signals in, token sequences out: (B, C, L) -> (S, N, D)."""

from collections.abc import Iterator
from dataclasses import dataclass

from vibench.config.setting import setting


def patch_count(window: int, patch_len: int, stride: int) -> int:
    """Patches that cover a window; the last one is padded with the last sample where the stride leaves a rest."""
    return max(0, -(-(window - patch_len) // stride)) + 1


@dataclass(kw_only=True, slots=True)
class EmbeddingConfig:
    """Fields that every embedding has."""

    _target_: str

    def n_tokens(self, window: int) -> int:
        """N, tokens per sequence, for a window of that many samples."""
        raise NotImplementedError

    def complaints(self, *, window: int) -> Iterator[str]:
        """Broken rules between fields."""
        yield from ()


@dataclass(kw_only=True, slots=True)
class PatchConfig(EmbeddingConfig):
    """Patches of each channel on its own (Nie et al. 2023, https://arxiv.org/abs/2211.14730)."""

    _target_: str = "vibench.embeddings.patch.Patch"
    patch_len: int = setting("samples in a patch", low=1)
    stride: int = setting("samples from one patch to the next", low=1)

    def n_tokens(self, window: int) -> int:
        return patch_count(window, self.patch_len, self.stride)

    def complaints(self, *, window: int) -> Iterator[str]:
        if self.patch_len > window:
            yield (
                f"embedding.patch_len={self.patch_len} exceeds data.window={window}; "
                f"use embedding.patch_len<={window} or a longer window"
            )
        if self.stride > self.patch_len > 0:
            yield (
                f"embedding.stride={self.stride} exceeds embedding.patch_len={self.patch_len}, so samples between "
                f"patches would never be seen; use embedding.stride<={self.patch_len}"
            )


@dataclass(kw_only=True, slots=True)
class PointwiseConfig(EmbeddingConfig):
    """Each sample lifted to a token (the value embedding of Wu et al. 2023, https://arxiv.org/abs/2210.02186)."""

    _target_: str = "vibench.embeddings.pointwise.Pointwise"
    kernel: int = setting("samples under the convolution that lifts a sample, odd", low=1)

    def n_tokens(self, window: int) -> int:
        return window

    def complaints(self, *, window: int) -> Iterator[str]:
        if self.kernel % 2 == 0:
            yield (
                f"embedding.kernel={self.kernel} is even, so tokens would shift by half a sample; "
                f"use embedding.kernel={self.kernel + 1}"
            )
        if self.kernel > window:
            yield (
                f"embedding.kernel={self.kernel} exceeds data.window={window}; "
                f"use an odd embedding.kernel<={window - (window + 1) % 2}"
            )


@dataclass(kw_only=True, slots=True)
class HSEConfig(EmbeddingConfig):
    """Hierarchical signal embedding of PHM-Vibench: patches drawn in time, channels in turn, with their seconds."""

    _target_: str = "vibench.embeddings.hse.HSE"
    num_patches: int = setting("patches drawn from a window, which is N", low=1)
    patch_size_l: int = setting("samples in a patch", low=1)
    patch_size_c: int = setting("channels in a patch; channels repeat where a system has fewer", low=1)

    def n_tokens(self, window: int) -> int:
        return self.num_patches

    def complaints(self, *, window: int) -> Iterator[str]:
        if self.patch_size_l > window:
            yield (
                f"embedding.patch_size_l={self.patch_size_l} exceeds data.window={window}; "
                f"use embedding.patch_size_l<={window} or a longer window"
            )


@dataclass(kw_only=True, slots=True)
class EnvelopeConfig(EmbeddingConfig):
    """Envelope spectra of frequency bands: how often the power of each band rises and falls."""

    _target_: str = "vibench.embeddings.envelope.Envelope"
    bands: int = setting("frequency bands, overlapping by half, which is N", low=1)
    max_hz: float = setting("highest modulation frequency in Hz", above=0)
    bins: int = setting("modulation frequencies in a token, equally spaced", low=2)

    def n_tokens(self, window: int) -> int:
        return self.bands

    def complaints(self, *, window: int) -> Iterator[str]:
        if window // 2 < self.bands + 1 > 1:
            yield (
                f"embedding.bands={self.bands} is more than the spectrum of data.window={window} can be cut into; "
                f"use embedding.bands<={max(1, window // 2 - 1)} or a longer window"
            )


@dataclass(kw_only=True, slots=True)
class TCNEncoderConfig(EmbeddingConfig):
    """Dilated convolutions at the full rate, then one token of each stretch (after Bai et al. 2018,
    https://arxiv.org/abs/1803.01271)."""

    _target_: str = "vibench.embeddings.tcn.TCNEncoder"
    channels: list[int] = setting("features after each convolution; the dilation doubles from one to the next", low=1)
    kernel: int = setting("samples under a convolution, odd", low=1)
    dropout: float = setting("dropout probability after each convolution", low=0, high=0.99)
    stride: int = setting("samples that become one token; divides data.window", low=1)

    def n_tokens(self, window: int) -> int:
        return window // self.stride

    def complaints(self, *, window: int) -> Iterator[str]:
        if not self.channels:
            yield "embedding.channels is empty, so there is no convolution; use e.g. [64,128,256,512]"
        if len(self.channels) > 20:
            yield (
                f"embedding.channels names {len(self.channels)} convolutions, of which the last would reach 2 ** "
                f"{len(self.channels) - 1} samples from tap to tap; use 1 to 20, e.g. [64,128,256,512]"
            )
        if self.kernel % 2 == 0:
            yield (
                f"embedding.kernel={self.kernel} is even, so tokens would shift by half a sample; "
                f"use embedding.kernel={self.kernel + 1}"
            )
        if self.stride > 0 and window % self.stride:
            near = next(n for n in range(min(self.stride, window), 0, -1) if window % n == 0)
            yield (
                f"embedding.stride={self.stride} does not divide data.window={window}, so the last samples would never "
                f"be seen; use embedding.stride={near} or a window of {max(1, window // self.stride) * self.stride}"
            )


SCHEMAS = {
    "patch": PatchConfig,
    "pointwise": PointwiseConfig,
    "hse": HSEConfig,
    "envelope": EnvelopeConfig,
    "tcn": TCNEncoderConfig,
}
