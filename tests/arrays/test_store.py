"""Checkpoints: whole or not there, read lazily, and no damage goes unnoticed."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from flwr.app import ArrayRecord
from hypothesis import given, settings
from tests.arrays.damage import tamper
from tests.samples import SHAPES, awkward, of_dtype
from zarr.storage import LocalStore, MemoryStore, StorePath

from flowerpress.arrays.group import Group
from flowerpress.arrays.store import Checkpoints
from flowerpress.errors import ChunkError, ConfigError, RunError
from flowerpress.records import LatentRecord
from flowerpress.wire import press, unpress

MODEL = {"conv.weight": of_dtype("float32", (6, 3, 3)), "conv.bias": of_dtype("bfloat16", (6,)), "n": np.array(7)}


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(
        (a[k].dtype, a[k].shape, a[k].tobytes()) == (b[k].dtype, b[k].shape, b[k].tobytes()) for k in a
    )


def model(number: int) -> dict[str, np.ndarray]:
    return {"w": np.full((40, 30), number, np.float32), "b": np.arange(5.0) * number}


def three(folder: Path, **options: Any) -> Checkpoints:
    found = Checkpoints(folder, **options)
    for number in (1, 2, 3):
        found.save(number, model(number), notes={"accuracy": number / 10})
    return found


# ---- what comes back ----


@pytest.mark.parametrize("where", ["folder", "memory", "path in memory", "URL"])
def test_a_round_comes_back(where: str, tmp_path: Path) -> None:
    place = {
        "folder": tmp_path / "deep" / "er",
        "memory": MemoryStore(),
        "path in memory": StorePath(MemoryStore(), "runs/1"),
        "URL": f"memory://{tmp_path.name}",
    }[where]
    checkpoints = Checkpoints(place)
    assert checkpoints.load() is None
    assert checkpoints.rounds() == []
    state = {"m": of_dtype("float64", (3,)), "none": of_dtype("float32", (0, 4))}
    notes = {"history": [{"round": 1, "loss": 0.5}], "codec": "small", "seed": None}
    checkpoints.save(1, MODEL, groups={"strategy": state}, notes=notes)
    found = Checkpoints(place).load()
    assert found
    assert (found.round, found.notes, found.passed_over) == (1, notes, {})
    assert same(found.model, MODEL)
    assert same(found.groups["strategy"], state)


@settings(max_examples=30, deadline=None)
@given(shapes=SHAPES)
def test_any_arrays_and_names(shapes: dict[str, tuple[str, list[int]]]) -> None:
    arrays = {key: of_dtype(dtype, tuple(shape)) for key, (dtype, shape) in shapes.items()}
    checkpoints = Checkpoints(MemoryStore())
    checkpoints.save(0, arrays)
    found = checkpoints.load()
    assert found
    assert same(found.model, arrays)


@pytest.mark.parametrize("key", ["", "..", ".", "a/b", "/", "zarr.json", "__x", "ü" * 200, "a" * 999, "%-0", "\n"])
def test_names_that_are_no_paths(key: str, tmp_path: Path) -> None:
    arrays = {"first": of_dtype("float32", (2,)), key: of_dtype("float32", (3,)), "c": of_dtype("int8", (2,))}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, arrays)
    found = checkpoints.load()
    assert found
    assert same(found.model, arrays)


def test_awkward_arrays(tmp_path: Path) -> None:
    arrays = {name: x for name, x in awkward().items() if x.dtype.kind in "biufcV"}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, arrays)
    found = checkpoints.load()
    assert found
    assert list(found.model) == list(arrays)
    for key, x in arrays.items():
        assert found.model[key].tobytes() == np.ascontiguousarray(x, x.dtype.newbyteorder("=")).tobytes(), key


@pytest.mark.parametrize("codec", ["zstd", ""])
def test_types_and_zeros_that_zarr_has_not(codec: str, tmp_path: Path) -> None:
    """float8_e5m2 is of numpy's kind of floats; to Zarr, chunks of complex -0.0 are of the fill value."""
    arrays = {"e5m2": of_dtype("float8_e5m2", (4, 3)), "-0": -np.zeros(5, np.complex64), "0": np.zeros(3)}
    checkpoints = Checkpoints(tmp_path, codec=codec)
    checkpoints.save(0, arrays)
    found = checkpoints.load()
    assert found
    assert same(found.model, arrays)


