"""Layers of learned codecs: convolutions that halve and double, divisive normalisation, bounds with a gradient.

Names of parameters and buffers are those of CompressAI.
"""

import torch
from torch import nn
from torch.nn import functional

_PEDESTAL = 2.0**-36  # keeps the gradient of a square root finite


def conv(channels: int, out: int, kernel_size: int = 5, stride: int = 2) -> nn.Conv2d:
    """Return a convolution from (b, channels, h, w) to (b, out, ceil(h / stride), ceil(w / stride))."""
    return nn.Conv2d(channels, out, kernel_size, stride, kernel_size // 2)


def deconv(channels: int, out: int, kernel_size: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """Return a transposed convolution from (b, channels, h, w) to (b, out, stride h, stride w)."""
    return nn.ConvTranspose2d(channels, out, kernel_size, stride, kernel_size // 2, stride - 1)


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, bound = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * ((x >= bound) | (gradient < 0)), None


class LowerBound(nn.Module):
    """``max(x, bound)``, whose gradient passes where it would lift ``x`` to the bound, too."""

    bound: torch.Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([float(bound)]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` where it is above the bound, and the bound elsewhere."""
        return _Bounded.apply(x, self.bound)  # type: ignore[no-any-return, no-untyped-call]


class NonNegative(nn.Module):
    """A parameter of at least ``minimum``, held as its square root."""

    pedestal: torch.Tensor

    def __init__(self, minimum: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([_PEDESTAL]))
        self.lower_bound = LowerBound((minimum + _PEDESTAL) ** 0.5)

    def init(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is held of the value ``x``."""
        return torch.sqrt(torch.max(x + self.pedestal, self.pedestal))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the value of what is held."""
        return self.lower_bound(x) ** 2 - self.pedestal  # type: ignore[no-any-return]


class GDN(nn.Module):
    """Generalised divisive normalisation (Ballé et al. 2016, arXiv:1511.06281) of feature maps (b, channels, h, w).

    Each value is divided by ``sqrt(beta_i + sum_j gamma_ij x_j²)``, or multiplied by it if ``inverse``.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_reparam, self.gamma_reparam = NonNegative(1e-6), NonNegative()
        self.beta = nn.Parameter(self.beta_reparam.init(torch.ones(channels)))
        self.gamma = nn.Parameter(self.gamma_reparam.init(0.1 * torch.eye(channels)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised feature maps."""
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)
        norm = functional.conv2d(x**2, gamma[:, :, None, None], beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


class CheckerboardConv(nn.Conv2d):
    """A convolution that sees, of the neighbourhood of each position, those of the other colour of a checkerboard.

    He et al. 2021, arXiv:2103.15306. The mask is a buffer: 1 where row and column offset add up to an odd number.
    """

    mask: torch.Tensor

    def __init__(self, channels: int, out: int, kernel_size: int = 5) -> None:
        super().__init__(channels, out, kernel_size, padding=kernel_size // 2)
        offsets = torch.arange(kernel_size)
        odd = (offsets[:, None] + offsets[None] + 2 * (kernel_size // 2)) % 2
        self.register_buffer("mask", odd.expand_as(self.weight).to(self.weight.dtype).clone())

    def effective_weight(self) -> torch.Tensor:
        """Return the weights that count."""
        return self.weight * self.mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (b, out, h, w) for feature maps of shape (b, channels, h, w)."""
        return functional.conv2d(x, self.effective_weight(), self.bias, padding=self.padding)


def to_rounded(x: torch.Tensor) -> torch.Tensor:
    """Round to whole numbers; the gradient is that of ``x`` (straight-through)."""
    return x + (x.round() - x).detach()
