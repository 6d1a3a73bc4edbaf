"""The smallest of several pipelines, array by array, found by encoding with each.

It never looks at the time, so that equal input gives equal bytes.
"""

import logging
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from flowerpress.codecs.base import Codec, Pipeline, Spec
from flowerpress.codecs.plan import Plan, Record, settle_each

_log = logging.getLogger("flowerpress")


@dataclass(frozen=True, kw_only=True)
class Auto(Plan):
    """The pipeline that makes the fewest bytes of an array; each choice is logged, at level INFO.

    Parameters
    ----------
    pipelines : tuple of Pipeline
        What to choose from; in text without a name. Those that cannot take an array are left out. By default the
        lossless ones: ``zstd``, ``intdelta | zstd``, ``intdelta | entropy``, ``nonzero | zstd``, ``zfp`` and ``raw``.
    """

    pipelines: tuple[Pipeline, ...] = ()
    name: ClassVar[str] = "auto"
    each: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "pipelines", tuple(self.pipelines))

    @property
    def choices(self) -> tuple[Pipeline, ...]:
        return self.pipelines or _lossless()

    def refuses(self, spec: Spec) -> str:
        reasons = [pipeline.refuses(spec) for pipeline in self.choices]
        return reasons[0] if all(reasons) else ""

    def settle(self, record: Record) -> Codec:
        settled = settle_each([pipeline for pipeline in self.choices if record.takes(pipeline)], record)
        sizes = [record.nbytes(pipeline) for pipeline in settled]
        best = min(range(len(sizes)), key=lambda i: sizes[i])
        _log.info("auto: %s: %s, %d of %d bytes", record.name, settled[best], sizes[best], record.raw_bytes)
        return settled[best]


@cache
def _lossless() -> tuple[Pipeline, ...]:
    from flowerpress.codecs.text import parse  # which looks codecs up, this one too

    return tuple(map(parse, ("zstd", "intdelta | zstd", "intdelta | entropy", "nonzero | zstd", "zfp", "raw")))
