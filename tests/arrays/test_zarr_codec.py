"""Our pipelines as a codec of Zarr 3."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.samples import of_dtype
from zarr.storage import MemoryStore

from flowerpress.arrays.zarr_codec import PressCodec
from flowerpress.errors import ChunkError, ConfigError

RNG = np.random.default_rng(3)


def create(x: np.ndarray, pipeline: str, chunks: tuple[int, ...], store: Any = None) -> zarr.Array:
    array = zarr.create_array(
        MemoryStore() if store is None else store,
        shape=x.shape,
        chunks=chunks,
        dtype=x.dtype,
        serializer=PressCodec(pipeline),
        compressors=None,
    )
    array[...] = x
    return array


@pytest.mark.parametrize("pipeline", ["zstd", "planes | zstd(level=1)", "raw"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "bool", "uint16", "complex64"])
@pytest.mark.parametrize(("shape", "chunks"), [((7, 5), (3, 5)), ((10,), (4,)), ((2, 3, 4), (1, 2, 3)), ((), ())])
def test_lossless(pipeline: str, dtype: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    x = of_dtype(dtype, shape)
    assert np.array_equal(create(x, pipeline, chunks)[...], x)


@pytest.mark.parametrize(
    "pipeline", ["quantize(step=0.01) | entropy", "zfp(tolerance=0.005)", "zfp(tolerance=0.005) | zstd"]
)
def test_lossy_within_the_bound(pipeline: str) -> None:
    x = RNG.standard_normal((300, 40)).astype(np.float32)
    array = create(x, pipeline, (100, 40))
    assert np.abs(array[...] - x).max() <= 0.00501
    assert array.nbytes_stored() < 0.6 * x.nbytes
    assert np.array_equal(array[17:150, 3], array[...][17:150, 3])


def test_metadata_make_the_codec_again(tmp_path: Path) -> None:
    x = RNG.standard_normal((6, 2))
    create(x, "planes | zstd(level=9)", (4, 2), tmp_path)
    assert np.array_equal(zarr.open_array(tmp_path, mode="r")[...], x)
    codec = PressCodec("planes | zstd(level=9)")
    assert PressCodec.from_dict(codec.to_dict()) == codec


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("nothing", "no codec is called"),
        ("budget(bits=1.0)", "found a plan"),
        ("bitpack", "cannot take float64"),
        ("delta | raw", "cannot take float64"),
    ],
)
def test_pipelines_that_do_not_fit(pipeline: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        create(RNG.standard_normal(5), pipeline, (5,))


@pytest.mark.parametrize(
    "data",
    [
        {"name": "other"},
        {"name": "flowerpress", "configuration": {"x": 1}},
        {"name": "flowerpress", "configuration": 3},
    ],
)
def test_metadata_of_someone_else(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PressCodec.from_dict(data)


def test_damaged_chunks(tmp_path: Path) -> None:
    x = RNG.standard_normal((300, 3)).astype(np.float32)
    create(x, "zstd", (300, 3), tmp_path)
    chunk = tmp_path / "c" / "0" / "0"
    data = chunk.read_bytes()
    for bad in (b"", b"\x00", data[:1], data[:10], data[:-1], data + b"x", b"\xff" * len(data), bytes(len(data))):
        chunk.write_bytes(bad)
        with pytest.raises((ChunkError, ConfigError)):
            zarr.open_array(tmp_path, mode="r")[...]
    other = tmp_path.with_name("other")
    create(x[:100], "zstd", (100, 3), other)
    chunk.write_bytes((other / "c" / "0" / "0").read_bytes())
    with pytest.raises(ChunkError, match="expected a chunk of 3600 bytes of float32"):
        zarr.open_array(tmp_path, mode="r")[...]
