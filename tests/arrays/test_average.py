"""Averages of models slice by slice: bit by bit what float64 sums of whole arrays give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.samples import SHAPES, of_dtype
from zarr.storage import MemoryStore, StorePath

from flowerpress.arrays import average as averaging
from flowerpress.arrays.average import average
from flowerpress.arrays.group import Group
from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.pack import pack
from flowerpress.errors import ChunkError, ConfigError


def place() -> StorePath:
    return StorePath(MemoryStore(), "average")


def expected(models: list[tuple[float, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    found = {}
    for key, first in models[0][1].items():
        wide = np.complex128 if "complex" in first.dtype.name else np.float64
        total = np.zeros(first.shape, wide)
        for weight, arrays in models:
            total += weight * arrays[key].astype(wide)
        found[key] = total.astype(first.dtype if first.dtype.name.startswith(("float", "bfloat", "comp")) else wide)
    return found


def check(found: Group, models: list[tuple[float, dict[str, np.ndarray]]]) -> None:
    wanted = expected(models)
    assert list(found) == list(wanted)
    for key, x in wanted.items():
        y = found[key]
        assert (y.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes()), key


@settings(max_examples=25, deadline=None)
@given(shapes=SHAPES, weights=st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_any_arrays(shapes: dict[str, tuple[str, list[int]]], weights: list[float]) -> None:
    models = [(w, {k: of_dtype(dtype, tuple(shape)) for k, (dtype, shape) in shapes.items()}) for w in weights]
    check(average(place(), [(w, Bundle(pack(dict(arrays)))) for w, arrays in models]), models)


@pytest.mark.parametrize("codec", ["zstd", "raw", "quantize(bits=8) | bitpack", "lowrank(step=0.1) | entropy"])
def test_large_arrays_are_summed_in_slices(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of several chunks, in slices of about 1 MiB, some of which end where no row does."""
    monkeypatch.setattr(averaging, "SLICE", 1 << 20)
    shapes = {"w": (1500, 1000), "v": (2_500_001,), "c": (3, 700_000), "small": (7, 5)}
    bundles, models = [], []
    for weight in (0.5, 0.3, 0.2):
        bundle = Bundle(pack({key: of_dtype("float32", shape) for key, shape in shapes.items()}, codec))
        bundles.append((weight, bundle))
        models.append((weight, dict(bundle)))
    read, whole = list[tuple[int, int]](), Bundle.read

    def noted(self: Bundle, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        read.append((start, stop or 0))
        return whole(self, key, start, stop)

    monkeypatch.setattr(Bundle, "read", noted)
    check(average(place(), bundles), models)
    assert max(stop - start for start, stop in read) <= (16 << 20) // 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2", "complex64", "complex128"])
def test_groups_are_averaged_too(dtype: str) -> None:
    def array() -> np.ndarray:
        x = of_dtype(dtype, (40, 3))
        return (x + x.T[::-1].reshape(x.shape) * 1j).astype(x.dtype) if x.dtype.kind == "c" else x

    models = [(0.25 * i, {"w": array(), "n": of_dtype("int64", ())}) for i in (1, 3)]
    groups = [(weight, average(place(), [(1.0, Bundle(pack(dict(arrays))))])) for weight, arrays in models]
    check(average(place(), groups), [(weight, dict(group)) for weight, group in groups])


def test_models_that_differ() -> None:
    def bundle(**arrays: np.ndarray) -> Bundle:
        return Bundle(pack(arrays))

    w = of_dtype("float32", (3, 2))
    first = bundle(w=w, b=w)
    for other in (bundle(w=w), bundle(w=w, b=w[0]), bundle(w=w, b=w.astype(np.float64))):
        with pytest.raises(ConfigError, match=r"average: array '.' of model 1: expected .*, found"):
            average(place(), [(0.5, first), (0.5, other)])
    with pytest.raises(ConfigError, match="expected at least one model"):
        average(place(), [])


def test_a_model_that_is_damaged() -> None:
    data = bytearray(pack({"w": of_dtype("float32", (300, 20))}))
    data[500] ^= 1
    where = place()
    with pytest.raises(ChunkError, match="damaged"):
        average(where, [(1.0, Bundle(bytes(data)))])
    with pytest.raises(ChunkError, match="expected a group"):
        Group(where)
