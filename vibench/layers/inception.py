"""Convolutions of several sizes over a plane, averaged.

Shapes: n planes, I and O features, R rows and P columns of a plane, K kernels.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from vibench.layers.precision import forward_dtype


class Inception(nn.Module):
    """Mean of K convolutions of 1, 3, 5, ... taps a side (the parameter-efficient inception block of Wu et al. 2023,
    https://arxiv.org/abs/2210.02186).

    They are one convolution with the mean of their kernels, each zero-padded to the largest: the same function of the
    same parameters, 121 taps instead of 286 for K = 6, and one result in memory instead of six.

    Args:
        d_in: I.
        d_out: O.
        num_kernels: K.
    """

    def __init__(self, d_in: int, d_out: int, num_kernels: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(nn.Conv2d(d_in, d_out, 2 * k + 1) for k in range(num_kernels))
        for conv in self.kernels:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def merged(self) -> tuple[Tensor, Tensor]:
        """The one kernel (O, I, 2K - 1, 2K - 1) and its bias (O,), in the arithmetic of the forward pass."""
        weight, bias = self.kernels[0].weight, self.kernels[0].bias
        for conv in self.kernels[1:]:
            weight, bias = F.pad(weight, (1, 1, 1, 1)) + conv.weight, bias + conv.bias
        dtype = forward_dtype(weight)
        return (weight / len(self.kernels)).to(dtype), (bias / len(self.kernels)).to(dtype)


def convolve(planes: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """(n, I, R, P) -> (n, O, R, P), zeros around; without the taps that no place of the plane can reach."""
    edge = kernel.shape[-1] // 2
    rows, columns = (min(edge, size - 1) for size in planes.shape[-2:])
    reached = kernel[:, :, edge - rows : edge + rows + 1, edge - columns : edge + columns + 1]
    return F.conv2d(planes, reached, bias, padding=(rows, columns))
