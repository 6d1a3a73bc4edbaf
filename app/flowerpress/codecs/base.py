"""The one idea: a Codec turns an array into bytes and back, given what both ends already know.

A `Pipeline` of codecs is a codec. What both ends know of one array, besides the bytes, is its `Spec`. ::

    array ──► ArrayToArray ──► … ──► ArrayToBytes ──► BytesToBytes ──► … ──► bytes
              (delta, cast)          (planes, zfp)    (zstd)

Codecs are frozen values: equal by configuration, printed as the text that builds them, and without any state.
"""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from math import prod
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

import numpy as np

from flowerpress.codecs.dtypes import (
    ArrayLike,
    Buffer,
    Host,
    dtype_name,
    is_float,
    is_torch,
    local,
    numpy_dtype,
    to_host,
    to_tensor,
)
from flowerpress.errors import ChunkError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowerpress.codecs.plan import Record

Literal: TypeAlias = "int | float | str | bool | list[Literal] | None"
Config: TypeAlias = "dict[str, Literal | list[Config]]"


@dataclass(frozen=True)
class Spec:
    """All that both ends know of one array besides the bytes.

    Parameters
    ----------
    key : str
        Name of the array in its record.
    dtype : str
        Name of the element type, such as ``"float32"`` or ``"bfloat16"``.
    shape : tuple of int
        Lengths of the axes; ``()`` for a scalar.
    base : array, optional
        The reference array of the same shape and dtype that both ends hold, or None.
    members : tuple of shapes
        If several arrays lie in it one after another, flat, their shapes; ``()`` for a single one.

    >>> Spec("w", "float32", (2, 3)).nbytes
    24
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    base: "ArrayLike | None" = field(default=None, compare=False, repr=False)
    members: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "dtype", str(self.dtype).removeprefix("torch."))
        numpy_dtype(self.dtype)
        if any(n < 0 for n in self.shape):
            raise ConfigError(f"shape of {self.key!r}: expected lengths of 0 or more, found {self.shape}")

    @classmethod
    def of(cls, x: ArrayLike, key: str = "", base: "ArrayLike | None" = None) -> Self:
        """Return the spec that describes ``x``."""
        return cls(key, dtype_name(x), tuple(x.shape), base)

    def cut(self, start: int, stop: int) -> Self:
        """Return the spec of elements ``start`` to ``stop``: whole rows keep their shape, anything else is flat."""
        row = prod(self.shape[1:])
        whole = len(self.shape) > 1 and row > 0 and start % row == stop % row == 0
        shape = ((stop - start) // row, *self.shape[1:]) if whole else (stop - start,)
        return self if stop - start == self.size else replace(self, shape=shape, base=None, members=())

    @classmethod
    def join(cls, specs: "Sequence[Spec]") -> "Spec":
        """Return the spec of arrays of one dtype that lie one after another, flat; of a single one as it is."""
        if len(specs) == 1:
            return specs[0]
        shapes = tuple(spec.shape for spec in specs)
        return cls(specs[0].key, specs[0].dtype, (sum(spec.size for spec in specs),), members=shapes)

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the arrays that lie in it, one after another."""
        return self.members or (self.shape,)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return numpy_dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the array as it lies in memory."""
        return self.size * self.itemsize

    @property
    def most_bytes(self) -> int:
        """The longest encoding of such an array that a decoder accepts, in bytes: what bounds its memory."""
        return 2 * self.nbytes + 65_536


class Codec(ABC):
    """What all codecs share: a name, a configuration, and promises that choices are made by."""

    name: ClassVar[str]

    @property
    def lossless(self) -> bool:
        """Decoding gives back the array bit by bit."""
        return True

    @property
    def reproducible(self) -> bool:
        """Decoding the same bytes gives the same bits on every machine and device."""
        return True

    @property
    def elementwise(self) -> bool:
        """Arrays of one dtype may be cut, or joined, flat, before encoding without changing what the codec promises."""
        return True

    @property
    def joinable(self) -> bool:
        """Arrays of one dtype may be joined, flat, before encoding; ``spec.members`` has their shapes."""
        return self.elementwise

    @property
    def settled(self) -> bool:
        """Whether it can encode as it is; a plan must be settled over a whole record before."""
        return True

    def settle(self, record: "Record") -> "Codec":
        """Return the codec that takes the place of this one for the arrays of a record."""
        del record
        return self

    def refuses(self, spec: Spec) -> str:
        """Say why an array of this spec cannot be encoded; empty if it can."""
        del spec
        return ""

    def config(self) -> Config:
        """Return the configuration as JSON: the name, and every argument."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        if "pipelines" in given:
            given["pipelines"] = [pipeline.config() for pipeline in given["pipelines"]]
        return {"name": self.name, **given}

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}  # type: ignore[arg-type]
        arguments = list(map(str, given.pop("pipelines", ())))
        arguments += [f"{name}={literal(value)}" for name, value in given.items()]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name


