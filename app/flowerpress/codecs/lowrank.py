"""Low rank: a matrix as the few directions in which it changed, in whole numbers.

PowerSGD (Vogels et al. 2019, arXiv:1905.13727) sends two thin factors of floats. Here the singular value decomposition
gives them, randomised for large matrices (Halko et al. 2011, arXiv:0909.4061), and one step quantises all. Each
direction is scaled to its singular value, so that the same step errs by the same energy in each: reverse water-filling,
in which directions below the step vanish. The second factor is fitted to what is left of the first one.

The factors are integers, and sums of products of integers are exact in float64 in whatever order: every device decodes
the same bits. ::

    x (m, n) ──► u s v ──► a (m, k), b (k, n) integers     x ≈ step² · Σ a_k b_k / 2**e_k,  2**e_k ≈ s_k
"""

from collections import OrderedDict
from dataclasses import dataclass
from math import floor, frexp, isfinite, log2, prod
from sys import float_info
from threading import Lock
from typing import ClassVar

import numpy as np
import xxhash

from flowerpress.codecs import both
from flowerpress.codecs.base import ArrayToArray, Spec, bounds, check_float, check_some, is_number
from flowerpress.codecs.blas import one_thread
from flowerpress.codecs.both import Both
from flowerpress.codecs.dtypes import ArrayLike, Host, all_finite, cast, holds, numpy_dtype, to_host
from flowerpress.codecs.levels import matrix
from flowerpress.codecs.quantize import DEAD_ZONE
from flowerpress.codecs.raw import as_bytes
from flowerpress.errors import ChunkError, ConfigError

