"""Seed 000: each method of LatentChunks, what it states and what it raises."""

import hashlib
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zfpy
import zstandard

from flowerpress import LatentChunks, LatentError
from flowerpress.errors import ChunkError

RNG = np.random.default_rng(11)
CHUNKS = LatentChunks()


def latent(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.standard_normal(shape or (1, 4, 16, 16)).astype(dtype)


def parts(chunk: bytes, record: dict[str, Any]) -> dict[str, Any]:
    return {"chunk": chunk, "len_header": record["len_header"], "len_data": record["len_data"]}


def written(path: Path, arrays: dict[str, np.ndarray], **options: Any) -> list[dict[str, Any]]:
    """Write the chunks of ``arrays`` behind 33 bytes of something else; return their records."""
    records: list[dict[str, Any]] = []
    path.write_bytes(bytes(33) + b"".join(CHUNKS.latent_packer(arrays, 33, records, **options)))
    return records


def test_errors_are_value_errors() -> None:
    assert issubclass(LatentError, ChunkError)
    assert issubclass(LatentError, ValueError)


class TestDtypeFromFlags:
    @pytest.mark.parametrize(("flags", "dtype"), [(b"F16\0", "float16"), (b"F32\0", "float32"), (b"F16", "float16")])
    def test_known(self, flags: bytes, dtype: str) -> None:
        assert CHUNKS.dtype_from_flags(flags) == np.dtype(dtype)

    @pytest.mark.parametrize("flags", [b"F64\0", b"", b"\0\0\0\0", b"F16\0\0", b"f16\0", b"\xff\xfe16", "F16", None])
    def test_unknown(self, flags: Any) -> None:
        with pytest.raises(ValueError, match="LATN flags: expected"):
            CHUNKS.dtype_from_flags(flags)


class TestLatentShapeValidator:
    def test_valid(self) -> None:
        assert CHUNKS.latent_shape_validator(latent(1, 4, 8, 8)) is True
        assert CHUNKS.latent_shape_validator(latent(3, 9), expected_dims=2) is True
        assert CHUNKS.latent_shape_validator(np.zeros((1, 1, 1, 8192), np.float16)) is True

    @pytest.mark.parametrize(
        ("array", "options"),
        [
            (np.zeros((4, 8, 8)), {}),
            (np.zeros((1, 4, 8, 8)), {"expected_dims": 3}),
            (np.zeros((1, 4, 0, 8)), {}),
            (np.zeros((1, 1, 1, 8193)), {}),
            (np.zeros((1, 1, 1, 9)), {"max_dimension_size": 8}),
            (np.broadcast_to(np.float32(0), (8, 8, 1300, 1300)), {}),
            ([[[[1.0]]]], {}),
        ],
    )
    def test_invalid(self, array: Any, options: dict[str, int]) -> None:
        with pytest.raises(LatentError, match="latent: expected"):
            CHUNKS.latent_shape_validator(array, **options)


class TestLatentDtypeValidator:
    @pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", ">f2"])
    def test_valid(self, dtype: str) -> None:
        assert CHUNKS.latent_dtype_validator(latent().astype(dtype)) is True

    @pytest.mark.parametrize("dtype", ["float64", "int32", "bool", "complex64"])
    def test_other_dtypes(self, dtype: str) -> None:
        with pytest.raises(LatentError, match="expected float16 or float32"):
            CHUNKS.latent_dtype_validator(latent().astype(dtype))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, value: float) -> None:
        with pytest.raises(LatentError, match="NaN or infinities"):
            CHUNKS.latent_dtype_validator(np.array([[[[1, value]]]], np.float32))

    def test_what_is_no_array(self) -> None:
        with pytest.raises(LatentError, match="found list"):
            CHUNKS.latent_dtype_validator([1.0])  # type: ignore[arg-type]


