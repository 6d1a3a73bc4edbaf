"""Seed 001, each class and method: chunks on demand, what aggregators make of them, and the Zarr arrays they fill."""

import gc
import os
import weakref
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.samples import of_dtype
from zarr.storage import LocalStore, MemoryStore, StorePath, ZipStore

from flowerpress.arrays.converters import PlainConverter
from flowerpress.arrays.lazy import (
    LazyChunkSequence,
    ListAggregator,
    NestedLazyChunkSequence,
    NestedListAggregator,
    NestedSequenceAggregator,
    NumpyConverter,
    SequenceAggregator,
)
from flowerpress.arrays.places import place_of
from flowerpress.errors import ConfigError

PLAIN = PlainConverter()


def lazy(*chunks: np.ndarray) -> LazyChunkSequence[np.ndarray]:
    return LazyChunkSequence(lambda: (chunk for chunk in chunks))


def nested(*rows: Iterable[np.ndarray]) -> NestedLazyChunkSequence[np.ndarray]:
    return NestedLazyChunkSequence(lambda: ((chunk for chunk in row) for row in rows))


def of(*shape: int, dtype: str = "float32") -> np.ndarray:
    return of_dtype(dtype, shape)


def stored(sequence: Any, where: Any, **options: Any) -> zarr.Array:
    array = sequence.to_zarr(where, options.pop("converter", PLAIN), return_stored=True, **options)
    assert isinstance(array, zarr.Array)
    return array


# ---- what is abstract ----


