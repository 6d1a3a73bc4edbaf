"""Groups: arrays in parts, and chunks that are damaged or gone where nothing else has their digests."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.samples import of_dtype
from zarr.storage import LocalStore, MemoryStore, StorePath

from flowerpress.arrays.group import Group, write
from flowerpress.errors import ChunkError


def test_parts_are_read_from_the_chunks_that_hold_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("flowerpress.arrays.group.CHUNK", 4 * 30 * 7)
    x = of_dtype("float32", (40, 30))
    where = StorePath(MemoryStore(), "g")
    write(where, {"w": x, "long": x.reshape(1, -1), "one": x[0, :1].reshape(())})
    group = Group(where)
    for key in group:
        flat = x.reshape(-1)[: group.spec(key).size]
        for start, stop in ((0, 1), (0, 30), (29, 31), (37, 911), (0, 1200), (5, 5), (9, 3), (-7, None), (0, 99999)):
            assert group.read(key, start, stop).reshape(-1).tobytes() == flat[start:stop].tobytes(), (key, start, stop)
    assert group.encoded_bytes("w") > 0
    assert group.read("w").shape == (40, 30)
    with pytest.raises(KeyError):
        group.read("v")


@pytest.mark.parametrize("codec", ["zstd", ""])
@pytest.mark.parametrize("key", ["w", "zeros", "c"])
def test_a_group_without_digests_has_chunks_that_are_damaged_or_gone(key: str, codec: str, tmp_path: Path) -> None:
    where = StorePath(LocalStore(tmp_path), "g")
    arrays = {"w": of_dtype("float32", (6, 3)), "zeros": np.zeros((4, 2)), "c": np.array(7), "none": np.zeros((0, 3))}
    write(where, arrays, codec)
    group = Group(where)
    assert all(np.array_equal(group[name], x) for name, x in arrays.items())
    (chunk,) = (path for path in (tmp_path / "g" / key).rglob("*") if path.is_file() and path.name != "zarr.json")
    data = chunk.read_bytes()
    for damaged in (data[:-1], data[:1], b"", bytes([data[0] ^ 1]) + data[1:]):
        chunk.write_bytes(damaged)
        for ends in ((), (0, 1)):
            with pytest.raises(ChunkError, match=r"cannot be read|expected"):
                group.read(key, *ends)
    chunk.unlink()
    with pytest.raises(ChunkError, match="expected a chunk, it is gone"):
        group.read(key)


def test_a_group_of_an_early_version_may_lack_chunks_of_zeros(tmp_path: Path) -> None:
    write(StorePath(LocalStore(tmp_path), ""), {"zeros": np.zeros((4, 2))})
    metadata = tmp_path / "zarr.json"
    found = json.loads(metadata.read_bytes())
    del found["attributes"]["flowerpress"]["arrays"][0]["whole"]
    metadata.write_text(json.dumps(found))
    shutil.rmtree(tmp_path / "zeros" / "c")
    assert not Group(StorePath(LocalStore(tmp_path), ""))["zeros"].any()


def test_a_group_of_someone_else() -> None:
    store = MemoryStore()
    zarr.create_group(store).create_array("w", shape=(3,), dtype="f4")
    with pytest.raises(ChunkError, match="expected a group that flowerpress wrote"):
        Group(StorePath(store, ""))
    with pytest.raises(ChunkError, match="cannot be opened"):
        Group(StorePath(store, "nothing"))