class TestLatentCompressor:
    @pytest.mark.parametrize(("flags", "dtype"), [(b"F16\0", "float16"), (b"F32\0", "float32")])
    def test_result(self, flags: bytes, dtype: str) -> None:
        x = latent(dtype=dtype)
        packed = CHUNKS.latent_compressor(b"LATN", flags, x)
        assert set(packed) == {"chunk", "len_header", "len_data"}
        assert len(packed["chunk"]) == packed["len_header"] + packed["len_data"]
        header = zstandard.ZstdDecompressor().decompress(packed["chunk"][: packed["len_header"]])
        assert header == struct.pack("<4s4sI", b"LATN", flags, x.nbytes)
        values = zfpy.decompress_numpy(packed["chunk"][packed["len_header"] :])
        assert values.astype(dtype).tobytes() == x.tobytes()

    @pytest.mark.parametrize("tolerance", [1e-4, 0.01, 1])
    def test_tolerance(self, tolerance: float) -> None:
        x = latent(1, 4, 64, 64)
        packed = CHUNKS.latent_compressor(b"LATN", b"F32\0", x, tolerance)
        y = CHUNKS.latent_parser(packed, x.shape)
        assert 0 < np.abs(x - y).max() <= tolerance
        assert len(packed["chunk"]) < len(CHUNKS.latent_compressor(b"LATN", b"F32\0", x)["chunk"])

    def test_short_axes_do_not_expand(self) -> None:
        x = latent(1, 4, 64, 64)
        assert (
            len(CHUNKS.latent_compressor(b"LATN", b"F32\0", x)["chunk"]) < 1.02 * x.nbytes < len(zfpy.compress_numpy(x))
        )

    def test_dimensions_over_4096(self) -> None:
        x = latent(4097, 1, 1, 1)
        assert CHUNKS.latent_parser(CHUNKS.latent_compressor(b"LATN", b"F32\0", x), x.shape).tobytes() == x.tobytes()

    @pytest.mark.parametrize("layout", ["T", "strided", "broadcast", "big"])
    def test_layouts(self, layout: str) -> None:
        base = latent(2, 4, 8, 8)
        x = {
            "T": base.T,
            "strided": base[:, ::2],
            "broadcast": np.broadcast_to(base[:1], (5, 4, 8, 8)),
            "big": base.astype(">f4"),
        }[layout]
        assert np.array_equal(CHUNKS.latent_parser(CHUNKS.latent_compressor(b"LATN", b"F32\0", x), x.shape), x)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ((b"IMAG", b"F32\0", latent()), "expected the type"),
            ((b"LATN", b"F64\0", latent()), "LATN flags"),
            ((b"LATN", b"F32\0", latent().astype("f8")), "float16 or float32"),
            ((b"LATN", b"F32\0", np.full((1, 1, 1, 4), np.nan, np.float32)), "NaN"),
            ((b"LATN", b"F16\0", np.full((1, 1, 1, 4), 1e5, np.float32)), "overflows float16"),
            ((b"LATN", b"F32\0", latent(), -1.0), "tolerance of 0 or more"),
            ((b"LATN", b"F32\0", latent(), float("nan")), "tolerance of 0 or more"),
            ((b"LATN", b"F32\0", latent(), float("inf")), "tolerance of 0 or more"),
            ((b"LATN", b"F32\0", np.zeros((1, 0, 4, 4), np.float32)), "at least one element"),
        ],
    )
    def test_errors(self, arguments: tuple[Any, ...], match: str) -> None:
        with pytest.raises(LatentError, match=match):
            CHUNKS.latent_compressor(*arguments)

    def test_sizes_that_32_bits_cannot_hold(self) -> None:
        from flowerpress.chunks.header import pack_header

        with pytest.raises(LatentError, match="at most 4294967295 bytes"):
            pack_header(b"F32\0", 1 << 32)


