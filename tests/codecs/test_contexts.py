"""Contexts by themselves, and as the entropy codec uses them."""

import subprocess
import sys
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import ChunkError, Spec
from flowerpress.codecs import contexts
from flowerpress.codecs.entropy import Entropy

RNG = np.random.default_rng(23)
INTEGERS = ["int16", "int32", "int64"]  # what the entropy codec hands on


def there_and_back(q: np.ndarray, *shapes: tuple[int, ...]) -> bytes:
    data = contexts.compress(q.ravel(), shapes or (q.shape,), -9.0)
    assert data is not None
    z = contexts.decompress(memoryview(data), shapes or (q.shape,), q.itemsize)
    assert (z.dtype, z.tobytes()) == (q.dtype, q.tobytes())
    return data


def uneven(rows: int, columns: int, octaves: float = 2.0, scale: float = 0.7) -> np.ndarray:
    """Return integers like those of an update: rows and columns moved by very different amounts."""
    spread = np.exp2(RNG.normal(0, octaves, (rows, 1)) + RNG.normal(0, octaves, (1, columns)))
    return np.rint(RNG.laplace(size=(rows, columns)) * spread * scale).clip(-(2**15), 2**15 - 1).astype(np.int16)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (1, 9), (9, 1), (1, 1), (40, 30), (6, 5, 4, 3), (3000,), (2, 1, 1, 1)]
)
def test_every_shape_and_size_of_values(dtype: str, shape: tuple[int, ...]) -> None:
    limits = np.iinfo(dtype)
    q = np.rint(RNG.standard_normal(shape) * 3).astype(dtype)
    for values in (q, q * 0, q * 0 + 1, q * 0 + limits.min, q * 0 + limits.max, q * 1000):
        there_and_back(np.asarray(values, dtype))
    there_and_back(RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True) * np.ones(shape, dtype))
    extreme = q.reshape(-1).copy()
    extreme[:1], extreme[-1:] = limits.min, limits.max
    there_and_back(extreme.reshape(shape))


@pytest.mark.parametrize("dtype", ["int8", *INTEGERS])
def test_the_codec_with_uneven_matrices_of_every_dtype(dtype: str) -> None:
    q = uneven(200, 300).clip(-128, 127).astype(dtype)
    data = bytes(Entropy().encode(q, Spec.of(q)))
    assert data[0] == 3
    z = Entropy().decode(data, Spec.of(q))
    assert (z.dtype, z.shape, z.tobytes()) == (q.dtype, q.shape, q.tobytes())


@pytest.mark.parametrize("dtype", INTEGERS)
def test_one_outlier_costs_its_line_at_most(dtype: str) -> None:
    q = np.rint(RNG.laplace(size=(300, 200)) * 0.5).astype(dtype)
    alone = len(there_and_back(q))
    q[120, 70] = np.iinfo(dtype).min
    assert len(there_and_back(q)) < alone * 1.02 + 200


def test_members_of_many_shapes() -> None:
    shapes = ((64, 3, 3, 3), (64,), (1, 50), (50, 1), (10, 64), (), (1,), (200, 70), (3, 1, 2))
    pieces = [uneven(1, prod(s)).ravel() for s in shapes[:-2]]
    pieces += [uneven(200, 70).ravel(), np.array([0, 0, 0, 5, -32768, 7], np.int16)]
    joined = np.concatenate(pieces)
    there_and_back(joined, *shapes)
    spec = Spec("all", "int16", (joined.size,), members=shapes)
    assert np.array_equal(Entropy().decode(Entropy().encode(joined, spec), spec), joined)


def test_members_without_elements() -> None:
    q = np.array([3, -1, 0, 0, 2], np.int16)
    for shapes in (((0, 3), (5,)), ((5,), (3, 0)), ((0,), (5, 1), (2, 0, 4))):
        there_and_back(q, *shapes)


def test_rows_and_columns_of_their_own_scales_take_less_than_shuffled() -> None:
    q = uneven(256, 400)
    shuffled = RNG.permutation(q.ravel()).reshape(q.shape)
    assert len(Entropy().encode(q, Spec.of(q))) < 0.8 * len(Entropy().encode(shuffled, Spec.of(shuffled)))


def test_members_are_told_apart_by_their_spec() -> None:
    shapes = ((256, 400), (100, 64), (400,))
    pieces = [uneven(256, 400), uneven(100, 64), uneven(1, 400)]
    joined = np.concatenate([q.ravel() for q in pieces])
    told = Entropy().encode(joined, Spec("x", "int16", joined.shape, members=shapes))
    flat = Entropy().encode(joined, Spec.of(joined))
    assert len(told) < 0.8 * len(flat)


def test_lines_of_zeros_cost_almost_nothing() -> None:
    core = uneven(60, 50, scale=4.0)
    core[:, 0] = core[0] = 1
    wide = np.zeros((1000, 1000), np.int16)
    rows, columns = RNG.permutation(1000)[:60], RNG.permutation(1000)[:50]
    wide[np.ix_(rows, columns)] = core
    lines = 2 * 1000 * 0.35 / 8  # bits of telling 5% of the lines from the others
    assert len(there_and_back(wide)) < len(there_and_back(core)) + lines + 60
    assert len(there_and_back(np.zeros((5000, 300), np.int32))) < 20