_OVER = 8  # directions that the randomised decomposition looks for beyond its rank
_EXACT = 2.0**53
_MOST = 1 << 30
_MARGIN = 1 + 1e-9  # more than what rounding adds to a sum of products
_MOST_REMEMBERED = 64 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class LowRank(ArrayToArray):
    """Integer factors of each matrix (first axis by all others), int32 and flat, to be entropy-coded.

    Arrays that are no larger than their factors would be, vectors above all, are quantised with the same step instead.

    Parameters
    ----------
    rank : int
        1 to 16: the most directions of a matrix.
    step : float
        The step in which factors are quantised. A direction k with singular value s errs by about ``step**2 / 12``
        times the lengths of both sides, and vanishes where it holds less.
    """

    rank: int = 16
    step: float = 1.0
    name: ClassVar[str] = "lowrank"

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 1 <= self.rank <= 16:
            raise ConfigError(f"lowrank: expected a rank from 1 to 16, found {self.rank!r}")
        if not (is_number(self.step) and isfinite(self.step) and self.step > 0):
            raise ConfigError(f"lowrank: expected a step above 0, found {self.step!r}")

    @property
    def lossless(self) -> bool:
        return False

    @property
    def elementwise(self) -> bool:
        return False

    @property
    def joinable(self) -> bool:
        return True

    def refuses(self, spec: Spec) -> str:
        return check_float(spec) or check_some(spec)

    def after(self, spec: Spec) -> Spec:
        members = tuple(member for shape in spec.parts for member in self._members(shape))
        if len(members) == 1:
            return Spec(spec.key, "int32", spec.shape)
        return Spec(spec.key, "int32", (sum(map(prod, members)),), members=members)

    def encode(self, x: ArrayLike, spec: Spec) -> ArrayLike:
        flat: Both = cast(x, "float64" if spec.dtype == "float64" else "float32").reshape(-1)
        if not all_finite(flat):
            raise ConfigError(f"array {spec.key!r}: lowrank needs finite values")
        parts = zip(bounds(spec.parts), map(matrix, spec.parts), strict=True)
        found = [self._factors(flat[start:stop].reshape(shape), spec.key) for (start, stop), shape in parts]
        y: Host = np.concatenate(found).reshape(self.after(spec).shape)
        if not holds(spec.dtype, max(map(self._largest, found, spec.parts))):
            self._check(y, spec)
        return y

    def decode(self, y: Host, spec: Spec) -> Host:
        sizes = [sum(map(prod, self._members(shape))) for shape in spec.parts]
        pieces = np.split(y.reshape(-1), np.cumsum(sizes)[:-1])
        with np.errstate(over="ignore"):
            found = [self._product(piece, shape, spec.key) for piece, shape in zip(pieces, spec.parts, strict=True)]
            x: Host = np.concatenate(found).astype(numpy_dtype(spec.dtype))
        if not all_finite(x):
            raise ChunkError(f"array {spec.key!r}: factors whose product {spec.dtype} does not hold")
        return x.reshape(spec.shape)

    def _factors(self, wide: Both, key: str) -> Host:
        """Return the integers that stand for a matrix, flat."""
        rank = self._rank(tuple(wide.shape))
        if not rank:
            with np.errstate(over="ignore"):
                return self._round(to_host(cast(wide, "float64")) / self.step, key).ravel()
        most = np.finfo(str(wide.dtype).removeprefix("torch.")).maxexp - 1
        # Squares of extreme values would overflow, and so may the step, where values so small vanish with any step.
        unit = 2.0 ** min(frexp(max(-float(wide.min()), float(wide.max())))[1], most)
        wide, step = wide / unit, min(self.step / unit, float_info.max)
        left, values = _remembered.directions(wide, rank)
        exponents = np.rint(np.log2(np.maximum(values, 1e-300)))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            a = self._round(left * np.sqrt(values * np.exp2(exponents)) / step, key)
        used = np.flatnonzero(a.any(0))
        fitted = np.zeros((rank, wide.shape[1]))
        if used.size:
            scaled = a[:, used] * (step / np.exp2(exponents[used]))
            with one_thread():
                seen = to_host(both.place(wide, scaled.T.astype(str(wide.dtype).removeprefix("torch."))) @ wide)
                fitted[used] = np.linalg.lstsq(scaled.T @ scaled, seen.astype(np.float64) / step)[0]
        b = self._round(fitted, key)
        relative = np.where(a.any(0) & b.any(1), exponents - floor(log2(step)), 0).astype(np.int32)
        if not _is_exact(relative[used], a.T[used], b[used]):
            raise ConfigError(f"array {key!r}: the step of {self} is too small for values like these")
        return np.concatenate([relative, a.T.ravel(), b.ravel()])

    def _product(self, y: Host, shape: tuple[int, ...], key: str) -> Host:
        """Return the values, flat and in float64, that integers stand for."""
        rank, (rows, columns) = self._rank(shape), matrix(shape)
        if not rank:
            return y * self.step
        relative, a, b = np.split(y, [rank, rank * (1 + rows)])
        a, b = a.reshape(rank, rows), b.reshape(rank, columns)
        used = np.flatnonzero(a.any(1) & b.any(1))
        if not _is_exact(relative[used], a[used], b[used]):
            raise ChunkError(f"array {key!r}: factors whose product no float64 holds exactly")
        highest = int(relative[used].max(initial=0))
        scaled = np.ldexp(a[used].astype(np.float64), (highest - relative[used])[:, None])
        with one_thread():
            whole = scaled.T @ b[used].astype(np.float64)
        return np.asarray(whole * (self.step * np.ldexp(self.step, -(highest + floor(log2(self.step)))))).ravel()

    def _largest(self, y: Host, shape: tuple[int, ...]) -> float:
        """Return a magnitude that no value reaches of those that integers stand for."""
        rank, (rows, _) = self._rank(shape), matrix(shape)
        if not rank:
            return float(np.abs(y.astype(np.float64)).max()) * self.step * _MARGIN
        relative, a, b = np.split(y, [rank, rank * (1 + rows)])
        largest = [np.abs(factor.reshape(rank, -1)).max(1).astype(np.float64) for factor in (a, b)]
        with np.errstate(over="ignore"):
            whole = np.ldexp(largest[0] * largest[1], -relative).sum() * np.ldexp(self.step, -floor(log2(self.step)))
            return float(whole * self.step * _MARGIN)

    def _check(self, y: Host, spec: Spec) -> None:
        """Refuse integers that `decode` would refuse."""
        try:
            self.decode(y, spec)
        except ChunkError as error:
            raise ConfigError(f"{error}; use a smaller step than that of {self}, or code it losslessly") from error

    def _round(self, x: Host, key: str) -> Host:
        found = np.floor(np.abs(x) + (1 - DEAD_ZONE)) * np.sign(x)
        if not np.abs(found).max(initial=0) < _MOST:
            raise ConfigError(f"array {key!r}: the step of {self} is too small for values like these")
        return found.astype(np.int32)

    def _members(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of what is coded of an array: exponents and two factors, or its values."""
        rank, (rows, columns) = self._rank(shape), matrix(shape)
        return ((rank,), (rank, rows), (rank, columns)) if rank else (shape,)

    def _rank(self, shape: tuple[int, ...]) -> int:
        """Return how many directions are coded, or 0 where the values themselves are fewer numbers."""
        rows, columns = matrix(shape)
        rank = min(self.rank, rows, columns)
        return rank if rank * (1 + rows + columns) < rows * columns else 0


class _Remembered:
    """The directions of the matrices that were decomposed last: plans try many steps on the same ones."""

    def __init__(self) -> None:
        self.lock, self.found, self.nbytes = Lock(), OrderedDict[tuple[object, ...], tuple[Host, Host]](), 0

    def directions(self, x: Both, rank: int) -> tuple[Host, Host]:
        """Return what `_directions` does, on the host, in float64."""
        if not isinstance(x, np.ndarray):  # on a device a digest takes longer than what it saves
            return self._decomposed(x, rank)
        key = xxhash.xxh3_128_digest(as_bytes(x)), x.shape, x.dtype, rank
        with self.lock:
            known = self.found.get(key)
        if known is None:
            known = self._decomposed(x, rank)
            with self.lock:
                self.nbytes += 0 if key in self.found else _nbytes(known)
                self.found[key] = known
                while self.nbytes > _MOST_REMEMBERED:
                    self.nbytes -= _nbytes(self.found.popitem(last=False)[1])
        return known

    def _decomposed(self, x: Both, rank: int) -> tuple[Host, Host]:
        with one_thread():
            left, values = (to_host(y).astype(np.float64) for y in _directions(x, rank))
        return left, values


def _nbytes(arrays: tuple[Host, ...]) -> int:
    return sum(x.nbytes for x in arrays)


_remembered = _Remembered()


def _directions(x: Both, rank: int) -> tuple[Both, Both]:
    """Return the first left singular vectors of a matrix, as columns, and their singular values."""
    linalg = both.linalg(x)
    if min(x.shape) <= 4 * (rank + _OVER):
        u, s, _ = linalg.svd(x, full_matrices=False)
        return u[:, :rank], s[:rank]
    start = np.random.default_rng(0).standard_normal((x.shape[1], rank + _OVER), np.float32)
    basis, _ = linalg.qr(x @ both.place(x, start.astype(str(x.dtype).removeprefix("torch."))))
    for _ in range(2):
        basis, _ = linalg.qr(x.T @ basis)
        basis, _ = linalg.qr(x @ basis)
    u, s, _ = linalg.svd(basis.T @ x, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank]


def _is_exact(exponents: Host, a: Host, b: Host) -> bool:
    """Tell whether every sum of products in a decoded matrix is a whole number that float64 holds."""
    if not exponents.size:
        return True
    shifts = exponents.max() - exponents.astype(np.float64)
    largest = (np.abs(factor.astype(np.float64)).max(1) for factor in (a, b))
    with np.errstate(over="ignore"):
        bound = float((np.exp2(shifts) * next(largest) * next(largest)).sum())
    return bound < _EXACT and np.abs(exponents.astype(np.int64)).max() < 1024
