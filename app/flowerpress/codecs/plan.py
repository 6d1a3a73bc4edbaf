"""Plans: what is decided over a whole record, such as one step for all arrays, before any array is encoded.

A plan stands in a pipeline like a codec. Packing shows it the record, and it says what takes its place::

    delta | budget(ratio=100)  ──►  delta | quantize(step=0.0123, zone=0.6) | entropy

Bytes name what took its place, never a plan: a reader needs none.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, NoReturn, Protocol

from flowerpress.codecs.base import ArrayToBytes, Codec, Pipeline, Spec
from flowerpress.codecs.dtypes import ArrayLike, Buffer
from flowerpress.errors import ChunkError, ConfigError


class Record(Protocol):
    """The arrays that a plan decides for, as the stages before it leave them."""

    @property
    def size(self) -> int:
        """Values in the bundle, with those of arrays that must stay exact."""
        ...

    @property
    def raw_bytes(self) -> int:
        """Bytes that those values take in memory."""
        ...

    @property
    def name(self) -> str:
        """What to call it in a log."""
        ...

    def arrays(self) -> Iterator[ArrayLike]:
        """Return the arrays one by one."""
        ...

    def at(self, before: tuple[Codec, ...], behind: tuple[Codec, ...]) -> "Record":
        """Return the record as a stage sees it that comes after ``before`` and ahead of ``behind``."""
        ...

    def takes(self, codec: Codec) -> bool:
        """Tell whether ``codec`` can take the arrays in the place of the plan."""
        ...

    def nbytes(self, codec: Codec) -> int:
        """Encode with ``codec``, which may be a pipeline, in the place of the plan; return the bytes.

        Those of the whole bundle, with the arrays that must stay exact; of its payload alone for a single array.
        """
        ...

    def squared_error(self, codec: Codec, unit: float = 1.0) -> float:
        """Return the sum of the squared errors over ``unit`` with ``codec`` in the place of the plan."""
        ...


class Plan(ArrayToBytes):
    """A last stage that `settle` replaces by one of its pipelines, with their parameters filled in."""

    pipelines: tuple[Pipeline, ...]
    each: ClassVar[bool] = False  # decides for each array by itself, not for the record

    @property
    def choices(self) -> tuple[Pipeline, ...]:
        """What may take its place."""
        return self.pipelines

    @property
    def lossless(self) -> bool:
        return all(pipeline.lossless for pipeline in self.choices)

    @property
    def reproducible(self) -> bool:
        return all(pipeline.reproducible for pipeline in self.choices)

    @property
    def settled(self) -> bool:
        return False

    def encode(self, x: ArrayLike, spec: Spec) -> NoReturn:
        """Refuse: a plan cannot encode."""
        raise ConfigError(f"array {spec.key!r}: {self} is decided over a whole record; use pack, or LatentRecord")

    def decode(self, y: Buffer, spec: Spec) -> NoReturn:
        """Refuse: no bytes are a plan's."""
        raise ChunkError(f"array {spec.key!r}: no bytes are coded with {self.name}, which only plans")


def settle_each(pipelines: Sequence[Pipeline], record: Record) -> list[Pipeline]:
    """Settle the pipelines of which a plan chooses one; those that cannot be met are left out, unless none can."""
    settled, errors = list[Pipeline](), list[ConfigError]()
    for pipeline in pipelines:
        try:
            settled.append(pipeline.settle(record))
        except ConfigError as error:
            errors.append(error)
    if not settled:
        raise errors[0]
    return settled
