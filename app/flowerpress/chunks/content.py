"""Contents by digest, and the folder where this machine keeps some of them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import xxhash

from flowerpress.codecs.base import Spec
from flowerpress.codecs.dtypes import ArrayLike, to_host
from flowerpress.codecs.raw import as_bytes

FOLDER = "FLOWERPRESS_CACHE"  # an environment variable
_DIGEST = re.compile("[0-9a-f]{32}")


def digest_of(arrays: Mapping[str, ArrayLike]) -> str:
    """Return the digest of a record: XXH3-128 over name, dtype, shape and elements of each array, in its order.

    It tells contents apart, it does not prove who made them.
    """
    digest = xxhash.xxh3_128()
    for key in arrays:
        x = to_host(arrays[key])
        spec = Spec.of(x, key)
        digest.update(msgspec.msgpack.encode([spec.key, spec.dtype, spec.shape]))
        digest.update(as_bytes(x))
    return digest.hexdigest()


def is_digest(name: str) -> bool:
    """Tell whether this can be a digest: they come from peers, too, and name files and folders."""
    return _DIGEST.fullmatch(name) is not None


def cache_folder() -> Path:
    """Return ``$FLOWERPRESS_CACHE``, or ``flowerpress`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER) or Path(home) / "flowerpress")
