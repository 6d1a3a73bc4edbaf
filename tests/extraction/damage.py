"""HDF5 files that somebody damages, mostly where HDF5 keeps its own structures, and what becomes of their latents."""

import random
import time
from collections import Counter
from pathlib import Path

import h5py
import pytest
import torch
from torch import nn

from flowerpress.errors import FlowerpressError, RunError
from flowerpress.extraction import hdf5, latents, probe
from flowerpress.extraction.encoder import Encoder
from tests.extraction.samples import images, options

DEADLINE = 5.0  # seconds for what HDF5 is asked
MOST = 2 * DEADLINE + 20  # a file: its datasets, a batch, and a worker that is stopped on a loaded machine


class Means(nn.Module):
    """An encoder that takes no time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return two values for each image."""
        return x.mean((2, 3))[:, :2]


def write(path: Path) -> bytes:
    """Write a file with one partition in one piece and one in compressed chunks, attributes and a group; return it."""
    with h5py.File(path, "w") as file:
        file["train"] = images(6)
        file.create_dataset("valid", data=images(9), chunks=(2, 1, 6, 6), compression="gzip", shuffle=True)
        file["valid"].attrs["mean"] = 0.5
        file.create_group("more")["notes"] = "text"
    return path.read_bytes()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return a file with one damage."""
    found = bytearray(data)
    kind = rng.randrange(4)
    at = rng.randrange(len(found)) if kind else rng.randrange(64, 4096) % len(found)
    if kind < 2:
        found[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        found[at : at + 8] = rng.randbytes(len(found[at : at + 8]))
    else:
        del found[at:]
    return bytes(found)


def damage(folder: Path, times: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Extract latents of damaged files by `main`; return how many were done, and how many left out, by the reason.

    It never raises anything but what it says that it raises, takes no longer than its deadlines, and leaves nothing.
    """
    monkeypatch.setattr(probe, "DEADLINE", DEADLINE)
    monkeypatch.setattr(hdf5, "DEADLINE", DEADLINE)
    monkeypatch.setattr(latents.Encoder, "of", classmethod(lambda cls, *_: cls(Means())))
    monkeypatch.setattr(latents, "prep", lambda _: ("", []))
    assert Encoder is latents.Encoder
    rng, outcomes, data = random.Random(seed), Counter[str](), write(folder / "whole.h5")
    opts, source = options(folder), folder / "a_preproc.h5"
    for _ in range(times):
        source.write_bytes(content := damaged(data, rng))
        started = time.monotonic()
        try:
            latents.main(opts, [str(source)], clobber=True)
            outcomes["done"] += 1
        except RunError as error:
            assert isinstance(error, FlowerpressError)  # noqa: PT017
            outcomes[str(error).rpartition("h5: ")[2].split(":", 1)[0][:40]] += 1
        assert time.monotonic() - started < MOST
        assert source.read_bytes() == content
    assert not list(folder.rglob("*.partial"))
    return outcomes