@pytest.mark.parametrize("kind", [NumpyConverter, SequenceAggregator, NestedSequenceAggregator])
def test_abstract_classes_cannot_be_made(kind: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kind()


# ---- compute ----


def test_nothing_is_generated_before_and_each_call_asks_anew() -> None:
    calls: list[int] = []

    def factory() -> Generator[np.ndarray, None, None]:
        calls.append(1)
        yield np.arange(3)

    sequence = LazyChunkSequence(factory)
    assert sequence.generator_factory is factory
    assert not calls
    assert sequence.compute()[0].tolist() == [0, 1, 2]
    assert sequence.compute(ListAggregator())[0].tolist() == [0, 1, 2]
    assert len(calls) == 2


def test_nested_lists() -> None:
    rows = [[of(2, 3), of(2, 1)], [of(4, 3), of(4, 1)]]
    sequence = nested(*rows)
    assert callable(sequence.generator_factory)
    for found in (sequence.compute(), sequence.compute(NestedListAggregator())):
        assert [[x is y for x, y in zip(a, b, strict=True)] for a, b in zip(found, rows, strict=True)] == [
            [True, True],
            [True, True],
        ]


def test_nothing_comes_of_nothing() -> None:
    assert lazy().compute() == []
    assert nested().compute() == []
    assert nested([], []).compute() == [[], []]


def test_aggregators_are_given_the_generator_and_may_stop_early() -> None:
    made: list[int] = []

    def factory() -> Generator[np.ndarray, None, None]:
        for i in range(100):
            made.append(i)
            yield np.full(3, i)

    class First(SequenceAggregator[np.ndarray]):
        def __call__(self, tensor_generator: Generator[np.ndarray, None, None]) -> Any:
            assert isinstance(tensor_generator, Generator)
            return next(tensor_generator)

    assert LazyChunkSequence(factory).compute(First()).tolist() == [0, 0, 0]
    assert made == [0]


def test_a_length_shows_a_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    chunks = [of(2, 2)] * 5
    sequence = LazyChunkSequence(lambda: (chunk for chunk in chunks), len_generator=5)
    rows = NestedLazyChunkSequence(lambda: ((chunk for chunk in chunks) for _ in range(2)), len_outer_generator=2)
    assert len(sequence.compute()) == 5
    assert "100%" in capsys.readouterr().out
    assert list(map(len, rows.compute())) == [5, 5]
    assert "100%" in capsys.readouterr().out
    assert len(lazy(*chunks).compute()) == 5
    assert not capsys.readouterr().out


@pytest.mark.parametrize("kind", [LazyChunkSequence, NestedLazyChunkSequence])
def test_a_generator_is_no_factory(kind: Any) -> None:
    with pytest.raises(ConfigError, match="expected a function that returns a generator, found generator"):
        kind(x for x in ())


# ---- to_zarr: what is right ----


def test_the_array_is_the_chunks_and_is_chunked_like_the_first(tmp_path: Path) -> None:
    chunks = [of(4, 3), of(4, 3), of(2, 3)]
    array = stored(lazy(*chunks), tmp_path / "a")
    assert np.array_equal(array[:], np.concatenate(chunks))
    assert (array.shape, array.chunks, array.dtype, array.metadata.zarr_format) == ((10, 3), (4, 3), np.float32, 3)
    array[0] = 7  # it is open for writing
    assert (zarr.open_array(tmp_path / "a", mode="r")[0] == 7).all()


def test_without_return_stored_nothing_is_returned(tmp_path: Path) -> None:
    assert lazy(of(2, 2)).to_zarr(str(tmp_path / "a"), PLAIN) is None
    assert nested([of(2, 2)]).to_zarr(str(tmp_path / "b"), PLAIN) is None
    assert zarr.open_array(tmp_path / "b", mode="r").shape == (2, 2)


def test_chunks_of_two_axes(tmp_path: Path) -> None:
    rows = [[of(2, 3, 5), of(2, 3, 5), of(2, 1, 5)], [of(1, 3, 5), of(1, 3, 5), of(1, 1, 5)]]
    array = stored(nested(*rows), tmp_path / "a")
    assert np.array_equal(array[:], np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    assert (array.shape, array.chunks) == ((3, 7, 5), (2, 3, 5))


@given(
    heights=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    rest=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from(["float32", "float64", "int8", "bool", "uint16", "complex64"]),
)
@settings(max_examples=40, deadline=None)
def test_any_heights(heights: list[int], rest: list[int], dtype: str) -> None:
    chunks = [of(height, *rest, dtype=dtype) for height in heights]
    array = stored(lazy(*chunks), MemoryStore())
    assert np.array_equal(array[:], np.concatenate(chunks))
    assert array.dtype == dtype
    assert array.chunks == tuple(max(1, size) for size in chunks[0].shape)


@given(data=st.data(), rest=st.lists(st.integers(0, 3), max_size=2))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_widths(data: st.DataObject, rest: list[int]) -> None:
    width = data.draw(st.integers(0, 12))
    rows = []
    for height in data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)):
        cuts = sorted(data.draw(st.lists(st.integers(0, width), max_size=4)))  # the chunks of each row may differ
        rows.append([of(height, b - a, *rest) for a, b in zip([0, *cuts], [*cuts, width], strict=True)])
    array = stored(nested(*rows), MemoryStore())
    assert np.array_equal(array[:], np.concatenate([np.concatenate(row, axis=1) for row in rows]))


def test_one_chunk_is_in_memory_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def factory() -> Generator[np.ndarray, None, None]:
        nonlocal most
        for i in range(6):
            gc.collect()
            most = max(most, sum(chunk() is not None for chunk in alive))
            chunk = np.full((8, 3), i, np.float32)
            alive.append(weakref.ref(chunk))
            yield chunk
            del chunk

    stored(LazyChunkSequence(factory), tmp_path / "a")
    stored(NestedLazyChunkSequence(lambda: (factory() for _ in range(2))), tmp_path / "b")
    assert most <= 1


# ---- places ----


def places(folder: Path) -> dict[str, Any]:
    return {
        "text": str(folder / "deep" / "er" / "a.zarr"),
        "path": folder / "b.zarr",
        "file URL": (folder / "c d.zarr").as_uri(),
        "URL": f"memory://{folder.name}/e.zarr",
        "local store": LocalStore(folder / "f.zarr"),
        "path in a local store": StorePath(LocalStore(folder), "g/h.zarr"),
        "store": MemoryStore(),
        "dict": {},
        "path in a store": StorePath(MemoryStore(), "i/j.zarr"),
    }


