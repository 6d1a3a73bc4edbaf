"""Codecs on a checkpoint of one's own: what each makes of it, how long it takes, and which to send over which link.

::

    checkpoint, base ──► Sample ──► Measured, for each candidate ──► recommended, for each link and each need

A candidate is the text of a pipeline or policy. A need says what may be lost: nothing (``exact``); so much relative
error (``within``); or, of a difference to a base, whatever error feedback makes up for in later rounds (``feedback``).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from flowerpress.bench.sample import Sample
from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.pack import pack
from flowerpress.codecs.dtypes import Host, dtype_name, is_float
from flowerpress.codecs.policy import Policy

LINKS = {"10 Mbit/s": 1e7, "100 Mbit/s": 1e8, "1 Gbit/s": 1e9, "10 Gbit/s": 1e10}
EXACT, WITHIN, FEEDBACK = "exact", "within", "feedback"
_BLOCKS = ("quantize(bits=8, block=64) | bitpack", "quantize(bits=4, block=64) | bitpack")
_OF_WEIGHTS = (
    "raw",
    "zstd",
    "cast(dtype='bfloat16') | zstd",
    *_BLOCKS,
    "quantize(bits=8, block=64) | entropy",
    "budget(error={error})",
)
_OF_DIFFERENCES = (
    "raw",
    "zstd",
    "lossless",
    "delta | cast(dtype='bfloat16') | zstd",
    *(f"delta | {blocks}" for blocks in _BLOCKS),
    "delta | quantize(bits=2, block=256) | bitpack",
    "delta | quantize(bits=2, block=256) | entropy",
    "safe",
    "delta | budget(error={error})",
    "delta | budget(bits=0.1)",
    "partial",
    "small",
)
_ALIKE = 1.05  # times as long is no reason to lose more
_QUICK, _TURNS = 2.0, 9  # what takes fewer seconds is measured so often; the first time is to warm up


@dataclass(frozen=True)
class Measured:
    """A candidate on a checkpoint: bytes, relative L2 error, and seconds at either end, on all cores.

    The error is of the weights, or of their differences to the base, over all floating-point arrays together.
    """

    pipeline: str
    lossless: bool
    raw_bytes: int
    nbytes: int
    error: float
    encode: float
    decode: float

    def seconds(self, bits_per_second: float) -> float:
        """Return how long it takes to encode, send and decode, one after the other."""
        return self.encode + 8 * self.nbytes / bits_per_second + self.decode

    def meets(self, need: str, error: float) -> bool:
        """Tell whether it loses no more than a need allows."""
        return self.lossless or need == FEEDBACK or (need == WITHIN and self.error <= error)


def candidates(error: float, others: Sequence[str] = (), *, differences: bool) -> list[str]:
    """Return the pipelines that are tried, ``others`` last; those that aim at an error aim at ``error``.

    Raises ConfigError for a text that is no pipeline.
    """
    ours = [text.format(error=error) for text in (_OF_DIFFERENCES if differences else _OF_WEIGHTS)]
    for text in (*ours, *others):
        Policy.parse(text)
    return list(dict.fromkeys((*ours, *others)))


def measured(pipeline: str, sample: Sample) -> Measured:
    """Encode and decode a sample; bytes and seconds are scaled to the checkpoint that it is of.

    Raises ConfigError for a pipeline that cannot take these arrays.
    """
    lossless = Policy.parse(pipeline).lossless
    encode: list[float] = []
    decode: list[float] = []
    while len(encode) < _TURNS and sum(encode) + sum(decode) < _QUICK:
        started = time.perf_counter()
        packed = pack(dict(sample.arrays), pipeline, bases=sample.bases, by_schema=True)
        sent = time.perf_counter()
        decoded = Bundle(packed, bases=sample.bases).read_all()
        encode.append(sent - started)
        decode.append(time.perf_counter() - sent)
    scale = sample.of / sample.nbytes
    return Measured(
        pipeline,
        lossless,
        raw_bytes=sample.of,
        nbytes=round(scale * len(packed)),
        error=0.0 if lossless else _error(sample, decoded),
        encode=scale * median(encode[1:] or encode),
        decode=scale * median(decode[1:] or decode),
    )


def recommended(found: Sequence[Measured], error: float, *, differences: bool) -> dict[str, dict[str, Measured]]:
    """Return, by link and need, the quickest; of those that take at most 5% longer, the one that loses least.

    A need that nothing meets has no entry.
    """
    needs = (EXACT, WITHIN, FEEDBACK) if differences else (EXACT, WITHIN)
    return {
        link: {
            need: _quickest(fitting, speed)
            for need in needs
            if (fitting := [one for one in found if one.meets(need, error)])
        }
        for link, speed in LINKS.items()
    }


def _quickest(found: Sequence[Measured], speed: float) -> Measured:
    least = min(one.seconds(speed) for one in found)
    alike = [one for one in found if one.seconds(speed) <= _ALIKE * least]
    return min(alike, key=lambda one: (one.error, one.seconds(speed)))


def _error(sample: Sample, decoded: dict[str, Host]) -> float:
    """Return the relative L2 error; what is not finite, here or in the base, is always coded exactly and left out."""
    lost = given = 0.0
    for key, x in sample.arrays.items():
        if is_float(dtype_name(x)):
            base = sample.bases.get(key, np.zeros((), x.dtype))
            finite = _finite(x) & _finite(base)
            lost = math.hypot(lost, _distance(x, decoded[key], finite))
            given = math.hypot(given, _distance(x, base, finite))
    return lost / given if given else float(lost != 0)


def _finite(x: Host) -> Host:
    return np.isfinite(x.astype(np.float64))


def _distance(x: Host, y: Host, where: Host) -> float:
    """Return the L2 norm of a difference, whose squares may be larger than any float."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(x.astype(np.float64) - y.astype(np.float64))[where]
        largest = float(difference.max(initial=0))
        return largest * float(np.linalg.norm(difference / largest)) if largest else 0.0
