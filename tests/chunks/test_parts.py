"""Cutting and joining: which elements a chunk holds, and what its codec is told of them."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerpress import Bundle, Spec, pack, parse
from flowerpress.chunks.manifest import MOST_CHUNK
from flowerpress.chunks.parts import JOIN, SLICE, divide

RAW, WHOLE = parse("quantize(step=1.0) | entropy"), parse("lowrank | entropy")


def parts(*shapes: tuple[int, ...], pipeline=RAW):
    return divide([(i, Spec(str(i), "float32", shape), pipeline) for i, shape in enumerate(shapes)])


@pytest.mark.parametrize(
    "shape", [(3000, 1000), (1024, 1030), (300_001, 7), (64, 512, 9, 9), (5000, 1001), (4097, 4095)]
)
def test_matrices_are_cut_between_rows(shape: tuple[int, ...]) -> None:
    found = parts(shape)
    row = prod(shape[1:])
    assert [part.start for part in found] == [0, *(part.stop for part in found[:-1])]
    assert found[-1].stop == prod(shape)
    for part in found:
        assert part.start % row == part.stop % row == 0
        assert part.spec.shape == ((part.stop - part.start) // row, *shape[1:])
        assert part.spec.nbytes <= SLICE
        assert part is found[-1] or part.start % 4 == 0


@pytest.mark.parametrize("shape", [(2, 3 << 20), (6 << 20,), (1, 5_000_001), (3, 1_500_001)])
def test_rows_longer_than_a_slice_are_cut_anywhere_by_fours(shape: tuple[int, ...]) -> None:
    found = parts(shape)
    assert sum(part.spec.size for part in found) == prod(shape)
    for part in found:
        assert part.start % 4 == 0
        assert part.spec.nbytes <= SLICE + 16


@pytest.mark.parametrize("shape", [(300_001,), (262_147,), (1001, 333), (999, 1049), (7, 149_796)])
def test_what_fits_into_a_slice_is_not_cut(shape: tuple[int, ...]) -> None:
    assert JOIN <= 4 * prod(shape) <= SLICE
    (part,) = parts(shape)
    assert part.spec.shape == shape


@pytest.mark.parametrize("shape", [(5, 7), (10,), (1, 1), (3, 3, 3), (101, 99), (1001, 333), (3001, 1001), ()])
def test_what_must_be_seen_whole_is_not_cut(shape: tuple[int, ...]) -> None:
    (part,) = parts(shape, pipeline=WHOLE)
    assert (part.start, part.stop, part.spec.shape) == (0, prod(shape), shape)


def test_slices_are_even() -> None:
    for shape in ((2_500_001,), (5_000_003,), (1111, 2003)):
        sizes = [part.spec.size for part in parts(shape)]
        assert min(sizes) > 0.9 * max(sizes)


def test_what_must_be_seen_whole_is_cut_at_the_limit_of_a_chunk() -> None:
    found = parts((40_000, 1000), pipeline=WHOLE)
    assert len(found) == 3
    assert all(part.spec.nbytes <= MOST_CHUNK and part.spec.shape[1] == 1000 for part in found)


def test_small_arrays_are_joined_with_their_shapes() -> None:
    (part,) = parts((30, 20), (5,), (), (2, 3, 4))
    assert part.spec.members == ((30, 20), (5,), (), (2, 3, 4))
    assert part.spec.shape == (630,)
    assert part.arrays == (0, 1, 2, 3)
    (single,) = parts((30, 20))
    assert (single.spec.members, single.spec.shape, single.spec.parts) == ((), (30, 20), ((30, 20),))


@given(st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(1, 700)), max_size=6), st.booleans())
def test_every_element_is_in_one_chunk(shapes: list[tuple[int, int]], whole: bool) -> None:
    shapes = [(min(rows, 20_000_000 // columns), columns) for rows, columns in shapes]
    covered = [0] * len(shapes)
    for part in parts(*shapes, pipeline=WHOLE if whole else RAW):
        if len(part.arrays) == 1:
            assert covered[part.arrays[0]] == part.start
            covered[part.arrays[0]] = part.stop
        else:
            assert part.spec.size == sum(prod(shapes[i]) for i in part.arrays)
            for i in part.arrays:
                covered[i] = prod(shapes[i])
        assert part.spec.nbytes <= MOST_CHUNK
    assert covered == [prod(shape) for shape in shapes]


@pytest.mark.parametrize("shape", [(3000, 999), (1_250_003,), (2, 900_001), (130, 64, 13, 13)])
def test_the_reader_cuts_alike(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = (rng.laplace(size=shape) * np.exp2(rng.normal(0, 2, (shape[0], *[1] * (len(shape) - 1))))).astype(np.float32)
    base = (x * np.float32(0.99)).astype(np.float32)
    data = pack(
        {"x": x, "small": x[:1].ravel()[:500], "tiny": np.ones((3, 4), np.float32)}, "quantize(step=2.0) | entropy"
    )
    bundle = Bundle(data)
    chunks = [chunk for chunk in bundle.layout.chunks if chunk.arrays == (0,)]
    assert len(chunks) > 1
    found = bundle["x"]
    assert np.abs(found - x).max() <= 1.0001 + np.abs(x).max() * 2**-22
    assert [bundle.layout.elements(c).shape for c in chunks] == [part.spec.shape for part in parts(shape)]
    middle = chunks[0].stop
    for start, stop in ((middle - 3, middle + 5), (0, 1), (x.size - 1, x.size), (7, x.size - 7)):
        assert np.array_equal(bundle.read("x", start, stop), found.ravel()[start:stop])
    against = Bundle(pack({"x": x}, "intdelta | entropy", bases={"x": base}), bases={"x": base})
    assert against["x"].tobytes() == x.tobytes()
    assert np.array_equal(against.read("x", middle - 3, middle + 5), x.ravel()[middle - 3 : middle + 5])


def test_joined_arrays_are_read_one_by_one() -> None:
    rng = np.random.default_rng(1)
    scales = np.exp2(rng.normal(0, 3, 30))
    arrays = {f"{i}": np.rint(rng.laplace(size=(20 + i, 40)) * s).astype(np.float32) for i, s in enumerate(scales)}
    bundle = Bundle(pack(arrays, "quantize(step=1.0) | entropy"))
    (chunk,) = bundle.layout.chunks
    assert len(bundle.layout.elements(chunk).members) == 30
    assert bundle._chunk(0)[1][0] == 3  # contexts, which need the shapes
    for key in reversed(arrays):
        assert np.array_equal(bundle[key], arrays[key])
    assert np.array_equal(bundle.read("7", 100, 200), arrays["7"].ravel()[100:200])