PLACES = list(places(Path("/x")))


@pytest.mark.parametrize("name", PLACES)
def test_all_places_take_an_array_keep_it_and_replace_it(name: str, tmp_path: Path) -> None:
    where, (old, new) = places(tmp_path)[name], (of(9, 3), of(4, 2))
    assert np.array_equal(stored(lazy(old), where)[:], old)
    with pytest.raises(FileExistsError, match="overwrite=True replaces it"):
        lazy(new).to_zarr(where, PLAIN)
    with pytest.raises(FileExistsError, match="overwrite=True replaces it"):
        nested([new]).to_zarr(where, PLAIN)
    assert np.array_equal(stored(lazy(new[:2], new[2:]), where, overwrite=True)[:], new)
    assert np.array_equal(stored(nested([old]), where, overwrite=True)[:], old)
    assert not [found for found in tmp_path.rglob("*") if "partial" in found.name]


def test_what_is_beside_in_a_store_stays() -> None:
    store = MemoryStore()
    other = stored(lazy(of(5)), StorePath(store, "x"))
    stored(lazy(of(3)), StorePath(store, "y"))
    stored(lazy(of(4)), StorePath(store, "y"), overwrite=True)
    assert other[:].shape == (5,)
    with pytest.raises(FileExistsError):
        lazy(of(3)).to_zarr(store, PLAIN)


def test_a_zip_file(tmp_path: Path) -> None:
    with ZipStore(tmp_path / "a.zip", mode="w") as store:
        x = of(7, 2)
        lazy(x[:3], x[3:]).to_zarr(store, PLAIN)
    with ZipStore(tmp_path / "a.zip", mode="r") as store:
        assert np.array_equal(zarr.open_array(store, mode="r")[:], x)
        with pytest.raises(ConfigError, match="to write to"):
            lazy(x).to_zarr(store, PLAIN)


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    assert stored(lazy(of(3)), tmp_path).shape == (3,)


@pytest.mark.parametrize("name", ["path", "path in a store"])
def test_what_is_not_zarr_is_never_replaced(name: str, tmp_path: Path) -> None:
    where = places(tmp_path)[name]
    text = where / "thesis.txt"
    if isinstance(where, Path):
        where.mkdir()
        text.write_text("all of it")
    else:
        zarr.core.sync.sync(text.set(zarr.core.buffer.cpu.Buffer.from_bytes(b"all of it")))
    for overwrite in (False, True):
        with pytest.raises(FileExistsError):
            lazy(of(3)).to_zarr(where, PLAIN, overwrite=overwrite)
    assert text.exists() if isinstance(where, Path) else zarr.core.sync.sync(text.exists())


@pytest.mark.parametrize("where", [3, None, 1.5, b"x"])
def test_what_is_no_place(where: Any) -> None:
    with pytest.raises(ConfigError, match="expected a path, a URL or a Zarr store"):
        lazy(of(3)).to_zarr(where, PLAIN)


# ---- to_zarr: what is wrong ----


