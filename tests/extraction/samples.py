"""A small encoder, option files and HDF5 files, for tests that extract latents."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

OPTIONS: dict[str, Any] = {
    "ssl_method": "SimCLR",
    "ssl_model": "tests.extraction.samples:small",
    "feat_dim": 5,
    "model_root": "ROOT",
    "learning_rate": 0.05,
    "lr_decay_epochs": "700, 800, 900",
    "weight_decay": 1e-4,
    "batch_size_train": 64,
    "batch_size_valid": 4,
    "num_workers": 1,
    "temp": 0.07,
    "trial": 5,
    "cosine": True,
}
NAME = "SimCLR_tests.extraction.samples:small_lr_0.05_decay_0.0001_bsz_64_temp_0.07_trial_5_cosine"


def small(opt: Any) -> nn.Module:
    """Return an encoder that takes milliseconds."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(opt.feat_dim))


def ready(size: int = 6, seed: int = 1) -> nn.Module:
    """Return a small encoder of images of some size, with weights by chance."""
    torch.manual_seed(seed)

    class Opt:
        feat_dim = 5

    model = small(Opt)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return model


def images(n: int, size: int = 6, seed: int = 0) -> np.ndarray:
    """Return grey images of shape (n, 1, size, size)."""
    return np.random.default_rng(seed).normal(size=(n, 1, size, size)).astype(np.float32)


def write(path: Path, **partitions: np.ndarray) -> Path:
    """Write an HDF5 file with these partitions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, data in partitions.items():
            file[name] = data
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    """Return all partitions of an HDF5 file."""
    with h5py.File(path, "r") as file:
        return {name: file[name][...] for name in file}


def expected(model: nn.Module, data: np.ndarray) -> np.ndarray:
    """Return the latents of grey images, of shape (n, 1, size, size), by a plain call."""
    with torch.no_grad():
        return model.eval()(torch.from_numpy(data.astype(np.float32)).repeat(1, 3, 1, 1)).numpy()


def options(folder: Path, **more: Any) -> Path:
    """Write an option file, whose outputs go to the folder."""
    path = folder / "opts.json"
    path.write_text(json.dumps({**OPTIONS, "s3_outdir": str(folder), **more}))
    return path


def checkpoint(folder: Path, model: nn.Module, **more: Any) -> Path:
    """Save a checkpoint where options say that it is, in the documented layout."""
    path = folder / "models" / "ROOT" / NAME / "last.pth"
    path.parent.mkdir(parents=True)
    torch.save({"model": model.state_dict(), "optimizer": {"lr": 0.1}, "epoch": 3, **more}, path)
    return path


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Tell whether latents are the same, but for the order of sums."""
    return list(a) == list(b) and all(np.allclose(a[key], b[key], atol=1e-6) for key in a)
