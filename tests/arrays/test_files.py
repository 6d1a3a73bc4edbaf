"""Model files of all kinds, read and written. What they are good for is in ``tests/federation/test_seeds.py``."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.samples import of_dtype

from flowerpress.arrays.files import arrays_of_file, arrays_to_file
from flowerpress.arrays.store import Checkpoints
from flowerpress.codecs.dtypes import to_host
from flowerpress.errors import ChunkError, ConfigError, FlowerpressError

SUFFIXES = [".fpb", ".safetensors", ".npz", ".pt", ".pth"]
ARRAYS = {
    "a.weight": of_dtype("float32", (5, 3)),
    "b": of_dtype("int64", (4,)),
    "c": of_dtype("float64", ()),
    "d": of_dtype("bool", (0, 2)),
}
NARROW = {
    "e": of_dtype("bfloat16", (3,)),
    "f": of_dtype("float8_e4m3fn", (2, 2)),
    "g": of_dtype("float8_e5m2", (2,)),  # to numpy, its kind is that of float32
}


def same(found: Any, arrays: Any) -> None:
    assert list(found) == list(arrays)
    for key, x in arrays.items():
        y = to_host(found[key])
        assert (y.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes()), key


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(suffix: str, tmp_path: Path) -> None:
    arrays = ARRAYS | ({} if suffix == ".npz" else NARROW)
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"the old one")
    arrays_to_file(arrays, path)
    found = arrays_of_file(path)
    same({key: found[key] for key in arrays} if suffix == ".safetensors" else found, arrays)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_names(suffix: str, tmp_path: Path) -> None:
    """Those of np.savez's own parameters, and of two arrays whose entries could be taken for each other, too."""
    arrays = {key: np.full(2, i) for i, key in enumerate(["", "a", "a.npy", "a/b", "allow_pickle", "file", "ü"])}
    arrays_to_file(arrays, tmp_path / f"model{suffix}")
    found = arrays_of_file(tmp_path / f"model{suffix}")
    same({key: found[key] for key in arrays}, arrays)
    assert len(found) == len(arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tensors_that_share_memory(suffix: str, tmp_path: Path) -> None:
    w = torch.randn(4, 3)
    arrays_to_file({"tied": w, "w": w, "x": w.T}, tmp_path / f"model{suffix}")
    found = arrays_of_file(tmp_path / f"model{suffix}")
    same(found, {"tied": w.numpy(), "w": w.numpy(), "x": np.ascontiguousarray(w.numpy().T)})


def test_a_state_dict_that_torch_saved(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    same(arrays_of_file(tmp_path / "model.pt"), {key: x.numpy() for key, x in model.state_dict().items()})


def test_the_last_model_of_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run")
    with pytest.raises(ConfigError, match="no such file, and no folder of checkpoints"):
        arrays_of_file(tmp_path / "run")
    for number in (1, 2):
        checkpoints.save(number, {"w": np.full(3, number)})
    same(arrays_of_file(tmp_path / "run"), {"w": np.full(3, 2)})
    arrays_to_file(arrays_of_file(tmp_path / "run"), tmp_path / "model.safetensors")
    same(arrays_of_file(tmp_path / "model.safetensors"), {"w": np.full(3, 2)})
    for path in (tmp_path / "run" / "rounds").glob("*.json"):
        path.unlink()
    (tmp_path / "run" / "LATEST").unlink()
    with pytest.raises(ConfigError, match="no checkpoints yet"):
        arrays_of_file(tmp_path / "run")


class Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_nothing_in_a_pickle_is_run(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model{suffix}"
    for write in (lambda: torch.save({"w": Harmful()}, path), lambda: path.write_bytes(pickle.dumps(Harmful()))):
        write()
        with pytest.raises(ChunkError, match="cannot be read"):
            arrays_of_file(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "expected a state dict, found list"),
        ({"epoch": 3}, "expected tensors by name, found int at 'epoch'; save its state dict"),
        ({"model": {"w": torch.ones(2)}}, "found dict at 'model'"),
        ({0: torch.ones(2)}, "at 0"),
    ],
)
def test_other_things_that_torch_saves(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ChunkError, match=words):
        arrays_of_file(tmp_path / "model.pt")


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_bytes(b"the old one")
    words = r"npz cannot hold all arrays: 'e' is bfloat16.*'g' is float8_e5m2; write .safetensors"
    with pytest.raises(ConfigError, match=words):
        arrays_to_file(ARRAYS | NARROW, path)
    with pytest.raises(ConfigError, match="names with a zero byte"):
        arrays_to_file({"a\0b": np.zeros(2)}, path)
    for suffix in (".fpb", ".npz", ".safetensors"):  # torch's can
        with pytest.raises(ConfigError, match=r"(?i)utf-8"):
            arrays_to_file({"\ud800": np.zeros(2)}, path.with_suffix(suffix))
    with pytest.raises(ConfigError, match=r"safetensors cannot hold torch.complex128; write .fpb or .npz"):
        arrays_to_file({"w": np.zeros(2, complex)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"ends in \.fpb"):
        arrays_to_file(ARRAYS, tmp_path / "model.onnx")
    with pytest.raises(FlowerpressError):
        arrays_to_file({"w": np.array(["text"])}, tmp_path / "model.fpb")
    assert path.read_bytes() == b"the old one"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