def fails(sequence: Any, words: str, kind: type[Exception] = ConfigError) -> None:
    """Check the error, that nothing is left behind, and that what was there before stays."""
    for where in (MemoryStore(), {}):
        with pytest.raises(kind, match=words):
            sequence.to_zarr(where, PLAIN)
        assert not (where if isinstance(where, dict) else where._store_dict)
        before = of(3, 2)
        lazy(before).to_zarr(where, PLAIN)
        with pytest.raises(kind, match=words):
            sequence.to_zarr(where, PLAIN, overwrite=True)
        assert np.array_equal(zarr.open_array(where, mode="r")[:], before)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no chunk": (lazy, "expected at least one chunk, found none"),
    "no row": (nested, "expected at least one chunk, found none"),
    "an empty row first": (lambda: nested([], [of(2, 2)]), "row 0 of chunks: expected at least one chunk"),
    "an empty row later": (lambda: nested([of(2, 2)], []), "row 1 of chunks: expected at least one chunk"),
    "another width": (lambda: lazy(of(2, 3), of(2, 4)), r"\(2,\): expected float32\[\?, 3\].*found float32\[2, 4\]"),
    "another rank": (lambda: lazy(of(2, 3), of(2)), r"found float32\[2\]"),
    "another dtype": (lambda: lazy(of(2), of(2, dtype="float64")), r"expected float32\[\?\].*found float64\[2\]"),
    "a scalar": (lambda: lazy(of()), r"expected 1 axes or more, found shape \[\]"),
    "a vector for two axes": (lambda: nested([of(3)]), r"expected 2 axes or more, found shape \[3\]"),
    "a taller chunk": (
        lambda: nested([of(2, 2), of(3, 2)]),
        "row 0 of chunks: expected chunks of 2 rows, found one of 3",
    ),
    "a wider row": (lambda: nested([of(2, 2)], [of(2, 2), of(2, 1)]), "row 1 of chunks: expected 2 columns.*found 3"),
    "a narrower row": (lambda: nested([of(2, 5)], [of(2, 2)]), "row 1 of chunks: expected 5 columns.*found 2"),
    "another depth": (lambda: nested([of(2, 2, 3), of(2, 2, 4)]), r"found float32\[2, 2, 4\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_chunks_that_do_not_fit(name: str) -> None:
    make, words = WRONG[name]
    fails(make(), words)


def test_a_generator_that_raises_half_way(tmp_path: Path) -> None:
    def factory() -> Generator[np.ndarray, None, None]:
        yield of(2, 2)
        raise ZeroDivisionError("halfway")

    for sequence in (LazyChunkSequence(factory), NestedLazyChunkSequence(lambda: (factory() for _ in range(1)))):
        fails(sequence, "halfway", ZeroDivisionError)
        before = of(3, 2)
        lazy(before).to_zarr(tmp_path / "a", PLAIN, overwrite=True)
        for options in ({"overwrite": True}, {}):
            with pytest.raises((ZeroDivisionError, FileExistsError)):
                sequence.to_zarr(tmp_path / "a", PLAIN, **options)
        with pytest.raises(ZeroDivisionError):
            sequence.to_zarr(tmp_path / "b", PLAIN)
        assert np.array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], before)
        assert os.listdir(tmp_path) == ["a"]


def test_someone_else_was_faster(tmp_path: Path) -> None:
    theirs = of(3, 2)

    def factory() -> Generator[np.ndarray, None, None]:
        yield of(2, 2)
        lazy(theirs).to_zarr(tmp_path / "a", PLAIN)

    with pytest.raises(FileExistsError):
        LazyChunkSequence(factory).to_zarr(tmp_path / "a", PLAIN)
    assert np.array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], theirs)


def test_dtypes_that_zarr_has_not() -> None:
    class AsIs(PlainConverter):
        def to_numpy(self, x: np.ndarray) -> np.ndarray:
            return x

    with pytest.raises(ConfigError, match=r"Zarr has no bfloat16.*convert it"):
        lazy(of(2, dtype="bfloat16")).to_zarr(MemoryStore(), AsIs())


def test_chunks_that_are_equal_to_zero_are_stored(tmp_path: Path) -> None:
    x = np.array([-0.0, complex(0, -0.0), 0, -0.0])
    array = stored(lazy(x[:2], x[2:]), tmp_path / "a")
    assert array[:].tobytes() == x.tobytes()
    assert len(list((tmp_path / "a" / "c").iterdir())) == 2


def test_a_store_that_can_only_be_read(tmp_path: Path) -> None:
    x, where = of(3, 2), LocalStore(tmp_path / "a", read_only=True)
    lazy(x).to_zarr(tmp_path / "a", PLAIN)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="expected a store to write to, found one to read from"):
            lazy(of(4, 2)).to_zarr(where, PLAIN, overwrite=overwrite)
    assert np.array_equal(place_of(where).open()[:], x)