class TestLatentPacker:
    def test_defaults_work(self) -> None:
        """float16 and compressed: in raiiaf this always raises."""
        x = latent()
        records: list[dict[str, Any]] = []
        (chunk,) = CHUNKS.latent_packer({"z": x}, chunk_records=records)
        y = CHUNKS.latent_parser(parts(chunk, records[0]), x.shape)
        assert y.tobytes() == x.astype(np.float16).tobytes()

    @pytest.mark.parametrize("should_compress", [True, False])
    @pytest.mark.parametrize("convert_float16", [True, False])
    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_records(self, should_compress: bool, convert_float16: bool, dtype: str) -> None:
        arrays = {"a": latent(1, 4, 8, 8, dtype=dtype), "b": latent(2, 3, 5, 7, dtype=dtype)}
        records: list[dict[str, Any]] = [{"type": "META"}]
        chunks = CHUNKS.latent_packer(arrays, 100, records, should_compress, convert_float16)
        offset = 100
        for chunk, record, (key, x) in zip(chunks, records[1:], arrays.items(), strict=True):
            stored = x.astype(np.float16) if convert_float16 else x
            assert list(record) == [
                *("type", "flags", "offset", "compressed_size", "compressed", "uncompressed_size"),
                *("len_header", "len_data", "hash", "extra"),
            ]
            assert record["type"] == "LATN"
            assert record["flags"] == ("F16" if stored.dtype == np.float16 else "F32")
            assert (record["offset"], record["compressed_size"]) == (offset, len(chunk))
            assert record["compressed"] is should_compress
            assert record["uncompressed_size"] == stored.nbytes
            assert record["len_header"] + record["len_data"] == len(chunk)
            assert record["hash"] == hashlib.sha256(stored.tobytes()).hexdigest()
            assert record["extra"] == {"shape": list(x.shape), "dtype": stored.dtype.name, "key": key}
            given: Any = parts(chunk, record) if should_compress else chunk
            assert CHUNKS.latent_parser(given, x.shape, should_compress).tobytes() == stored.tobytes()
            offset += len(chunk)

    def test_without_records(self) -> None:
        assert len(CHUNKS.latent_packer({"a": latent(), "b": latent()})) == 2

    @pytest.mark.parametrize(
        ("arrays", "match"),
        [
            ({}, "at least one array"),
            ({"a": latent(), "b": np.full((1, 1, 1, 2), np.inf, np.float32)}, "NaN"),
            ({"a": latent(), "b": latent(4, 4)}, "4 dimensions"),
            ({"a": latent(), "b": latent().astype("f8")}, "float16 or float32"),
            ({"a": latent(), "b": np.full((1, 1, 1, 2), 70000, np.float32)}, "overflows float16"),
            ({"a": latent(), "b": "text"}, "numpy array"),
        ],
    )
    def test_errors_leave_the_records_alone(self, arrays: dict[str, Any], match: str) -> None:
        records: list[dict[str, Any]] = []
        with pytest.raises(LatentError, match=match):
            CHUNKS.latent_packer(arrays, 0, records)
        assert records == []

    def test_large_float32_values_survive_without_conversion(self) -> None:
        x = np.full((1, 1, 1, 4), 70000, np.float32)
        assert CHUNKS.latent_packer({"a": x}, convert_float16=False)


class TestLatentParser:
    def test_arrays_are_new_and_writable(self) -> None:
        for compress in (True, False):
            records: list[dict[str, Any]] = []
            (chunk,) = CHUNKS.latent_packer({"z": latent()}, 0, records, compress)
            given: Any = parts(chunk, records[0]) if compress else chunk
            CHUNKS.latent_parser(given, (1, 4, 16, 16), compress)[:] = 0
            assert CHUNKS.latent_parser(given, (1, 4, 16, 16), compress).any()

    def test_any_shape_of_as_many_elements(self) -> None:
        packed = CHUNKS.latent_compressor(b"LATN", b"F32\0", latent())
        assert CHUNKS.latent_parser(packed, (16, 64)).shape == (16, 64)
        assert CHUNKS.latent_parser(packed, [1024]).shape == (1024,)  # type: ignore[arg-type]

    def test_errors(self) -> None:
        good = CHUNKS.latent_compressor(b"LATN", b"F32\0", latent())
        (plain,) = CHUNKS.latent_packer({"z": latent()}, should_compress=False)
        split = good["len_header"]
        header64 = zstandard.ZstdCompressor().compress(struct.pack("<4s4sI", b"LATN", b"F64\0", 4096))
        image = zstandard.ZstdCompressor().compress(struct.pack("<4s4sI", b"IMAG", b"F32\0", 4096))
        nan = zfpy.compress_numpy(np.full((256, 4), np.nan, np.float32))
        cases: list[tuple[Any, Any, bool]] = [
            (good["chunk"], (1024,), True),
            ({}, (1024,), True),
            ({**good, "chunk": None}, (1024,), True),
            ({**good, "len_header": None}, (1024,), True),
            ({**good, "len_header": True}, (1024,), True),
            ({**good, "len_header": "33"}, (1024,), True),
            ({**good, "len_header": -1}, (1024,), True),
            ({**good, "len_data": 0}, (1024,), True),
            ({**good, "len_data": good["len_data"] + 1}, (1024,), True),
            ({**good, "chunk": good["chunk"][:-8]}, (1024,), True),
            ({**good, "len_header": split + 1, "len_data": good["len_data"] - 1}, (1024,), True),
            (
                {"chunk": header64 + good["chunk"][split:], "len_header": len(header64), "len_data": good["len_data"]},
                (1024,),
                True,
            ),
            (
                {"chunk": image + good["chunk"][split:], "len_header": len(image), "len_data": good["len_data"]},
                (1024,),
                True,
            ),
            ({"chunk": good["chunk"][:split] + nan, "len_header": split, "len_data": len(nan)}, (1024,), True),
            (good, (1023,), True),
            (good, (-1, 1024), True),
            (good, (1024.0,), True),
            (good, None, True),
            (good, (10**9,), True),
            (plain, (1023,), False),
            (plain[:-1], (1, 4, 16, 16), False),
            (plain + b"x", (1, 4, 16, 16), False),
            (plain[:5], (1, 4, 16, 16), False),
            (b"JUNK" + plain[4:], (1, 4, 16, 16), False),
            (plain[:12] + b"\0\x7c" * 1024, (1, 4, 16, 16), False),
            (good, (1, 4, 16, 16), False),
        ]
        for chunk, shape, compressed in cases:
            with pytest.raises(LatentError, match=r"LATN|zfp|expected"):
                CHUNKS.latent_parser(chunk, shape, compressed)


