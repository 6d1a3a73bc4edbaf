"""A record as a Zarr group: one array per array, in chunks of a few megabytes, each read when it is asked for.

``zarr.open`` reads it: wherever flowerpress is installed, or anywhere if it is written with Zarr's own codecs. Names
that cannot be paths are percent-encoded; bfloat16 and float8, which Zarr has not, are stored as unsigned integers of
the same bits. What the arrays are stands in the attributes of the group, in their order.
"""

import time
from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import numpy as np

from flowerpress.arrays import s3, sealed
from flowerpress.chunks.bundle import Clock
from flowerpress.codecs.base import Spec
from flowerpress.codecs.dtypes import ArrayLike, Host, dtype_name, is_extended, numpy_dtype, to_host
from flowerpress.codecs.text import parse
from flowerpress.errors import ChunkError, ConfigError

if TYPE_CHECKING:
    from zarr.storage import StorePath

LOSSLESS = "zstd"
CHUNK = 4 << 20  # bytes of a chunk, before it is compressed
_KEY = "flowerpress"
_LONGEST = 200  # characters of a path
_BITS = {1: "uint8", 2: "uint16"}


class _Entry(msgspec.Struct, frozen=True):
    key: str
    path: str
    dtype: str
    shape: tuple[int, ...]
    whole: bool = False  # all chunks are there: Zarr leaves out those of zeros, unless it is told not to


def write(where: "StorePath", arrays: Mapping[str, ArrayLike], codec: str = LOSSLESS) -> None:
    """Write arrays as a new group, one after the other; each is read from the mapping once.

    Raises ConfigError for an array that cannot be stored.
    """
    writer = Writer(where, codec)
    for key, array in arrays.items():
        x = to_host(array)
        writer.put(writer.begin(key, dtype_name(x), x.shape), x)
    writer.finish()