class ArrayToArray(Codec):
    """A codec whose result is an array again: it changes values, dtype or shape."""

    def after(self, spec: Spec) -> Spec:
        """Return the spec of what `encode` gives for an array of ``spec``."""
        return replace(spec, base=None)

    @abstractmethod
    def encode(self, x: ArrayLike, spec: Spec) -> ArrayLike:
        """Transform an array of ``spec`` into one of ``after(spec)``, on the device where it lives."""

    @abstractmethod
    def decode(self, y: Host, spec: Spec) -> Host:
        """Undo `encode`: turn an array of ``after(spec)`` into one of ``spec``."""


class ArrayToBytes(Codec):
    """A codec that ends in bytes."""

    @abstractmethod
    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        """Turn an array of ``spec`` into bytes."""

    @abstractmethod
    def decode(self, y: Buffer, spec: Spec) -> Host:
        """Turn bytes into a new, writable array of ``spec``; ChunkError if they cannot be one."""


class BytesToBytes(Codec):
    """A codec of bytes; ``spec`` is that of the array that the bytes stand for."""

    @abstractmethod
    def encode(self, x: Buffer, spec: Spec) -> Buffer:
        """Turn bytes into fewer bytes."""

    @abstractmethod
    def decode(self, y: Buffer, spec: Spec) -> Buffer:
        """Undo `encode`; ChunkError if the result would be longer than ``spec.most_bytes``."""


@dataclass(frozen=True, repr=False)
class Pipeline(ArrayToBytes):
    """A codec made of codecs: any number of array→array, one array→bytes, any number of bytes→bytes.

    >>> from flowerpress.codecs.text import parse
    >>> import numpy as np
    >>> pipeline, x = parse("planes | zstd"), np.arange(6, dtype="float32")
    >>> pipeline.decode(pipeline.encode(x, Spec.of(x)), Spec.of(x))
    array([0., 1., 2., 3., 4., 5.], dtype=float32)
    """

    stages: tuple[Codec, ...]
    name: ClassVar[str] = "pipeline"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        order = "".join(_kind(stage) for stage in self.stages)
        if order.strip("a") != "b" + "c" * order.count("c") or order.count("b") != 1:
            raise ConfigError(
                f"pipeline {str(self)!r} does not fit together: expected array→array stages, then one array→bytes "
                f"stage, then bytes→bytes stages; found {', '.join(map(_describe, self.stages)) or 'no stage'}"
            )

    @property
    def lossless(self) -> bool:
        return all(stage.lossless for stage in self.stages)

    @property
    def reproducible(self) -> bool:
        return all(stage.reproducible for stage in self.stages)

    @property
    def elementwise(self) -> bool:
        return all(stage.elementwise for stage in self.stages)

    @property
    def joinable(self) -> bool:
        return all(stage.joinable for stage in self.stages)

    @property
    def settled(self) -> bool:
        return all(stage.settled for stage in self.stages)

    def settle(self, record: "Record") -> "Pipeline":
        """Settle the stages from left to right, each for what those before it make of the record."""
        done: tuple[Codec, ...] = ()
        for i, stage in enumerate(self.stages):
            found = stage.settle(record.at(done, self.stages[i + 1 :]))
            done += found.stages if isinstance(found, Pipeline) else (found,)
        return Pipeline(done)

    def refuses(self, spec: Spec) -> str:
        for stage in self.stages:
            if reason := stage.refuses(spec):
                return reason
            spec = stage.after(spec) if isinstance(stage, ArrayToArray) else spec
        return ""

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        """Turn an array into bytes. ConfigError if ``x`` is not what ``spec`` says, or if a stage cannot take it."""
        x = local(x)
        if (dtype_name(x), tuple(x.shape)) != (spec.dtype, spec.shape):
            raise ConfigError(
                f"array {spec.key!r}: expected {spec.dtype}{list(spec.shape)}, found {dtype_name(x)}{list(x.shape)}"
            )
        if reason := self.refuses(spec):
            raise ConfigError(f"array {spec.key!r}, {spec.dtype}{list(spec.shape)}: {self} cannot take it: {reason}")
        y: ArrayLike | Buffer = x
        for stage, before in zip(self.stages, self._specs(spec), strict=True):
            y = stage.encode(y, before)  # type: ignore[attr-defined]
        return y  # type: ignore[return-value]

    def decode(self, y: Buffer, spec: Spec) -> Host:
        if reason := self.refuses(spec):
            raise ChunkError(f"array {spec.key!r}: {self} cannot have coded {spec.dtype}{list(spec.shape)}: {reason}")
        x: Host | Buffer = y
        for stage, before in reversed(list(zip(self.stages, self._specs(spec), strict=True))):
            x = stage.decode(x, before)  # type: ignore[attr-defined]
        if isinstance(x, np.generic):  # what numpy makes of arithmetic with 0-d arrays
            x = np.asarray(x)
        if not isinstance(x, np.ndarray) or dtype_name(x) != spec.dtype or x.shape != spec.shape:
            raise ChunkError(f"array {spec.key!r}: {self} did not give {spec.dtype}{list(spec.shape)}")
        return x

    def distort(self, x: ArrayLike, spec: Spec) -> Host:
        """Return what decoding would give back, without coding the bytes where that loses nothing."""
        stages = tuple(itertools.takewhile(lambda stage: isinstance(stage, ArrayToArray), self.stages))
        if not all(stage.lossless for stage in self.stages[len(stages) :]):
            return self.decode(self.encode(x, spec), spec)
        specs, y = self._specs(spec), local(x)
        for stage, before in zip(stages, specs, strict=False):
            y = stage.encode(y, before)  # type: ignore[attr-defined]
        z = to_host(y)
        for stage, before in reversed(list(zip(stages, specs, strict=False))):
            z = stage.decode(z, before)  # type: ignore[attr-defined]
        return z

    def config(self) -> Config:
        return {"name": self.name, "stages": [stage.config() for stage in self.stages]}

    def _specs(self, spec: Spec) -> list[Spec]:
        """Return what each stage is given; bytes→bytes stages see the spec of the array→bytes stage."""
        specs = []
        for stage in self.stages:
            specs.append(spec)
            if isinstance(stage, ArrayToArray):
                spec = stage.after(spec)
        return specs

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))

    def __repr__(self) -> str:
        return f"Pipeline(stages={self.stages!r})"


