"""Networks as entropy coding needs them: the same result on every machine, in whatever order it adds.

A twin of a network has the same weights, rounded to a grid of powers of two, in float64. The inputs of its convolutions
are rounded to multiples of 2⁻¹⁶ and limited, so that every sum of products, whole or in part, is a multiple of the grid
below 2⁵³ of its units: float64 holds all of them exactly. Batches, threads, devices and libraries make no difference
then; with float32 they do, and one bit of difference in a scale makes noise of all that is decoded behind it. ::

    x ──► multiple of 2⁻¹⁶, at most a limit ──► Σ w x, exact ──► multiple of 2⁻¹⁶ ──► ReLU ──► …

Layers that are not convolutions stay float64. What they differ by between machines (1e-16 of a value) is rounded away
by the grid behind them but for about one value in 10¹⁰; the checksum of a stream notices that one.
"""

import copy
from math import frexp
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional

from flowerpress.latent_codecs.layers import CheckerboardConv

_FRACTION = 16  # bits of an activation behind the point
_WEIGHT = 16  # bits of the largest weight of a layer
_EXACT = 53  # bits in which float64 is exact
_COLUMNS = 1 << 25  # bytes of patches that are held at once

_twins: WeakKeyDictionary[nn.Module, tuple[object, nn.Module]] = WeakKeyDictionary()


def on_grid(x: torch.Tensor, bits: int = _FRACTION) -> torch.Tensor:
    """Round to multiples of ``2**-bits``, ties to even, in float64."""
    unit = 2.0**bits
    return (x.double() * unit).round_() / unit


def twin(module: nn.Module) -> nn.Module:
    """Return the twin of a network, made when its weights have changed since the last time.

    It takes and gives float64 tensors on the device of the weights. The weights' values are read when it is made, and
    again when a tensor of them was replaced or changed in place.
    """
    tensors = (*module.parameters(), *module.buffers())
    state = tuple((x.data_ptr(), x.device, 0 if x.is_inference() else x._version) for x in tensors)
    known = _twins.get(module)
    if known is None or known[0] != state:
        with torch.no_grad():
            _twins[module] = known = state, _made(module)
    return known[1]


def forget(module: nn.Module) -> None:
    """Make the twins of a network, and of all in it, anew when they are needed next."""
    for part in module.modules():
        _twins.pop(part, None)


def _made(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and _is_plain(module):
        return _ExactConv(module)
    made = copy.copy(module)  # parameters and children are replaced, not changed
    made._parameters = {name: _frozen(x) for name, x in module._parameters.items()}
    made._buffers = {name: _double(x) for name, x in module._buffers.items()}
    made._modules = {name: child and _made(child) for name, child in module._modules.items()}
    return made


def _frozen(x: nn.Parameter | None) -> nn.Parameter | None:
    return None if x is None else nn.Parameter(x.detach().double(), requires_grad=False)


def _is_plain(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Tell whether a convolution has nothing that ours has not."""
    known = type(conv) in (nn.Conv2d, CheckerboardConv, nn.ConvTranspose2d) and isinstance(conv.padding, tuple)
    return known and conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"


def _double(x: torch.Tensor | None) -> torch.Tensor | None:
    return x.double() if x is not None and x.is_floating_point() else x


class _ExactConv(nn.Module):
    """A convolution, or a transposed one, all of whose sums are exact."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = (conv.effective_weight() if isinstance(conv, CheckerboardConv) else conv.weight).detach().double()
        bits = _WEIGHT - frexp(float(weight.abs().max()))[1]
        weight = on_grid(weight, bits)
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.kernel, self.stride = _pair(conv.kernel_size), _pair(conv.stride)
        self.padding, self.extra = _pair(conv.padding), _pair(conv.output_padding)
        # as a matrix: from patches to outputs, or from inputs to patches
        self.matrix = weight.flatten(1).T.contiguous() if self.transposed else weight.flatten(1)
        bias = torch.zeros(conv.out_channels, device=weight.device) if conv.bias is None else conv.bias.detach()
        self.bias = on_grid(bias).view(-1, 1, 1)
        sums = weight.abs().sum((0, 2, 3) if self.transposed else (1, 2, 3))
        self.limit = 2.0 ** (_EXACT - bits - _FRACTION - frexp(float(sums.max()))[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (b, out, h, w) for feature maps of shape (b, channels, h, w), float64."""
        x = on_grid(x).clamp_(-self.limit, self.limit)
        return on_grid((self._spread(x) if self.transposed else self._gathered(x)) + self.bias)

    def _gathered(self, x: torch.Tensor) -> torch.Tensor:
        """Return sums over the patches of each output, a few rows of outputs at a time."""
        (kh, kw), (sh, sw), (ph, pw) = self.kernel, self.stride, self.padding
        x = functional.pad(x, (pw, pw, ph, ph))
        height, width = (x.shape[2] - kh) // sh + 1, (x.shape[3] - kw) // sw + 1
        rows = max(1, _COLUMNS // (8 * len(x) * x.shape[1] * kh * kw * width))
        strips = [x[:, :, sh * row : sh * (min(row + rows, height) - 1) + kh] for row in range(0, height, rows)]
        sums = [self._sums(functional.unfold(strip, self.kernel, stride=self.stride)) for strip in strips]
        return torch.cat(sums, 2).reshape(len(x), -1, height, width)

    def _spread(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the patches of all inputs add up to."""
        sides = zip(x.shape[2:], self.kernel, self.stride, self.padding, self.extra, strict=True)
        size = tuple((n - 1) * s - 2 * p + k + e for n, k, s, p, e in sides)
        patches = self._sums(x.flatten(2))
        return functional.fold(patches, size, self.kernel, padding=self.padding, stride=self.stride)

    def _sums(self, columns: torch.Tensor) -> torch.Tensor:
        """Return the matrix times each of (b, n, columns), in the order that BLAS is fastest in."""
        return functional.linear(columns.mT, self.matrix).mT


def _pair(sides: object) -> tuple[int, int]:
    """Return what torch has for two sides as two integers."""
    height, width = sides  # type: ignore[misc]
    return int(height), int(width)  # type: ignore[has-type]