def test_tensors(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    tensors = {"w": torch.randn(3, 2).T, "h": torch.ones(2, dtype=torch.bfloat16)}
    checkpoints.save(0, tensors)  # type: ignore[arg-type]
    found = checkpoints.load()
    assert found
    assert np.array_equal(found.model["w"], tensors["w"].numpy())
    assert found.model.spec("h").dtype == "bfloat16"


@pytest.mark.parametrize("codec", ["zstd", "planes | zstd(level=9)", "raw", ""])
def test_plain_zarr_reads_a_round(codec: str, tmp_path: Path) -> None:
    three(tmp_path, codec=codec)
    (folder,) = tmp_path.glob("rounds/000003.*/arrays")
    code = f"import sys, zarr; print(zarr.open_group({str(folder)!r}, mode='r')['w'][:].sum(), 'flwr' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "3600.0 False\n", done.stderr
    assert ("flowerpress" in (folder / "w" / "zarr.json").read_text()) == bool(codec)


def test_xarray_opens_a_round(tmp_path: Path) -> None:
    """Its axes have names of their own: of equal names it expects equal lengths."""
    arrays = {"a.w": of_dtype("float32", (6, 3)), "a/w": of_dtype("float64", (3, 6)), "n": np.array(7)}
    Checkpoints(tmp_path).save(1, arrays)
    found = xarray.open_zarr(next((tmp_path / "rounds").glob("*/arrays")), consolidated=False)
    assert dict(found.sizes) == {"a.w.0": 6, "a.w.1": 3, "a%2Fw.0": 3, "a%2Fw.1": 6}
    assert same({key.replace("%2F", "/"): np.asarray(found[key]) for key in ("a.w", "a%2Fw", "n")}, arrays)


def test_checkpoints_are_lossless(tmp_path: Path) -> None:
    for codec in ("quantize(bits=4) | entropy", "best(raw, zstd)", "delta | raw", "nothing"):
        with pytest.raises(ConfigError):
            Checkpoints(tmp_path, codec=codec).save(0, MODEL)
    assert not list(tmp_path.iterdir())


def test_a_record_over_a_round_reads_one_array_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, MODEL)
    found = checkpoints.load()
    assert found
    read, whole = list[str](), Group.read
    monkeypatch.setattr(Group, "read", lambda self, key, *ends: (read.append(key), whole(self, key, *ends))[1])
    record = LatentRecord.of(found.model)
    assert (list(record), read, record.bundle) == (list(MODEL), [], None)
    assert record["conv.bias"].torch().dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert read == ["conv.bias"]
    assert record.count_bytes() > 0
    stock = ArrayRecord([x.numpy() for x in record.values()])
    assert [np.array_equal(x, y) for x, y in zip(stock.to_numpy_ndarrays(), record.to_numpy_ndarrays(), strict=True)]
    assert record.to_torch_state_dict()["n"].item() == 7
    for codec in ("zstd", "quantize(bits=8) | bitpack"):
        assert list(unpress(press(record, codec))) == list(MODEL)


# ---- whole, or not there ----


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    checkpoints = three(tmp_path)
    with pytest.raises(ConfigError, match=r"round 2 is in .* already"):
        checkpoints.save(2, model(9))
    found = checkpoints.load(2)
    assert found
    assert same(found.model, model(2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"number": -1}, "a round of 0 or more, found -1"),
        ({"number": True}, "a round of 0 or more, found True"),
        ({"groups": {"../x": {}}}, "names of groups like 'strategy'"),
        ({"notes": {"x": object()}}, "notes that JSON can hold"),
        ({"model": {"x": np.array(["text"])}}, "cannot be coded"),
        ({"model": {"\ud800": np.zeros(2)}}, "a name that UTF-8 can hold, found .*; rename the array"),
    ],
)
def test_what_cannot_be_saved_changes_nothing(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    checkpoints = three(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=words):
        checkpoints.save(**{"number": 4, "model": model(4), **arguments})
    assert files(tmp_path) == before


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), OSError(28, "No space left on device"), ValueError("x")])
def test_a_model_that_cannot_be_read_to_its_end(error: BaseException, tmp_path: Path) -> None:
    class Broken(dict[str, np.ndarray]):
        def items(self) -> Any:
            yield "w", np.ones(3)
            raise error

    checkpoints = three(tmp_path)
    before = files(tmp_path)
    expected, words = (RunError, "round 4 could not be written") if isinstance(error, OSError) else (type(error), None)
    with pytest.raises(expected, match=words):
        checkpoints.save(4, Broken())
    assert files(tmp_path) == before
    checkpoints.save(4, model(4))
    assert checkpoints.rounds() == [2, 3, 4]


def test_a_store_that_can_only_be_read(tmp_path: Path) -> None:
    three(tmp_path)
    checkpoints = Checkpoints(LocalStore(tmp_path, read_only=True))
    with pytest.raises(ConfigError, match="expected a store to write to, found one to read from"):
        checkpoints.save(4, model(4))
    found = checkpoints.load()
    assert found
    assert same(found.model, model(3))


