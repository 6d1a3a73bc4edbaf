"""The same sequences through pyDVL's lazy arrays and ours: equal chunks, dtypes, shapes and values (seed 001).

``make compare-pydvl`` runs it in an environment of pyDVL's, which pins an old numpy, and in ours::

    compare_pydvl.py write pydvl.influence.array FOLDER/theirs
    compare_pydvl.py write flowerpress.arrays.lazy FOLDER/ours
    compare_pydvl.py compare FOLDER
"""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import zarr

Blocks = list[np.ndarray]
RNG = np.random.default_rng(1)


def _of(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (100 * RNG.standard_normal(shape)).astype(dtype)


FLAT: dict[str, Blocks] = {
    "equal": [_of(4, 3) for _ in range(5)],
    "ragged last": [_of(4, 3), _of(4, 3), _of(1, 3)],
    "smaller later": [_of(5, 2), _of(2, 2), _of(3, 2)],
    "larger later": [_of(2, 2), _of(7, 2), _of(1, 2)],
    "one": [_of(3, 4, 5)],
    "vectors": [_of(6), _of(6), _of(2)],
    "images": [_of(2, 3, 8, 8, dtype="uint8"), _of(1, 3, 8, 8, dtype="uint8")],
    "float64": [_of(3, 2, dtype="float64"), _of(3, 2, dtype="float64")],
    "int64": [_of(3, dtype="int64"), _of(4, dtype="int64")],
}
NESTED: dict[str, list[Blocks]] = {
    "square": [[_of(2, 3), _of(2, 3)], [_of(2, 3), _of(2, 3)]],
    "ragged": [[_of(2, 3), _of(2, 1)], [_of(1, 3), _of(1, 1)]],
    "deep": [[_of(2, 2, 4), _of(2, 2, 4), _of(2, 1, 4)], [_of(3, 2, 4), _of(3, 2, 4), _of(3, 1, 4)]],
    "one": [[_of(3, 3)]],
    "larger later": [[_of(1, 2), _of(1, 3)], [_of(4, 1), _of(4, 4)]],
}


def main() -> None:
    """Write, or compare."""
    if sys.argv[1] == "write":
        write(import_module(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(compare(Path(sys.argv[2])))


def write(library: Any, folder: Path) -> None:
    """Write every sequence with one of the libraries: as Zarr, and what its list aggregators return."""

    class Converter(library.NumpyConverter):  # type: ignore[misc]
        def to_numpy(self, x: Any) -> Any:
            return x

        def from_numpy(self, x: Any) -> Any:
            return x

    for name, blocks in FLAT.items():
        sequence = library.LazyChunkSequence(lambda blocks=blocks: iter_of(blocks))
        sequence.to_zarr(str(folder / "flat" / name), Converter())
        keep(folder / "flat" / f"{name}.npz", sequence.compute())
        again(sequence, folder / "flat" / name, Converter())
    for name, rows in NESTED.items():
        sequence = library.NestedLazyChunkSequence(lambda rows=rows: (iter_of(row) for row in rows))
        sequence.to_zarr(str(folder / "nested" / name), Converter())
        keep(folder / "nested" / f"{name}.npz", [block for row in sequence.compute() for block in row])
        again(sequence, folder / "nested" / name, Converter())
    print(f"{library.__name__}: {len(FLAT)} sequences, {len(NESTED)} nested ones; an error where data are already")


def iter_of(blocks: Blocks) -> Iterator[np.ndarray]:
    yield from blocks


def again(sequence: Any, place: Path, converter: Any) -> None:
    """Check that existing data are an error, and are replaced if that is asked for."""
    before = zarr.open_array(str(place), mode="r")[...]
    try:
        sequence.to_zarr(str(place), converter)
    except FileExistsError:
        pass
    else:
        raise AssertionError(f"{place} was overwritten")
    stored = sequence.to_zarr(str(place), converter, return_stored=True, overwrite=True)
    assert np.array_equal(stored[...], before)


def keep(path: Path, blocks: Blocks) -> None:
    np.savez(path, *blocks)


def compare(folder: Path) -> int:
    """Print what differs; return how much."""
    different = 0
    for path in sorted((folder / "theirs").glob("*/*.npz")):
        mine = folder / "ours" / path.relative_to(folder / "theirs")
        different += said(path, differences(path.with_suffix(""), mine.with_suffix(""), described))
        different += said(path, differences(path, mine, listed))
    count = len(FLAT) + len(NESTED)
    print(f"{'MISS' if different else 'ok  '} {different} differences in chunks, dtypes, shapes and values of {count}")
    return different


def differences(theirs: Path, ours: Path, of: Callable[[Path], list[Any]]) -> list[str]:
    return [f"{a} and {b}" for a, b in zip(of(theirs), of(ours), strict=True) if not np.array_equal(a, b)]


def said(path: Path, found: list[str]) -> int:
    for one in found:
        print(f"{path.parent.name}, {path.stem}: {one}")
    return len(found)


def described(path: Path) -> list[Any]:
    array = zarr.open_array(str(path), mode="r")
    return [array.shape, array.chunks, str(array.dtype), array.metadata.zarr_format, array[...]]


def listed(path: Path) -> list[Any]:
    with np.load(path) as found:
        return [found[name] for name in found.files]


if __name__ == "__main__":
    main()
