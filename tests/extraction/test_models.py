"""Encoders, and checkpoints of them."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from flowerpress import ChunkError, ConfigError
from flowerpress.extraction import Params
from flowerpress.extraction.models import load_weights, model_for
from flowerpress.extraction.resnet import SupConResNet
from tests.extraction.samples import ready


class Options:
    """What `model_for` reads."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


@pytest.mark.parametrize(
    ("name", "keys", "width"), [("resnet18", 124, 512), ("resnet34", 220, 512), ("resnet50", 322, 2048)]
)
def test_names_and_shapes_are_those_of_published_checkpoints(name: str, keys: int, width: int) -> None:
    state = model_for(Options(ssl_model=name, feat_dim=7)).state_dict()
    assert len(state) == keys
    assert state["encoder.conv1.weight"].shape == (64, 3, 3, 3)
    assert state["head.0.weight"].shape == (width, width)
    assert state["head.2.weight"].shape == (7, width)
    assert {"encoder.layer4.1.bn2.running_var", "encoder.layer2.0.shortcut.1.weight"} <= set(state)
    assert ("encoder.layer1.0.shortcut.0.weight" in state) == (name == "resnet50")


def test_latents_have_length_1() -> None:
    model = SupConResNet("resnet18", 9).eval()
    with torch.no_grad():
        made = model(torch.randn(3, 3, 32, 32))
    assert made.shape == (3, 9)
    assert np.allclose(made.norm(dim=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet9", "among resnet18, .*'package.module:factory', found 'resnet9'"),
        (None, "found None"),
        ("no.such:thing", "cannot be imported"),
        ("tests.extraction.samples:none", "cannot be imported"),
        ("builtins:repr", "to return a torch module, found str"),
    ],
)
def test_names_that_are_no_encoder(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model_for(Options(ssl_model=name))


def test_a_documented_checkpoint_gives_the_same_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ResNet-50, trained with DataParallel: its options are an object of a class that is not installed here."""
    home = types.ModuleType("nenya.params")
    theirs = type("Params", (), {"__module__": "nenya.params", "run": lambda self: 1 / 0})
    home.Params = theirs  # type: ignore[attr-defined]
    model = SupConResNet("resnet50", 16).eval()
    state = {key.replace("encoder.", "encoder.module."): x for key, x in model.state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "nenya", types.ModuleType("nenya"))
        patch.setitem(sys.modules, "nenya.params", home)
        opt = theirs()
        opt.__dict__.update(feat_dim=16, ssl_model="resnet50")
        torch.save({"opt": opt, "model": state, "optimizer": {"state": {}}, "epoch": 4}, tmp_path / "last.pth")
    loaded = load_weights(SupConResNet("resnet50", 16).eval(), tmp_path / "last.pth")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    with pytest.raises(ConfigError, match=r"Missing key.*encoder\.conv1\.weight.* …; Unexpected key"):
        load_weights(SupConResNet("resnet50", 16), tmp_path / "last.pth", remove_module=False)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 1}])
def test_other_layouts(wrap: Any, tmp_path: Path) -> None:
    model = ready(seed=3)
    torch.save(wrap({f"module.{key}": x for key, x in model.state_dict().items()}), tmp_path / "w.pth")
    loaded = load_weights(ready(seed=4), tmp_path / "w.pth")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil"),)


def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": ready().state_dict(), "opt": Evil()}, "last.pth")
    with pytest.raises(ChunkError, match="expected a checkpoint of tensors and plain values"):
        load_weights(ready(), "last.pth")
    assert not Path("evil").exists()


def test_our_own_options_in_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text('{"trial": 1}')
    torch.save({"model": ready().state_dict(), "opt": Params(tmp_path / "o.json")}, tmp_path / "last.pth")
    load_weights(ready(), tmp_path / "last.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_bytes_that_are_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.pth").write_bytes(content)
    with pytest.raises(ChunkError, match=r"last.pth: expected a checkpoint"):
        load_weights(ready(), tmp_path / "last.pth")


@pytest.mark.parametrize("found", [{"model": {}}, [1], {"model": {"w": 3}}, {"epoch": 3}])
def test_checkpoints_without_weights(found: Any, tmp_path: Path) -> None:
    torch.save(found, tmp_path / "last.pth")
    with pytest.raises(ChunkError, match="expected a state dict"):
        load_weights(ready(), tmp_path / "last.pth")


def test_weights_of_another_model(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"another model: size mismatch for weight: .*\[3, 2\]"):
        load_weights(nn.Linear(2, 4), tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError):
        load_weights(nn.Linear(2, 4), tmp_path / "none.pth")
