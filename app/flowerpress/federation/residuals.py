"""Residuals on disk: each a file of one node, which no other reads, named by the digest of its bytes. ::

    <folder of the Store>/residuals/<run>-<node>-<digest>

The `Store` looks at all that it holds whenever that changes; a machine with a thousand virtual clients has two thousand
residuals, which change with every reply. Nothing in them is believed: a damaged one counts as missing.
"""

import logging
import mmap
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress

import xxhash

from flowerpress.chunks.bundle import Bundle, Memory
from flowerpress.chunks.pack import pack, save
from flowerpress.codecs.dtypes import ArrayLike
from flowerpress.federation.store import STALE, Store

_log = logging.getLogger("flwr")


class Residuals:
    """A folder of residuals, which takes as many bytes as a store may, at most; those written first go first.

    Parameters
    ----------
    store : Store, optional
        Whose folder, and limit, it is.
    """

    def __init__(self, store: Store | None = None) -> None:
        store = store or Store()
        self.folder, self.most_bytes = store.folder / "residuals", store.most_bytes

    def put(self, owner: str, arrays: Mapping[str, ArrayLike]) -> str:
        """Write arrays to a file of this owner and return its digest; with no room on the disk, it will be missing."""
        data = pack(dict(arrays), "raw", keep_input=False)
        digest = xxhash.xxh3_128_hexdigest(data)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save(self.folder / f"{owner}-{digest}", data)
        except OSError as error:
            _log.warning("flowerpress: cannot keep a residual in %s: %s; it is left out", self.folder, error)
        return digest

    def get(self, owner: str, digest: str) -> Bundle | None:
        """Return what this owner wrote, mapped; None if it is not there, or damaged."""
        try:
            with (self.folder / f"{owner}-{digest}").open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # an empty file cannot be mapped
            return None
        return Bundle(Memory(data)) if xxhash.xxh3_128_hexdigest(data) == digest else None

    def keep(self, owner: str, digests: Collection[str]) -> None:
        """Remove the other files of this owner; those that are old, too, and those for which there is no room."""
        mine, total, now = {f"{owner}-{digest}" for digest in digests}, 0, time.time()
        for name, status in sorted(self._files().items(), key=lambda file: -file[1].st_mtime):
            total += status.st_size
            let_go = name.startswith(f"{owner}-") and name not in mine
            if let_go or status.st_mtime < now - STALE or total > self.most_bytes:
                self._remove(name)

    def clear(self) -> int:
        """Remove all residuals; return the bytes that were freed."""
        files = self._files()
        for name in files:
            self._remove(name)
        return sum(files[name].st_size for name in files.keys() - self._files().keys())

    def _files(self) -> dict[str, os.stat_result]:
        found = {}
        with suppress(OSError):
            for file in os.scandir(self.folder):
                with suppress(OSError):  # another process has removed it
                    found[file.name] = file.stat()
        return found

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / name).unlink()