def test_chunks_that_are_late_are_no_leftovers(tmp_path: Path) -> None:
    """Zarr writes the chunks of an array at once: where one fails, another may still be on its way."""

    class Full(LocalStore):
        async def set(self, key: str, value: Any) -> None:
            if key.endswith("w/c/0/0"):
                raise OSError("no space left")
            if key.endswith("w/c/1/0"):
                await asyncio.sleep(0.3)
            await super().set(key, value)

    checkpoints = Checkpoints(Full(tmp_path))
    with pytest.raises(RunError, match="round 1 could not be written"):
        checkpoints.save(1, {"w": np.ones((1300, 1000), np.float32)})
    time.sleep(0.6)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_killed_writer_left_is_no_round_and_goes(tmp_path: Path) -> None:
    checkpoints = three(tmp_path)
    (folder,) = tmp_path.glob("rounds/000003.????????")
    left = tmp_path / "rounds" / "000004.00000000"
    shutil.copytree(folder, left)
    found = checkpoints.load()
    assert found
    assert found.round == 3
    checkpoints.save(4, model(4))
    assert not left.exists()
    assert checkpoints.rounds() == [2, 3, 4]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [5, 6, 7]), ({"keep": 1}, [7]), ({"keep": 0}, [*range(1, 8)]), ({"keep": 2, "every": 3}, [3, 6, 7])],
)
def test_retention(options: dict[str, int], expected: list[int], tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, **options)
    for number in range(1, 8):
        checkpoints.save(number, model(number))
    assert checkpoints.rounds() == expected
    assert len(list(tmp_path.glob("rounds/*.????????"))) == len(expected)
    for number in expected:
        found = checkpoints.load(number)
        assert found
        assert same(found.model, model(number))


@pytest.mark.parametrize("options", [{"keep": -1}, {"every": 1.5}, {"keep": True}])
def test_numbers_of_retention(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of 0 or more, found"):
        Checkpoints(tmp_path, **options)


# ---- damage ----


def test_every_file_of_a_round_matters(tmp_path: Path) -> None:
    """Each file of the last round is removed, cut, emptied and flipped in turn: the round before is used."""
    checkpoints = three(tmp_path / "a")
    ((manifest, folder),) = [
        (manifest, tmp_path / "a" / "rounds" / json.loads(manifest.read_bytes().split(b"\n")[0])["folder"])
        for manifest in tmp_path.glob("a/rounds/000003.json")
    ]
    damages = {
        "gone": lambda data: None,
        "cut": lambda data: data[:-1],
        "empty": lambda data: b"",
        "longer": lambda data: data + b" ",
        "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :],
    }
    paths = [manifest, *(path for path in folder.rglob("*") if path.is_file())]
    assert len(paths) >= 6
    for path in paths:
        data = path.read_bytes()
        for name, damage in damages.items():
            damaged = damage(data)
            path.unlink() if damaged is None else path.write_bytes(damaged)
            found = checkpoints.load()
            assert found
            assert (found.round, list(found.passed_over)) == (2, [3]), (path, name)
            assert same(found.model, model(2))
            with pytest.raises(ChunkError):
                checkpoints.load(3)
        path.write_bytes(data)
    found = checkpoints.load()
    assert found
    assert (found.round, found.passed_over) == (3, {})


def test_damage_after_loading_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    checkpoints = three(tmp_path)
    found = checkpoints.load()
    assert found
    (chunk,) = tmp_path.glob("rounds/000003.*/arrays/w/c/0/0")
    chunk.unlink()
    with pytest.raises(ChunkError, match="it is gone"):
        found.model["w"]
    assert found.model.encoded_bytes("w") > 0  # known without the chunk
    assert found.model["b"].tolist() == model(3)["b"].tolist()


def test_a_damaged_round_is_written_anew(tmp_path: Path) -> None:
    checkpoints = three(tmp_path)
    (tmp_path / "rounds" / "000003.json").write_bytes(b"{}")
    checkpoints.save(3, model(30))
    found = checkpoints.load()
    assert found
    assert (found.round, found.passed_over) == (3, {})
    assert same(found.model, model(30))


def test_a_manifest_of_another_round_or_version(tmp_path: Path) -> None:
    checkpoints = three(tmp_path)
    shutil.copy(tmp_path / "rounds" / "000002.json", tmp_path / "rounds" / "000004.json")
    with pytest.raises(ChunkError, match="is not of round 4"):
        checkpoints.load(4)
    found = checkpoints.load()
    assert found
    assert (found.round, list(found.passed_over)) == (3, [4])


def test_a_latest_that_is_damaged_does_no_harm(tmp_path: Path) -> None:
    checkpoints = three(tmp_path)
    for data in (b"", b"\xff\xfe", b"12" * 4000):
        (tmp_path / "LATEST").write_bytes(data)
        found = checkpoints.load()
        assert found
        assert found.round == 3
    os.remove(tmp_path / "LATEST")
    assert checkpoints.load()


def test_no_round_is_good(tmp_path: Path) -> None:
    checkpoints = three(tmp_path)
    for path in tmp_path.glob("rounds/*.json"):
        path.write_bytes(b"x")
    with pytest.raises(ChunkError, match="no round is good"):
        checkpoints.load()


def test_tampering_never_goes_unnoticed(tmp_path: Path) -> None:
    """A hundred times here, a thousand times in ``make e2e``."""
    used = tamper(tmp_path, 100, seed=1)
    assert set(used) <= {"round 2", "round 3"}
    assert used["round 2"] > 10  # damage to round 3
