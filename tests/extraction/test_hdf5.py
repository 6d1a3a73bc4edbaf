"""Images in HDF5 files: what comes out of a partition, and what is refused."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from flowerpress import ChunkError, ConfigError
from flowerpress.extraction import HDF5RGBDataset, build_loader, probe
from tests.extraction.samples import images, write


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", ">i2", "int64"])
@pytest.mark.parametrize("form", ["n1hw", "nhw", "n3hw"])
def test_images_are_float32_in_three_channels(dtype: str, form: str, tmp_path: Path) -> None:
    grey = (images(5) * 40).clip(0, 99).astype(dtype)
    stored = {"n1hw": grey, "nhw": grey[:, 0], "n3hw": np.concatenate([grey, grey, grey + 1], 1)}[form]
    dataset = HDF5RGBDataset(write(tmp_path / "a.h5", train=stored), "train")
    assert len(dataset) == 5
    for i in range(5):
        data, metadata = dataset[i]
        assert (data.dtype, data.shape, metadata) == (np.float32, (3, 6, 6), None)
        wanted = stored[i] if form == "n3hw" else np.repeat(grey[i], 3, axis=0)
        assert np.array_equal(data, wanted.astype(np.float32))
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_in_order_and_the_last_is_short(workers: int, tmp_path: Path) -> None:
    data = images(10)
    dataset, loader = build_loader(write(tmp_path / "a.h5", train=data), "train", batch_size=4, num_workers=workers)
    assert isinstance(dataset, torch.utils.data.Dataset)
    batches = list(loader)
    assert [len(batch) for batch, _ in batches] == [4, 4, 2]
    assert [metadata.tolist() for _, metadata in batches] == [[None] * 4, [None] * 4, [None] * 2]
    assert np.array_equal(torch.cat([batch for batch, _ in batches]).numpy(), np.repeat(data, 3, axis=1))


def test_defaults_of_a_loader(tmp_path: Path) -> None:
    _, loader = build_loader(write(tmp_path / "a.h5", train=images(2)), "train")
    assert (loader.batch_size, loader.num_workers, loader.drop_last) == (1, 1, False)


@pytest.mark.parametrize(
    ("allowed", "rows"),
    [
        ({7, 2, 3}, [2, 3, 7]),
        (frozenset({1}), [1]),
        ([5, 4, 9], [5, 4, 9]),
        ((0, 1, 2, 8), [0, 1, 2, 8]),
        (np.array([9, 0, 0], np.uint8), [9, 0, 0]),
        (range(3, 6), [3, 4, 5]),
        ({"train": [6], "valid": {1}}, [6]),
        ({"valid": [1]}, list(range(10))),
        (None, list(range(10))),
        ([], []),
        (np.empty(0), []),
    ],
)
def test_allowed_indices(allowed: Any, rows: list[int], tmp_path: Path) -> None:
    data = images(10)
    path = write(tmp_path / "a.h5", train=data)
    dataset, loader = build_loader(path, "train", 3, 0, allowed)
    assert len(dataset) == len(rows)
    assert dataset.allowed_indices.tolist() == rows
    found = [batch.numpy() for batch, _ in loader]
    assert np.array_equal(np.concatenate(found) if found else [], np.repeat(data, 3, axis=1)[rows] if rows else [])


@pytest.mark.parametrize(
    ("allowed", "words"),
    [([10], "0 to 9, which 'train' has, found 10"), ([-1, 3], "found -1"), ([0.5], "float64"), ([[1]], r"\[1, 1\]")],
)
def test_indices_of_images_that_do_not_exist(allowed: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        HDF5RGBDataset(write(tmp_path / "a.h5", train=images(10)), "train", allowed)


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (np.zeros((3, 1, 6, 8)), ConfigError, "square images, found 6x8"),
        (np.zeros((3, 2, 6, 6)), ChunkError, r"expected shape .* found \[3, 2, 6, 6\]"),
        (np.zeros((3, 6)), ChunkError, r"found \[3, 6\]"),
        (np.zeros((3, 1, 0, 0)), ChunkError, "one pixel or more"),
        (np.zeros((3, 6, 6), complex), ChunkError, "real numbers, found <c16"),
        (np.array([b"a", b"b"]), ChunkError, "expected shape"),
        (np.float32(3), ChunkError, "expected shape"),
    ],
)
def test_data_that_are_no_images(data: Any, kind: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=words):
        HDF5RGBDataset(write(tmp_path / "a.h5", train=data), "train")


def test_places_that_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", train=images(2), other=images(1))
    with pytest.raises(KeyError, match="among other, train, found 'valid'"):
        HDF5RGBDataset(path, "valid")
    with pytest.raises(FileNotFoundError):
        HDF5RGBDataset(tmp_path / "b.h5", "train")
    (tmp_path / "c.h5").write_bytes(b"no HDF5")
    with pytest.raises(ChunkError, match=r"c.h5: expected an HDF5 file"):
        HDF5RGBDataset(tmp_path / "c.h5", "train")
    for numbers in ((0, 1), (1, -1)):
        with pytest.raises(ConfigError, match="batches of 1 or more"):
            build_loader(path, "train", *numbers)


def test_without_h5py_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install 'flowerpress"):
        HDF5RGBDataset(write(tmp_path / "a.h5", train=images(2)), "train")


def test_nothing_but_the_file_is_read(tmp_path: Path) -> None:
    """A file may refer to others: to any that its reader can read."""
    secret = write(tmp_path / "secret.h5", train=images(4))
    (tmp_path / "secret.bin").write_bytes(images(4).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(secret), "train")
        layout = h5py.VirtualLayout((4, 1, 6, 6), "f4")
        layout[...] = h5py.VirtualSource(str(secret), "train", (4, 1, 6, 6))
        file.create_virtual_dataset("virtual", layout)
        size = images(4).nbytes
        file.create_dataset("raw", (4, 1, 6, 6), "f4", external=[(str(tmp_path / "secret.bin"), 0, size)])
    for name in ("link", "virtual", "raw"):
        with pytest.raises(ChunkError, match="a reference to another one"):
            HDF5RGBDataset(tmp_path / "a.h5", name)


def test_images_that_are_declared_and_not_there(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train", (1 << 40, 6, 6), "f4", chunks=(8, 6, 6))
        file.create_dataset("valid", (2, 1 << 15, 1 << 15), "f4", chunks=(1, 8, 8))
        file.create_dataset("few", (100, 6, 6), "f4", chunks=(8, 6, 6))
    with pytest.raises(ChunkError, match="bytes of images are declared, and 0 are stored"):
        HDF5RGBDataset(tmp_path / "a.h5", "train")
    with pytest.raises(ChunkError, match="at most 1073741824 bytes"):
        HDF5RGBDataset(tmp_path / "a.h5", "valid")
    assert not HDF5RGBDataset(tmp_path / "a.h5", "few")[99][0].any()


def test_a_dataset_travels_and_is_closed(tmp_path: Path) -> None:
    dataset = HDF5RGBDataset(write(tmp_path / "a.h5", train=images(3)), "train")
    first = dataset[0][0]
    other = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(other[0][0], first)
    for closed in (dataset, other):
        closed.close()
        closed.close()
    with h5py.File(tmp_path / "a.h5", "r+") as file:  # HDF5 does not open for writing what is still open
        file["train"][0] = 5
    assert (dataset[0][0] == 5).all()


def test_damage_is_found_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=images(8), chunks=(2, 1, 6, 6), compression="gzip", fletcher32=True)
        offset = file["train"].id.get_chunk_info(2).byte_offset
    damaged = bytearray(path.read_bytes())
    damaged[offset + 20] ^= 1
    path.write_bytes(damaged)
    dataset, loader = build_loader(path, "train", 2, 1)
    assert np.array_equal(dataset[3][0][0], images(8)[3, 0])
    for read in (lambda: dataset[4], lambda: list(loader)):
        with pytest.raises(ChunkError, match="partition 'train': cannot be read"):
            read()


def test_a_file_that_hangs_is_given_up(tmp_path: Path) -> None:
    """A pipe that nobody writes to is such a file; the next one is read as if nothing had been."""
    good = write(tmp_path / "a.h5", train=images(2))
    probe.datasets(good)
    process = probe._child._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(ChunkError, match=r"said nothing for 0.5 seconds"):
        probe.datasets(good, deadline=0.5)
    assert time.monotonic() - started < 20
    assert process.poll() is not None
    assert probe.images(good, "train") == (2, (6, 6))


def test_a_file_that_crashes_hdf5_is_given_up(tmp_path: Path) -> None:
    good = write(tmp_path / "a.h5", train=images(2))
    probe.datasets(good)
    process = probe._child._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    thread = threading.Timer(0.5, os.kill, (process.pid, signal.SIGKILL))
    thread.start()
    with pytest.raises(ChunkError, match="HDF5 crashed"):
        probe.datasets(good)
    thread.join()
    assert probe.images(good, "train") == (2, (6, 6))
