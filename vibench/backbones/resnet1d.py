"""Residual network of convolutions over the tokens.

Shapes: S sequences, N tokens, D model width.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class ResNet1D(nn.Module):
    """Residual blocks of convolutions of falling length (Wang et al. 2017, https://arxiv.org/abs/1611.06455).

    Layer normalisation of each token instead of batch normalisation: only then is a batch cut into micro-batches the
    same batch. Odd kernels instead of the published 8, 5, 3, so that no token is shifted by half a token.

    Args:
        n_tokens: N; taken for the contract, convolutions do not depend on it.
        d_model: D, features of every convolution.
        e_layers: residual blocks.
        kernels: tokens under the convolutions of a block, odd.
    """

    def __init__(self, *, n_tokens: int, d_model: int, e_layers: int, kernels: list[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(d_model, kernels) for _ in range(e_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class ResidualBlock(nn.Module):
    """Convolutions, each normalised, with a rectifier between them and after the sum with the input.

    Args:
        d_model: D.
        kernels: tokens under each convolution, odd.
    """

    def __init__(self, d_model: int, kernels: list[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(d_model, d_model, kernel, padding=kernel // 2, bias=False) for kernel in kernels
        )
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in kernels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(S, N, D) -> (S, N, D)."""
        inner = tokens
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            inner = F.relu(inner) if number else inner
            inner = norm(convolution(inner.transpose(1, 2)).transpose(1, 2))
        return F.relu(tokens + inner)