def test_none_where_little_is_promised() -> None:
    even = np.rint(RNG.laplace(size=(300, 300)) * 3).astype(np.int16)
    assert contexts.compress(even.ravel(), [even.shape], 0.05) is None
    steep = uneven(300, 300)
    assert contexts.compress(steep.ravel(), [steep.shape], 0.05) is not None
    assert contexts.compress(steep.ravel(), [steep.shape], 0.95) is None


@given(hnp.arrays(st.sampled_from([np.int16, np.int32, np.int64]), hnp.array_shapes(max_dims=4, max_side=9)))
def test_any_integers(q: np.ndarray) -> None:
    there_and_back(q)


@given(
    st.lists(hnp.array_shapes(min_dims=0, max_dims=3, max_side=6), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
    st.floats(0.01, 40),
)
def test_any_members(shapes: list[tuple[int, ...]], seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = [prod(shape) for shape in shapes]
    pieces = [np.rint(rng.laplace(size=n) * scale * rng.integers(0, 20)) for n in sizes]
    there_and_back(np.concatenate(pieces).astype(np.int32), *shapes)


def outcome(data: bytes, shapes: list[tuple[int, ...]], dtype: str) -> bool:
    """Decode what may be forged: anything but our error, or values that fit, is a failure of the test."""
    try:
        z = contexts.decompress(memoryview(data), shapes, np.dtype(dtype).itemsize)
    except ChunkError:
        return False
    assert (z.dtype, z.shape) == (np.dtype(dtype), (sum(map(prod, shapes)),))
    return True


SHAPES = [(12, 9), (7,), (3, 4, 2)]


def small_stream() -> tuple[bytes, np.ndarray]:
    rng = np.random.default_rng(3)
    q = np.rint(rng.laplace(size=sum(map(prod, SHAPES))) * np.repeat([1, 50, 3, 0, 200], [50, 40, 30, 9, 10]))
    data = contexts.compress(q.astype(np.int32), SHAPES, -9.0)
    assert data is not None
    return data, q.astype(np.int32)


def test_truncated_at_every_length() -> None:
    data, q = small_stream()
    assert np.array_equal(contexts.decompress(memoryview(data), SHAPES, 4), q)
    for length in range(len(data)):
        with pytest.raises(ChunkError):
            contexts.decompress(memoryview(data[:length]), SHAPES, 4)
    with pytest.raises(ChunkError):
        contexts.decompress(memoryview(data + b"\0"), SHAPES, 4)


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64"])
def test_every_byte_damaged(dtype: str) -> None:
    data, _ = small_stream()
    accepted = 0
    for place in range(len(data)):
        for mask in (1, 0x80, 0xFF, 0x10):
            forged = bytearray(data)
            forged[place] ^= mask
            accepted += outcome(bytes(forged), SHAPES, dtype)
    assert accepted < 4 * len(data)


def test_other_shapes_and_narrow_types_are_refused_or_fit() -> None:
    data, _ = small_stream()
    for shapes in ([(12, 9)], [(9, 12), (7,), (3, 4, 2)], [(139,)], [(12, 9), (7,), (3, 4, 3)], [(10**6,)], [()]):
        outcome(data, shapes, "int32")
    with pytest.raises(ChunkError):
        contexts.decompress(memoryview(data), [*SHAPES, (1,)], 4)
    wide = b"\3\0" + there_and_back(np.full((2, 40), 1000, np.int16))
    with pytest.raises(ChunkError, match="do not fit into int8"):
        Entropy().decode(wide, Spec("x", "int8", (2, 40)))


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    outcome(data, [(4, 5), (3,)], "int16")


@settings(max_examples=300)
@given(st.data())
def test_spliced_bytes(data: st.DataObject) -> None:
    stream, _ = small_stream()
    start = data.draw(st.integers(0, len(stream)))
    stop = data.draw(st.integers(start, len(stream)))
    outcome(stream[:start] + data.draw(st.binary(max_size=12)) + stream[stop:], SHAPES, "int32")


MEMORY = """
import resource, numpy as np
from flowerpress.codecs import contexts
from flowerpress.errors import ChunkError
shapes = [(1000, 1000)]
rng = np.random.default_rng(0)
q = np.rint(rng.laplace(size=(1000, 1000)) * np.exp2(rng.normal(0, 3, (1000, 1)))).astype(np.int16)
data = contexts.compress(q.ravel(), shapes, 0.0)
contexts.decompress(memoryview(data), shapes, q.itemsize)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for n in range(400):
    forged = bytearray(data)
    at = int(rng.integers(0, 60 if n % 2 else len(data) - 8))
    forged[at : at + 4] = rng.integers(0, 256, 4, np.uint8).tobytes() if n % 3 else b"\\xff" * 4
    try:
        contexts.decompress(memoryview(forged), shapes, q.itemsize)
    except ChunkError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_forged_bytes_take_no_more_memory_than_honest_ones() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 32