def bounds(shapes: "Sequence[tuple[int, ...]]") -> "Iterator[tuple[int, int]]":
    """Return where each of several arrays that lie one after another begins and ends.

    >>> list(bounds([(2, 3), (), (4,)]))
    [(0, 6), (6, 7), (7, 11)]
    """
    return itertools.pairwise(itertools.accumulate(map(prod, shapes), initial=0))


def literal(value: Literal) -> str:
    """Write an argument as pipeline text does: ``none``, ``true``, ``0.5``, ``'text'`` or ``[1, 2]``."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return repr(float(value) if isinstance(value, float) else value)  # numpy's floats print otherwise


def _kind(stage: Codec) -> str:
    for letter, kind in (("a", ArrayToArray), ("b", ArrayToBytes), ("c", BytesToBytes)):
        if isinstance(stage, kind):
            return letter
    raise ConfigError(f"expected codecs as stages of a pipeline, found {type(stage).__name__}")


def _describe(stage: Codec) -> str:
    kinds = {"a": "array→array", "b": "array→bytes", "c": "bytes→bytes"}
    return f"{stage.name} ({kinds[_kind(stage)]})"


def check_base(spec: Spec) -> str:
    """Say what is wrong with the reference of an array; for `Codec.refuses` of codecs that need one."""
    base = spec.base
    if base is None:
        return "it needs a reference, and there is none"
    if (dtype_name(base), tuple(base.shape)) != (spec.dtype, spec.shape):
        return f"the reference is {dtype_name(base)}{list(base.shape)}"
    return ""


def base_of(spec: Spec, like: ArrayLike) -> ArrayLike:
    """Return the reference where ``like`` lives, contiguous; ChunkError if there is none that fits."""
    if spec.base is None or check_base(spec):
        raise ChunkError(f"array {spec.key!r}: {check_base(spec)}")
    base = local(spec.base)
    if not is_torch(like):
        return to_host(base)
    return (base if is_torch(base) else to_tensor(base)).to(like.device)


def check_some(spec: Spec) -> str:
    """Say that there is nothing to code; for `Codec.refuses` of codecs that look at the values first."""
    return "" if spec.size else "it needs at least one element"


def check_integers(spec: Spec) -> str:
    """Say that only signed integers can be taken; for `Codec.refuses` of codecs that come behind a quantiser."""
    return "" if spec.dtype.startswith("int") else "it codes signed integers; put quantize or intdelta before it"


def is_number(value: object) -> bool:
    """Tell whether an argument is a float, or an int that a float can hold, and not true or false."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 1023)


def check_float(spec: Spec) -> str:
    """Say that only floats with zero and sign may lose anything; for `Codec.refuses` of lossy codecs."""
    takes = is_float(spec.dtype) and spec.dtype != "float8_e8m0fnu"  # which has neither zero nor sign
    return "" if takes else f"it loses precision, and {spec.dtype} values must stay exact"
