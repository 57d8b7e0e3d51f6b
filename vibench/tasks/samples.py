"""A head that gives samples of a signal.

Shapes: B windows, G sequences per window, C channels, N tokens, D model width, K stretches of P samples.
"""

from torch import Tensor, nn

from vibench.tasks.task import Sizes


class Samples(nn.Module):
    """Stretches of samples, each mixed from all tokens of the window, then read from its D features.

    N x K + D x P parameters: linear in the tokens and in the width. (A dense head of the flattened tokens held
    3.2 billion in the public project.)

    Args:
        sizes: of the model and the data.
        stretches: K.
        length: P.
    """

    def __init__(self, sizes: Sizes, stretches: int, length: int) -> None:
        super().__init__()
        self.outputs = 1 if sizes.channel_independent else sizes.n_channels
        self.mix = nn.Linear(sizes.n_tokens, stretches)
        self.read = nn.Linear(sizes.d_model, length * self.outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, G, N, D) -> (B, C, K P)."""
        samples = self.read(self.mix(tokens.transpose(2, 3)).transpose(2, 3))  # (B, G, K, P * C/G)
        b, g, k, _ = samples.shape
        return samples.view(b, g, k, -1, self.outputs).permute(0, 1, 4, 2, 3).reshape(b, g * self.outputs, -1)