class Writer:
    """A group that is being written, array by array, each in one or several parts; it can be read when it is finished.

    Parameters
    ----------
    where : zarr.storage.StorePath
        Where there is nothing yet.
    codec : str
        The lossless pipeline that codes chunks; "" for Blosc with zstd, which needs nothing of ours to be read.
    """

    def __init__(self, where: "StorePath", codec: str = LOSSLESS) -> None:
        self.where, self._entries = where, list[_Entry]()
        self._codecs = _codecs(codec)

    def begin(self, key: str, dtype: str, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - zarr's
        """Create an array; ConfigError for a key that UTF-8 cannot hold."""
        import zarr

        kind, path = numpy_dtype(dtype), _path(key, len(self._entries))
        self._entries.append(_Entry(key, path, dtype, shape, whole=True))
        return zarr.create_array(
            self.where / path,
            shape=shape,
            chunks=_chunks(shape, kind.itemsize),
            dtype=_stored(dtype),
            config={"write_empty_chunks": True},  # complex -0.0 is 0 to Zarr, and would come back as that
            dimension_names=[f"{path}.{axis}" for axis in range(len(shape))],
            **self._codecs,
        )

    def put(self, array: Any, x: Host, start: int = 0) -> None:  # noqa: ANN401
        """Write elements of an array, whole rows of it, from ``start`` on in C order."""
        name = dtype_name(x)
        stored = x.view(_stored(name)) if is_extended(name) else x
        if x.size == prod(array.shape):
            array[...] = stored.reshape(array.shape)
        else:
            row = prod(array.shape[1:])
            array[start // row : (start + x.size) // row] = stored.reshape(-1, *array.shape[1:])

    def finish(self) -> None:
        """Write what the arrays are."""
        import zarr

        zarr.open_group(self.where, mode="a").attrs[_KEY] = {"arrays": msgspec.to_builtins(self._entries)}


class Group(Mapping[str, Host]):
    """The arrays of a group by name, read anew each time.

    Parameters
    ----------
    where : zarr.storage.StorePath
        Where the group is.

    Raises
    ------
    ChunkError
        If there is no such group, or it does not say what its arrays are; when an array is read, if it is not that,
        or a chunk is damaged or gone. In groups of early versions, which left out zeros, one that is gone reads as
        zeros.
    """

    def __init__(self, where: "StorePath") -> None:
        self.where, self.clock = where, Clock()
        attributes = _opened("open_group", where).attrs
        try:
            found = msgspec.convert(attributes[_KEY], dict[str, list[_Entry]])["arrays"]
            self._entries = {entry.key: entry for entry in found}
            self._specs = {key: Spec(key, e.dtype, e.shape) for key, e in self._entries.items()}
        except (KeyError, ConfigError, msgspec.ValidationError) as error:
            raise ChunkError(f"{where}: expected a group that flowerpress wrote: {error!r}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:  # Mapping's would read the array
        return key in self._entries

    def __getitem__(self, key: str) -> Host:
        return self.read(key)

    def spec(self, key: str) -> Spec:
        """Return what is known of an array without reading it; KeyError if there is no such array."""
        return self._specs[key]

    def encoded_bytes(self, key: str) -> int:
        """Return the bytes of the chunks of an array."""
        return int(self._array(key).nbytes_stored())

    def cuts(self, key: str) -> list[int]:
        """Return the elements at which chunks begin; none where they do not lie one behind the other."""
        array, size = self._array(key), self.spec(key).size
        return list(range(0, size, prod(array.chunks))) if array.chunks[1:] == array.shape[1:] else []

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Host:
        """Return an array, or elements ``start`` to ``stop`` of it in C order, flat, from the chunks that hold them."""
        spec, array, started = self.spec(key), self._array(key), time.perf_counter()
        first, last, _ = slice(start, stop).indices(spec.size)
        if (first, last) == (0, spec.size):
            x = _read(array, ...)
        elif last <= first:
            x = np.empty(0, array.dtype)
        else:
            row = prod(spec.shape[1:])
            x = _read(array, slice(first // row, -(-last // row))).reshape(-1)
            x = x[first - first // row * row :][: last - first]
        self.clock.seconds += time.perf_counter() - started
        return x.view(numpy_dtype(spec.dtype))

    def _array(self, key: str) -> Any:  # noqa: ANN401 - zarr's
        entry = self._entries[key]
        where = self.where / entry.path
        array = _opened("open_array", sealed.whole(where) if entry.whole else where)
        expected = _stored(entry.dtype)
        if (array.shape, array.dtype) != (entry.shape, expected):
            raise ChunkError(f"{array}: expected {expected}{list(entry.shape)}, found {array.dtype}{array.shape}")
        return array


def _stored(dtype: str) -> np.dtype[Any]:
    """Return what elements are to Zarr: unsigned integers of the same bits where it has no type for them."""
    kind = numpy_dtype(dtype)
    return np.dtype(_BITS[kind.itemsize]) if is_extended(dtype) else kind


def _read(array: Any, where: Any) -> Host:  # noqa: ANN401
    try:
        return np.asarray(array[where])
    except Exception as error:  # of chunks that are damaged: each codec has its own
        if isinstance(error, ChunkError | OSError | MemoryError) or s3.is_failure(error):
            raise
        raise ChunkError(f"{array}: cannot be read: {error}") from error


def _opened(function: str, where: "StorePath") -> Any:  # noqa: ANN401
    import zarr

    import flowerpress.arrays.zarr_codec  # noqa: F401 - an app bundle has no entry points

    try:
        return getattr(zarr, function)(where, mode="r")
    except ChunkError:
        raise
    except Exception as error:  # of metadata that are missing, or not Zarr's: there are many kinds
        raise ChunkError(f"{where}: cannot be opened: {error}") from error


def _codecs(codec: str) -> dict[str, Any]:
    """Return what Zarr is told to code with; ConfigError for a pipeline that loses anything."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    from flowerpress.arrays.zarr_codec import PressCodec

    if not codec:
        return {"compressors": [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()]}
    if not parse(codec).lossless:
        raise ConfigError(f"expected a lossless pipeline, found {codec}")
    return {"serializer": PressCodec(codec), "compressors": [Crc32cCodec()]}


def _path(key: str, number: int) -> str:
    """Return where array ``key`` is; no two keys have the same path. ConfigError for one that UTF-8 cannot hold.

    >>> _path("conv1.weight", 0), _path("a/b", 0), _path("..", 7)
    ('conv1.weight', 'a%2Fb', '%-7')
    """
    try:
        path = quote(key, safe="")
    except UnicodeEncodeError as error:
        raise ConfigError(f"expected a name that UTF-8 can hold, found {key!r}; rename the array") from error
    usable = 0 < len(path) <= _LONGEST and path != "zarr.json" and not path.startswith(("__", "."))
    return path if usable else f"%-{number}"


def _chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the shape of chunks of at most `CHUNK` bytes: rows, or parts of rows that are longer.

    >>> _chunks((10_000, 1024), 4), _chunks((2, 3_000_000), 4), _chunks((0, 3), 8)
    ((1024, 1024), (1, 1048576), (1, 3))
    """
    chunk = [max(1, size) for size in shape]
    for axis, size in enumerate(chunk):
        nbytes = prod(chunk) * itemsize
        if nbytes <= CHUNK:
            break
        chunk[axis] = max(1, size * CHUNK // nbytes)
    return tuple(chunk)
