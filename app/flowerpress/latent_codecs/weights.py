"""Weights of learned codecs, by the digest of what they hold: both ends must have the same, so they go by that name.

::

    <cache folder>/weights/<digest>.fpb     a state dict with the tables of its entropy models, as a bundle

A file is checked against its name when it is read. Nothing here is removed by itself.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.content import cache_folder, digest_of, is_digest
from flowerpress.chunks.pack import pack, save
from flowerpress.codecs.dtypes import ArrayLike, to_host, to_tensor
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from flowerpress.latent_codecs.frames import Frame

VIT, SCALE = "vit-union", "scale-hyperprior"
MODELS = (VIT, SCALE)


def install(weights: Mapping[str, ArrayLike]) -> str:
    """Keep the weights of a codec on this machine; return their digest.

    Raises ConfigError if they have no tables: `update` makes them, after training.
    """
    arrays = {key: np.asarray(to_host(x)) for key, x in weights.items()}
    if not any(key.endswith("_quantized_cdf") and x.size for key, x in arrays.items()):
        raise ConfigError("expected the weights of a codec with tables of probabilities: run update() before saving")
    digest = digest_of(arrays)
    path = _path(digest)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, pack(arrays))
    return digest


def installed(name: str) -> str:
    """Return the digest of the weights in a file, which are kept on this machine then; other names as they are."""
    path = Path(name)
    if is_digest(name) or not path.is_file():
        return name
    found = path.stat()
    return _of_file(path.absolute(), found.st_mtime_ns, found.st_size, cache_folder())


def weights_of(digest: str) -> dict[str, "torch.Tensor"]:
    """Return weights as a state dict; ConfigError if they are not on this machine, or damaged."""
    path = _path(digest)
    if not (is_digest(digest) and path.is_file()):
        raise ConfigError(f"no weights {digest!r} are in {path.parent}; add them: flowerpress cache weights FILE")
    arrays = Bundle.open(path).read_all()
    if digest_of(arrays) != digest:
        raise ConfigError(f"{path}: expected weights of that digest, found others: remove the file, and add them again")
    return {key: to_tensor(x) for key, x in arrays.items()}


def frame_of(kind: str, digest: str, device: str) -> "Frame":
    """Return what codes arrays with these weights on a device; it is made once. ConfigError as `weights_of` has it."""
    return _frame(kind, digest, device, cache_folder())


@lru_cache(maxsize=4)
def _frame(kind: str, digest: str, device: str, folder: Path) -> "Frame":
    del folder  # another one may have other weights
    from flowerpress.latent_codecs.frames import Planes, Tokens
    from flowerpress.latent_codecs.scale import FeatureScaleHyperprior
    from flowerpress.latent_codecs.vit import VitUnionLatentCodec

    state = weights_of(digest)
    if kind == SCALE:
        return Planes(FeatureScaleHyperprior.from_state_dict(state).to(device).eval())
    return Tokens(VitUnionLatentCodec.from_state_dict(state).to(device).eval())


@lru_cache(maxsize=64)
def _of_file(path: Path, changed: int, size: int, folder: Path) -> str:
    del changed, size, folder  # of the file whose digest is known, and where its weights are kept
    from flowerpress.arrays.files import arrays_of_file

    return install(arrays_of_file(path))


def _path(digest: str) -> Path:
    return cache_folder() / "weights" / f"{digest}.fpb"
