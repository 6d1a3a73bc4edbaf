"""Flower's Array and ArrayRecord (seed 004), whose data stay compressed until someone reads them.

::

    LatentRecord(state_dict) ──► one bundle ◄── LatentArray: (bundle, key)
                                     │
                                     └── .numpy(), .torch(), to_*(): decoded anew, one array at a time

Whatever stock Flower asks of such a record, it answers as the ordinary record of the decoded arrays would: object ids,
children, equality and the deflated form are those. bfloat16 and float8, which stock Flower cannot carry, are float32
there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, cast

import numpy as np
from flwr.app import Array, ArrayRecord

from flowerpress.chunks.bundle import Bundle, Clock
from flowerpress.chunks.pack import pack
from flowerpress.codecs.base import Codec, Pipeline, Spec
from flowerpress.codecs.dtypes import Host, is_torch, to_tensor
from flowerpress.codecs.policy import as_policy
from flowerpress.errors import ConfigError
from flowerpress.npy import STYPE, plain_numpy

if TYPE_CHECKING:
    from torch import Tensor
    from torch import device as Device

CodecLike: TypeAlias = str | Codec | Callable[[Spec], Pipeline]


class Readable(Protocol):
    """What a LatentArray is read from: a bundle, or a Zarr group of `flowerpress.arrays`."""

    clock: Clock

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, key: str) -> Host: ...

    def spec(self, key: str) -> Spec: ...

    def encoded_bytes(self, key: str) -> int: ...


class LatentArray(Array):
    """An Array that is decoded when it is read; one decoded copy at a time, never kept.

    It is made as Flower's Array is, from ``dtype, shape, stype, data``, from an ndarray or from a tensor, and
    compressed with ``codec``; or, with `LatentArray.of`, from an array of a bundle or a group that is there.

    Parameters
    ----------
    codec : str, Pipeline or Policy
        What codes the array; lossless by default.

    Attributes
    ----------
    dtype, shape
        Of the array itself: ``"bfloat16"`` where Flower's form has float32.
    stype, data
        Of Flower's form, ``"numpy.ndarray"``; reading ``data`` decodes.

    Raises
    ------
    TypeError
        For arguments that Flower's Array does not take either.
    ConfigError, ChunkError
        For an array that cannot be coded; for bytes that cannot be decoded, when they are read.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - as in Flower's Array
        dtype: str | None = None,
        shape: tuple[int, ...] | list[int] | None = None,
        stype: str | None = None,
        data: bytes | None = None,
        ndarray: Host | None = None,
        torch_tensor: Tensor | None = None,
        codec: CodecLike = "zstd",
    ) -> None:
        named = {"dtype": dtype, "shape": shape, "stype": stype, "data": data}
        fields = {name: value for name, value in named.items() if value is not None}
        sources = [x for x in (ndarray, torch_tensor) if x is not None]
        if len(args) == 1 and not fields:
            sources += args
        elif not sources:
            stock = Array(*map(_tuple, args), **{name: _tuple(value) for name, value in fields.items()})
            sources = [plain_numpy(stock)]
        if len(sources) != 1 or not (isinstance(value := sources[0], np.ndarray) or is_torch(value)):
            raise TypeError(
                "Invalid arguments for Array (LatentArray). Expected either a PyTorch tensor, a NumPy ndarray, or "
                "explicit dtype/shape/stype/data values."
            )
        self._hold(Bundle(pack({"": value}, codec)), "")

    @classmethod
    def of(cls, bundle: Readable, key: str) -> Self:
        """Return the array called ``key`` in ``bundle``, or in a group, without decoding it."""
        array = cls.__new__(cls)
        array._hold(bundle, key)
        return array

    def _hold(self, bundle: Readable, key: str) -> None:
        spec = bundle.spec(key)
        # past Flower's __setattr__, which would mark the array as changed
        self.__dict__.update(_bundle=bundle, _key=key, dtype=spec.dtype, shape=spec.shape, stype=STYPE)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The decoded array in the form Flower stores it: as ``np.save`` writes it."""
        return self.plain().data

    def numpy(self) -> Host:
        """Decode: a new, writable array. bfloat16 and float8 come back as float32, which holds them exactly."""
        return _in_numpy(self.decode())

    def torch(self, device: str | Device | None = None) -> Tensor:
        """Decode to a tensor of the true dtype, on ``device`` (the CPU by default)."""
        tensor = to_tensor(self.decode())
        return tensor if device is None else tensor.to(device)

    def plain(self) -> Array:
        """Decode to Flower's own Array."""
        return Array(self.numpy())

    def count_bytes(self) -> int:
        """Return the compressed bytes: the array's share of the chunks that hold it."""
        return self.bundle.encoded_bytes(self.__dict__["_key"])

    @property
    def children(self) -> dict[str, Any]:
        """The ArrayChunks of the decoded array, as Flower's Array has them."""
        return self.plain().children

    def deflate(self) -> bytes:
        """Return what a stock peer inflates to an Array: the deflated form of the decoded array."""
        return self.plain().deflate()

    def slice_array(self) -> list[tuple[str, Any]]:
        """Return the ArrayChunks of the decoded array, in order, with their object ids."""
        return self.plain().slice_array()

    @classmethod
    def inflate(cls, object_content: bytes, children: dict[str, Any] | None = None) -> LatentArray:
        """Inflate what Flower's Array deflates to, and compress it."""
        return cls(plain_numpy(Array.inflate(object_content, children)))

    @classmethod
    def from_numpy_ndarray(cls, ndarray: Host, *, codec: CodecLike = "zstd") -> LatentArray:
        """Compress an ndarray."""
        return cls(ndarray=ndarray, codec=codec)

    @classmethod
    def from_torch_tensor(cls, tensor: Tensor, *, codec: CodecLike = "zstd") -> LatentArray:
        """Compress a tensor, transforming it on its device."""
        return cls(torch_tensor=tensor, codec=codec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        mine, theirs = self.plain(), other.plain() if isinstance(other, LatentArray) else other
        return (mine.dtype, tuple(mine.shape), mine.stype, mine.data) == (
            theirs.dtype,
            tuple(theirs.shape),
            theirs.stype,
            theirs.data,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"LatentArray({self.dtype}{list(self.shape)}, {self.count_bytes()} bytes)"

    @property
    def bundle(self) -> Readable:
        """The bundle, or group, that holds the array."""
        return cast("Readable", self.__dict__["_bundle"])

    @property
    def spec(self) -> Spec:
        """Key, true dtype and shape of the array in its bundle."""
        return self.bundle.spec(self.__dict__["_key"])

    def decode(self) -> Host:
        """Decode: a new, writable array of the true dtype, as ml_dtypes has it where numpy has none."""
        return self.bundle[self.__dict__["_key"]]


class LatentRecord(ArrayRecord):
    """An ArrayRecord whose arrays are compressed, together, when it is made, and decoded one by one when they are read.

    Made from nothing, a dict (or record) of Arrays, a list of ndarrays (keys ``"0"``, ``"1"``, …) or a torch state
    dict, as Flower's is. Arrays set later are compressed too.

    Parameters
    ----------
    array_dict, numpy_ndarrays, torch_state_dict
        The arrays; one of them, by name or as the only positional argument.
    keep_input : bool
        If False, arrays leave the input as they are compressed, which frees their memory on the way.
    codec : str, Pipeline or Policy
        What codes the arrays; lossless by default.

    Raises
    ------
    TypeError
        "Invalid arguments for ArrayRecord…" for anything else, for two sources, for a key that is not a string.
    ConfigError
        For an array that cannot be coded, such as a sparse tensor.

    >>> record = LatentRecord([np.zeros((1000, 1000), dtype="float32")])
    >>> record.count_bytes() < 1000, record["0"].numpy().shape
    (True, (1000, 1000))
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - as in Flower's ArrayRecord
        numpy_ndarrays: list[Host] | None = None,
        torch_state_dict: MutableMapping[str, Tensor] | None = None,
        array_dict: MutableMapping[str, Array] | None = None,
        keep_input: bool = True,
        codec: CodecLike = "zstd",
    ) -> None:
        super().__init__()
        self.__dict__["codec"] = codec
        as_policy(codec)
        named = {"arrays": array_dict, "ndarrays": numpy_ndarrays, "tensors": torch_state_dict}
        given = [(name, source) for name, source in (*((None, a) for a in args), *named.items()) if source is not None]
        if len(given) > 1 or len(args) > 1:
            raise _invalid()
        for name, source in given:
            if not isinstance(source, dict | list | ArrayRecord) or (source and name not in (None, _kind(source))):
                raise _invalid()
            if isinstance(source, list):
                self._fill_list(source, keep_input)
            elif _kind(source) == "arrays":
                self._fill_arrays(source, keep_input)
            else:
                self._fill(source, keep_input)

    @classmethod
    def from_array_dict(
        cls, array_dict: MutableMapping[str, Array], *, keep_input: bool = True, codec: CodecLike = "zstd"
    ) -> LatentRecord:
        """Create a record from a dictionary of Arrays; LatentArrays among them are taken as they are."""
        return cls(array_dict=array_dict, keep_input=keep_input, codec=codec)

    @classmethod
    def from_numpy_ndarrays(
        cls, ndarrays: list[Host], *, keep_input: bool = True, codec: CodecLike = "zstd"
    ) -> LatentRecord:
        """Create a record from a list of ndarrays, with the keys ``"0"``, ``"1"``, …"""
        return cls(numpy_ndarrays=ndarrays, keep_input=keep_input, codec=codec)

    @classmethod
    def from_torch_state_dict(
        cls, state_dict: MutableMapping[str, Tensor], *, keep_input: bool = True, codec: CodecLike = "zstd"
    ) -> LatentRecord:
        """Create a record from a torch state dict, bfloat16 and tied weights included."""
        return cls(torch_state_dict=state_dict, keep_input=keep_input, codec=codec)

    @classmethod
    def of(cls, bundle: Readable, codec: CodecLike = "zstd") -> LatentRecord:
        """Return the record over all arrays of a bundle, or of a Zarr group, in its order, without decoding any.

        ``codec`` is what arrays that are set later are compressed with.
        """
        record = cls(codec=codec)
        for key in bundle:
            record[key] = LatentArray.of(bundle, key)
        return record

    @classmethod
    def inflate(cls, object_content: bytes, children: dict[str, Any] | None = None) -> LatentRecord:
        """Inflate what `deflate`, or Flower's ArrayRecord, deflates to; ValueError for wrong children or type."""
        return cls(array_dict=dict(ArrayRecord.inflate(object_content, children)))

    def deflate(self) -> bytes:
        """Return what a stock peer inflates: an ArrayRecord of ordinary Arrays. For few bytes, use `press`."""
        stock = ArrayRecord()
        for key, array in self.items():
            stock[key] = array  # item by item: ArrayRecord({...}) would decode and copy
        return stock.deflate()

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[Host]:
        """Return all arrays, decoded; float32 for bfloat16. ``keep_input=False`` empties the record on the way."""
        if keep_input and (bundle := self.bundle):
            return [_in_numpy(x) for x in bundle.read_all().values()]
        return [(self[key] if keep_input else self.pop(key)).numpy() for key in list(self)]

    def to_torch_state_dict(self, *, keep_input: bool = True) -> OrderedDict[str, Tensor]:
        """Return all arrays as tensors of their true dtype; ``keep_input=False`` empties the record on the way."""
        if keep_input and (bundle := self.bundle):
            return OrderedDict((key, to_tensor(x)) for key, x in bundle.read_all().items())
        arrays = ((key, self[key] if keep_input else self.pop(key)) for key in list(self))
        return OrderedDict(
            (key, a.torch() if isinstance(a, LatentArray) else to_tensor(a.numpy())) for key, a in arrays
        )

    def count_bytes(self) -> int:
        """Return the compressed bytes of the arrays, and the bytes of their keys."""
        arrays = sum(a.count_bytes() if isinstance(a, LatentArray) else len(a.data) for a in self.values())
        return arrays + sum(len(key.encode()) for key in self)

    @property
    def bundle(self) -> Bundle | None:
        """The bundle that this record is, whole and in order; None for a group, or if arrays were set or removed."""
        latent = {key: a for key, a in self.items() if isinstance(a, LatentArray)}
        if not latent or len(latent) < len(self):
            return None
        bundle = next(iter(latent.values())).bundle
        if any(a.bundle is not bundle or a.spec.key != key for key, a in latent.items()):
            return None
        return bundle if isinstance(bundle, Bundle) and list(bundle) == list(self) else None

    def copy(self) -> Self:
        """Return a shallow copy."""
        new = super().copy()
        new.__dict__["codec"] = self.codec
        return new

    @property
    def codec(self) -> CodecLike:
        """What arrays are compressed with when they are set."""
        return cast("CodecLike", self.__dict__["codec"])

    def __setitem__(self, key: str, value: Array) -> None:
        if type(value) is Array and value.stype == STYPE:
            value = LatentArray(plain_numpy(value), codec=self.codec)
        super().__setitem__(key, value)

    def _fill(self, arrays: MutableMapping[str, Any], keep_input: bool) -> None:
        bundle = Bundle(pack(arrays, self.codec, keep_input=keep_input))
        for key in bundle:
            self[key] = LatentArray.of(bundle, key)

    def _fill_arrays(self, arrays: MutableMapping[str, Array], keep_input: bool) -> None:
        """Compress the plain ones together; take the compressed and the custom ones as they are."""
        keys = list(arrays)
        plain = {key: plain_numpy(a) for key, a in arrays.items() if type(a) is Array and a.stype == STYPE}
        kept = {key: a for key, a in arrays.items() if key not in plain}
        if not keep_input:
            arrays.clear()
        bundle = Bundle(pack(plain, self.codec, keep_input=False))
        for key in keys:
            self[key] = kept[key] if key in kept else LatentArray.of(bundle, key)

    def _fill_list(self, arrays: list[Host], keep_input: bool) -> None:
        named = {str(i): x for i, x in enumerate(arrays)}
        if not keep_input:
            arrays.clear()
        try:
            self._fill(named, keep_input)
        except ConfigError:
            arrays += [] if keep_input else named.values()
            raise


def _in_numpy(x: Host) -> Host:
    """Widen what numpy itself does not know: bfloat16 and float8."""
    return x if x.dtype.isbuiltin == 1 else x.astype(np.float32)


def _tuple(value: object) -> Any:  # noqa: ANN401 - as in Flower's Array
    """Return lists, which the documentation of Flower's Array shows as shapes, as the tuples that it insists on."""
    return tuple(value) if isinstance(value, list) else value


def _kind(source: MutableMapping[str, Any] | list[Any]) -> str:
    """Tell what a record is made from; TypeError if it is nothing that a record can be made from."""
    values = source if isinstance(source, list) else list(source.values())
    if isinstance(source, list):
        if all(isinstance(x, np.ndarray) for x in values):
            return "ndarrays"
    elif all(isinstance(key, str) for key in source):
        if all(isinstance(x, Array) for x in values):
            return "arrays"
        if all(is_torch(x) for x in values):
            return "tensors"
    raise _invalid()


def _invalid() -> TypeError:
    return TypeError(
        "Invalid arguments for ArrayRecord (LatentRecord). Expected one of: no argument, a dict of str to Array, a "
        "list of NumPy ndarrays, or a PyTorch state_dict."
    )