class TestMakeLazyLatentLoader:
    @pytest.mark.parametrize("compress", [True, False])
    def test_loads_when_called_and_caches(self, tmp_path: Path, compress: bool) -> None:
        x, path = latent(), tmp_path / "file"
        (record,) = written(path, {"z": x}, should_compress=compress)
        load = CHUNKS.make_lazy_latent_loader(str(path), record)
        first = load()
        assert first.tobytes() == x.astype(np.float16).tobytes()
        first[:] = 7
        path.unlink()
        assert load().tobytes() == x.astype(np.float16).tobytes()

    def test_threads_share_a_loader(self, tmp_path: Path) -> None:
        x, path = latent(1, 4, 64, 64), tmp_path / "file"
        (record,) = written(path, {"z": x})
        load = CHUNKS.make_lazy_latent_loader(str(path), record)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: load(), range(32)))
        assert all(y.tobytes() == x.astype(np.float16).tobytes() for y in found)
        assert len({id(y) for y in found}) == 32

    def test_errors(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        (record,) = written(path, {"z": latent()})
        other = written(tmp_path / "other", {"z": latent()})[0]
        wrong: list[tuple[str, Any]] = [
            (str(tmp_path / "nothing"), record),
            (str(tmp_path), record),
            (str(path), {**record, "offset": 40}),
            (str(path), {**record, "offset": -1}),
            (str(path), {**record, "compressed_size": 1 << 40}),
            (str(path), {**record, "hash": other["hash"]}),
            (str(path), {k: v for k, v in record.items() if k != "hash"}),
            (str(path), {k: v for k, v in record.items() if k != "extra"}),
            (str(path), {**record, "extra": {"shape": [1, 4, 16, 15]}}),
            (str(path), {**record, "flags": "F32"}),
            (str(path), {**record, "flags": "\ud800"}),
            (str(path), {**record, "compressed": False}),
            (str(path), {**record, "compressed": "yes"}),
            (str(path), None),
        ]
        for filename, given in wrong:
            with pytest.raises(LatentError, match=r"LATN|zfp"):
                CHUNKS.make_lazy_latent_loader(filename, given)()

    def test_a_flipped_bit_in_the_values_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        (record,) = written(path, {"z": latent()})
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
        with pytest.raises(LatentError, match="SHA-256"):
            CHUNKS.make_lazy_latent_loader(str(path), record)()


class TestIterLazyLatents:
    def test_one_loader_per_latent(self, tmp_path: Path) -> None:
        arrays, path = {"a": latent(), "b": latent(2, 4, 8, 8)}, tmp_path / "file"
        records = written(path, arrays, convert_float16=False)
        loaders = list(CHUNKS.iter_lazy_latents(str(path), [{"type": "IMAG"}, *records, {"type": "META"}]))
        assert [load().tobytes() for load in loaders] == [x.tobytes() for x in arrays.values()]

    def test_nothing_is_read_until_called(self) -> None:
        assert len(list(CHUNKS.iter_lazy_latents("/nowhere", [{"type": "LATN"}]))) == 1

    def test_records_that_are_none(self) -> None:
        with pytest.raises(LatentError, match="expected 'type'"):
            list(CHUNKS.iter_lazy_latents("/nowhere", [{}]))
