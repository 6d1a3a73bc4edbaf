from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard

from flowerpress.codecs.base import Spec
from flowerpress.codecs.zstd import Zstd, decompress
from flowerpress.errors import ChunkError

SPEC = Spec("x", "float32", (25,))


def frame(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**{"write_checksum": True, **options}).compress(data)


def test_frames_are_what_any_zstd_reads() -> None:
    data = bytes(range(100)) * 50
    assert zstandard.ZstdDecompressor().decompress(Zstd().encode(data, Spec("x", "uint8", (5000,)))) == data


def test_planes_end_blocks() -> None:
    rng = np.random.default_rng(0)
    planes = rng.bytes(20_000) + rng.integers(60, 66, 20_000, dtype=np.uint8).tobytes()
    mixed = len(Zstd().encode(planes, Spec("x", "uint8", (40_000,))))
    apart = len(Zstd().encode(planes, Spec("x", "int16", (20_000,))))
    assert apart < 28_000 < mixed


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (frame(bytes(200), write_checksum=False), "expected a checksum"),
        (frame(bytes(200), write_content_size=False), "bytes of content"),
        (frame(bytes(1 << 20)), "1 to 65736 bytes of content"),
        (frame(bytes(200)) + b"x", "damaged"),
        (frame(bytes(200))[:-1], "damaged"),
        (b"", "damaged"),
        (b"\0" + bytes(70_000), "70000 bytes stored"),
    ],
)
def test_frames_that_are_refused(damage: bytes, match: str) -> None:
    with pytest.raises(ChunkError, match=match):
        Zstd().decode(damage, SPEC)


def test_a_forged_size_allocates_nothing() -> None:
    forged = bytes.fromhex("28b52ffde4") + (1 << 40).to_bytes(8, "little") + bytes(8)
    with pytest.raises(ChunkError):
        decompress(forged, 1 << 50)


def test_contexts_are_per_thread() -> None:
    data = [np.random.default_rng(i).integers(0, 4, 300_000, dtype=np.uint8).tobytes() for i in range(16)]
    spec = Spec("x", "uint8", (300_000,))
    alone = [Zstd().encode(d, spec) for d in data]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda d: Zstd().encode(d, spec), data)) == alone
        assert list(pool.map(lambda y: bytes(Zstd().decode(y, spec)), alone)) == data
