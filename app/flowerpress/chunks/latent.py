"""LATN chunks (seed 000): latent arrays as ``zstd(header) + zfp stream``, exchanged with raiiaf 1.1.0.

What raiiaf writes is read here, and what is written here raiiaf reads. Where its code fails, this does not: float16 is
widened for zfp, which has no half type, and narrowed again; arrays are coded as rows of 4 values, where native shapes
with a short axis expand up to 4x; digests, lengths and types are checked; arrays that come back are writable copies.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from math import isnan, prod
from typing import Any

import numpy as np

from flowerpress.chunks.header import (
    FLAGS,
    SIZE,
    TYPE,
    pack_header,
    parse_header,
    press_header,
    unpress_header,
)
from flowerpress.codecs import zfp
from flowerpress.codecs.dtypes import Host
from flowerpress.errors import ChunkError, LatentError

_MOST_ELEMENTS = 100_000_000
_FLAGS = {dtype: flags for flags, dtype in FLAGS.items()}


class LatentChunks:
    """Validate, pack, compress and parse latent arrays. Stateless, so one object serves any number of threads."""

    def dtype_from_flags(self, flags: bytes) -> np.dtype[Any]:
        """Map 4-byte chunk flags to a dtype: ``b"F16\\0"`` to float16, ``b"F32\\0"`` to float32.

        Missing null padding is tolerated. Raises LatentError, a ValueError, for anything else.

        >>> LatentChunks().dtype_from_flags(b"F16\\0")
        dtype('float16')
        """
        if not isinstance(flags, bytes | bytearray) or (found := bytes(flags).ljust(4, b"\0")) not in FLAGS:
            raise LatentError(f"LATN flags: expected {' or '.join(map(repr, FLAGS))}, found {flags!r}")
        return np.dtype(FLAGS[found])

    def latent_shape_validator(
        self, latent_array: Host, expected_dims: int = 4, max_dimension_size: int = 8192
    ) -> bool:
        """Return True for an array of ``expected_dims`` axes, each 1 to ``max_dimension_size``, 10^8 elements at most.

        Raises LatentError otherwise.
        """
        if not isinstance(latent_array, np.ndarray):
            raise LatentError(f"latent: expected a numpy array, found {type(latent_array).__name__}")
        shape = latent_array.shape
        if len(shape) != expected_dims:
            raise LatentError(f"latent: expected {expected_dims} dimensions, found {len(shape)} in shape {shape}")
        if not all(0 < n <= max_dimension_size for n in shape):
            raise LatentError(f"latent: expected every dimension from 1 to {max_dimension_size}, found shape {shape}")
        if prod(shape) > _MOST_ELEMENTS:
            raise LatentError(f"latent: expected at most {_MOST_ELEMENTS} elements, found {prod(shape)}")
        return True

    def latent_dtype_validator(self, latent_array: Host) -> bool:
        """Return True for a float16 or float32 array, of any byte order, of finite values; LatentError otherwise."""
        dtype = getattr(latent_array, "dtype", None)
        if dtype is None or dtype.newbyteorder("=").name not in _FLAGS:
            raise LatentError(f"latent: expected float16 or float32, found {dtype or type(latent_array).__name__}")
        if not np.isfinite(latent_array).all():
            raise LatentError("latent: expected finite values, found NaN or infinities")
        return True

    def latent_compressor(
        self, chunk_type: bytes, chunk_flags: bytes, data: Host, tolerance: float = 0.0
    ) -> dict[str, Any]:
        """Compress one array into a LATN chunk: the header with zstd, the values with zfp.

        Parameters
        ----------
        chunk_type, chunk_flags : bytes
            ``b"LATN"``, and the dtype to store: ``b"F16\\0"`` or ``b"F32\\0"``.
        data : ndarray
            float16 or float32, finite; any shape with at least one element.
        tolerance : float
            Largest absolute error of any value as it is stored, held and checked; 0.0 is lossless. Storing float32
            arrays as float16 comes before, and rounds each value to 11 bits, whatever the tolerance.

        Returns
        -------
        dict
            ``chunk`` (bytes), ``len_header`` and ``len_data`` (its two parts, in bytes).

        Raises
        ------
        LatentError
            For another type, flags or dtype; NaN, infinities, or values that overflow float16; a negative tolerance;
            an empty array, or one of 4 GiB and more.
        """
        if chunk_type != TYPE:
            raise LatentError(f"LATN chunk: expected the type {TYPE!r}, found {chunk_type!r}")
        if not isinstance(tolerance, int | float) or isnan(tolerance) or not 0 <= tolerance < float("inf"):
            raise LatentError(f"LATN chunk: expected a tolerance of 0 or more, found {tolerance!r}")
        self.latent_dtype_validator(data)
        if data.size == 0:
            raise LatentError(f"LATN chunk: expected at least one element, found shape {data.shape}")
        return _compressed(_stored(data, self.dtype_from_flags(chunk_flags)), tolerance)

    def latent_packer(
        self,
        latent: Mapping[str, Host],
        file_offset: int = 0,
        chunk_records: list[dict[str, Any]] | None = None,
        should_compress: bool = True,
        convert_float16: bool = True,
    ) -> list[bytes]:
        """Pack arrays into chunks, and append one manifest record per chunk to ``chunk_records``.

        Parameters
        ----------
        latent : mapping of str to ndarray
            4-D arrays of float16 or float32, finite.
        file_offset : int
            Offset in bytes at which the first chunk will be placed; records count on from it.
        chunk_records : list, optional
            Gets one record per array, when all of them could be packed: ``type, flags, offset, compressed_size,
            compressed, uncompressed_size, len_header, len_data, hash`` (SHA-256 of the stored values) and ``extra``
            (``shape, dtype, key``).
        should_compress : bool
            Compress losslessly, or store the values plainly behind the header.
        convert_float16 : bool
            Store float32 arrays as float16: half the bytes, 11 bits of precision, values up to 65504.

        Returns
        -------
        list of bytes
            The chunks, to be written one after the other.

        Raises
        ------
        LatentError
            For an empty mapping, or an array that the validators or the conversion refuse.
        """
        if not latent:
            raise LatentError("latent_packer: expected at least one array, found an empty mapping")
        chunks: list[bytes] = []
        records: list[dict[str, Any]] = []
        for key, array in latent.items():
            self.latent_shape_validator(array)
            self.latent_dtype_validator(array)
            stored = _stored(array, np.dtype("float16" if convert_float16 else array.dtype.newbyteorder("=")))
            chunk, record = _packed(key, stored, should_compress)
            record["offset"] = file_offset
            file_offset += len(chunk)
            chunks.append(chunk)
            records.append(record)
        if chunk_records is not None:
            chunk_records += records
        return chunks

    def latent_parser(self, chunk: bytes | dict[str, Any], shape: tuple[int, ...], compressed: bool = True) -> Host:
        """Parse one chunk into a new, writable array of ``shape``.

        Without a digest, damage to the values of a chunk can go unnoticed: what comes back then has the right shape
        and is finite, but may differ. `make_lazy_latent_loader` checks the digest of the record.

        Parameters
        ----------
        chunk : dict or bytes
            A dict with ``chunk``, ``len_header`` and ``len_data`` if compressed, else the bytes.
        shape : tuple of int
            The expected shape.
        compressed : bool
            Whether the chunk was compressed.

        Raises
        ------
        LatentError
            For any chunk that is not one of ``shape``, whatever is wrong with it.
        """
        try:
            shape, size = _checked_shape(shape)
            return (_parse_pressed if compressed else _parse_plain)(chunk, size).reshape(shape)
        except LatentError:
            raise
        except ChunkError as error:
            raise LatentError(f"LATN chunk: {error}") from error

    def make_lazy_latent_loader(self, filename: str, chunk_record: dict[str, Any]) -> Callable[[], Host]:
        """Return a function that reads, checks and caches the array of ``chunk_record``; each call returns a new copy.

        The function raises LatentError if the file cannot be read, the chunk is not inside it, or the array is not the
        one whose SHA-256 the record names. Threads may share it.
        """
        lock = threading.Lock()
        loaded: list[Host] = []

        def load() -> Host:
            with lock:
                if not loaded:
                    loaded.append(self._load(filename, chunk_record))
            return loaded[0].copy()

        return load

    def iter_lazy_latents(self, filename: str, chunk_records: list[dict[str, Any]]) -> Iterator[Callable[[], Host]]:
        """Yield one lazy loader per record of type ``"LATN"``; records of other types are passed over."""
        for record in chunk_records:
            if _field(record, "type", str) == TYPE.decode():
                yield self.make_lazy_latent_loader(filename, record)

    def _load(self, filename: str, record: dict[str, Any]) -> Host:
        extra = _field(record, "extra", dict)
        compressed = _field(record, "compressed", bool) if "compressed" in record else True
        chunk: bytes | dict[str, Any] = _read(
            filename, _field(record, "offset", int), _field(record, "compressed_size", int)
        )
        if compressed:
            chunk = {"chunk": chunk, "len_header": record.get("len_header"), "len_data": record.get("len_data")}
        array = self.latent_parser(chunk, _field(extra, "shape", list | tuple), compressed)
        if "flags" in record and array.dtype != self.dtype_from_flags(
            str(record["flags"]).encode(errors="backslashreplace")
        ):
            raise LatentError(f"LATN record: expected flags {record['flags']!r}, found {array.dtype} values")
        if hashlib.sha256(array.data).hexdigest() != _field(record, "hash", str):
            raise LatentError(f"LATN chunk of {filename}: the values are not those whose SHA-256 the record names")
        return array


def _compressed(stored: Host, tolerance: float = 0.0) -> dict[str, Any]:
    header = press_header(_FLAGS[stored.dtype.name], stored.nbytes)
    values = zfp.compress(stored, tolerance or None)
    return {"chunk": header + values, "len_header": len(header), "len_data": len(values)}


def _packed(key: str, stored: Host, should_compress: bool) -> tuple[bytes, dict[str, Any]]:
    """Return the chunk of a valid array, and its record but for the offset."""
    flags = _FLAGS[stored.dtype.name]
    if should_compress:
        packed = _compressed(stored)
    else:
        chunk = pack_header(flags, stored.nbytes) + stored.tobytes()
        packed = {"chunk": chunk, "len_header": SIZE, "len_data": stored.nbytes}
    return packed["chunk"], {
        "type": TYPE.decode(),
        "flags": flags.rstrip(b"\0").decode(),
        "offset": 0,
        "compressed_size": len(packed["chunk"]),
        "compressed": should_compress,
        "uncompressed_size": stored.nbytes,
        "len_header": packed["len_header"],
        "len_data": packed["len_data"],
        "hash": hashlib.sha256(stored.data).hexdigest(),
        "extra": {"shape": list(stored.shape), "dtype": stored.dtype.name, "key": key},
    }


def _stored(array: Host, dtype: np.dtype[Any]) -> Host:
    """Return ``array`` contiguous in the dtype to store; LatentError where a value overflows."""
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)
    if stored.itemsize < array.itemsize and not np.isfinite(stored).all():
        raise LatentError(f"latent: {np.abs(array).max()} overflows {dtype}; store float32 (convert_float16=False)")
    return stored


def _checked_shape(shape: object) -> tuple[tuple[int, ...], int]:
    lengths = tuple(shape) if isinstance(shape, list | tuple) else ()
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in lengths):
        raise LatentError(f"LATN chunk: expected a shape of positive integers, found {shape!r}")
    if not isinstance(shape, list | tuple) or len(lengths) > 32 or prod(map(int, lengths)) > _MOST_ELEMENTS:
        raise LatentError(f"LATN chunk: expected a shape of at most {_MOST_ELEMENTS} elements, found {shape!r}")
    return tuple(map(int, lengths)), prod(map(int, lengths))


def _parse_pressed(chunk: object, size: int) -> Host:
    if not isinstance(chunk, dict) or not isinstance(chunk.get("chunk"), bytes | bytearray | memoryview):
        raise LatentError("LATN chunk: a compressed one is parsed from a dict of chunk, len_header and len_data")
    stream, split, length = memoryview(chunk["chunk"]), *(_field(chunk, k, int) for k in ("len_header", "len_data"))
    if split <= 0 or length <= 0 or split + length != len(stream):
        raise LatentError(f"LATN chunk: expected {len(stream)} bytes in two parts, found lengths {split} and {length}")
    dtype = _dtype_of(*unpress_header(stream[:split]), size)
    array = zfp.decompress(stream[split:], "float32", size)
    with np.errstate(over="ignore"):
        array = array.astype(dtype, copy=False)
    if not np.isfinite(array).all():
        raise LatentError("LATN chunk: expected finite values, found NaN or infinities")
    return array


def _parse_plain(chunk: object, size: int) -> Host:
    if not isinstance(chunk, bytes | bytearray | memoryview):
        raise LatentError(f"LATN chunk: an uncompressed one is parsed from bytes, found {type(chunk).__name__}")
    values = memoryview(chunk)[SIZE:]
    dtype = _dtype_of(*parse_header(chunk[:SIZE]), size)
    if len(values) != size * dtype.itemsize:
        raise LatentError(f"LATN chunk: expected {size * dtype.itemsize} bytes of values, found {len(values)}")
    array = np.frombuffer(bytearray(values), dtype)
    if not np.isfinite(array).all():
        raise LatentError("LATN chunk: expected finite values, found NaN or infinities")
    return array


def _dtype_of(flags: bytes, nbytes: int, size: int) -> np.dtype[Any]:
    dtype = LatentChunks().dtype_from_flags(flags)
    if nbytes != size * dtype.itemsize:
        raise LatentError(f"LATN header: expected {size * dtype.itemsize} bytes of {dtype}, found {nbytes}")
    return dtype


def _field(record: object, key: str, kind: Any) -> Any:  # noqa: ANN401 - a record is JSON
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise LatentError(f"LATN record: expected {key!r} of type {getattr(kind, '__name__', kind)}, found {value!r}")
    return value


def _read(filename: str, offset: int, size: int) -> bytes:
    try:
        with open(filename, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            if offset < 0 or size < 0 or offset + size > length:
                raise LatentError(f"LATN chunk: bytes {offset} to {offset + size} are not within {filename}, {length}")
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise LatentError(f"LATN chunk: cannot read {filename}: {error}") from error
