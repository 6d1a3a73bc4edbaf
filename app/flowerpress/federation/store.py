"""Records on disk by the digest of what they hold: the references that both ends code against. ::

    <folder>/<digest>/record       the arrays as a bundle, uncompressed, so that each is read where it is needed
    <folder>/<digest>/<holder>     empty: somebody holds the record; one that nobody holds any longer is removed

All processes of a machine share a store: what one virtual client decoded, the next one only maps. Nothing in it is
believed: a record is checked against its digest whenever it is read, and a damaged one counts as missing.
"""

import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import xxhash
from filelock import FileLock

from flowerpress.chunks.bundle import Bundle, Memory
from flowerpress.chunks.pack import pack, save
from flowerpress.codecs.base import Spec
from flowerpress.codecs.dtypes import ArrayLike, Buffer, to_host
from flowerpress.codecs.raw import as_bytes

SEED = "seed"  # the holder of records that users added
FOLDER, MOST = "FLOWERPRESS_CACHE", "FLOWERPRESS_CACHE_BYTES"  # environment variables
_DEFAULT_MOST = 8 << 30
_log = logging.getLogger("flwr")


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


def on_disk(data: Buffer, folder: Path | None = None) -> Memory:
    """Return ``data`` in a file without a name, mapped: the system may take its memory back, and frees it at the end.

    If there is no room on disk, it stays in memory.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(data)
            file.flush()
            return Memory(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError):
        return Memory(data)


class Store:
    """A folder of records, which processes and virtual clients share.

    Parameters
    ----------
    folder : Path, optional
        By default ``$FLOWERPRESS_CACHE``, or ``flowerpress`` in the user's cache folder.
    most_bytes : int, optional
        Bytes on disk above which the records used least recently are removed, held or not; by default
        ``$FLOWERPRESS_CACHE_BYTES``, or 8 GiB.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flowerpress"
        self.folder = Path(folder or os.environ.get(FOLDER) or cache)
        self.most_bytes = int(os.environ.get(MOST, _DEFAULT_MOST)) if most_bytes is None else most_bytes

    def __iter__(self) -> Iterator[str]:
        """Iterate over the digests that are there, the ones used last first."""
        return iter(sorted(self._sizes(), key=self._used, reverse=True))

    def __contains__(self, digest: str) -> bool:
        return bool(digest) and self._record(digest).is_file()

    def nbytes(self, digest: str) -> int:
        """Return the bytes that a record takes on disk; 0 if it is not there."""
        return self._sizes().get(digest, 0)

    def holders(self, digest: str) -> set[str]:
        """Return who holds a record."""
        with suppress(OSError):
            names = {path.name for path in (self.folder / digest).iterdir()}
            return {name for name in names if name != "record" and not name.startswith(".")}
        return set()

    def get(self, digest: str) -> Bundle | None:
        """Return a record, mapped; None if it is not there, or damaged, and then it is removed."""
        if digest not in self:
            return None
        try:
            with self._record(digest).open("rb") as file:
                bundle = Bundle(Memory(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
            bundle.verify()
            if digest_of(bundle) == digest:
                os.utime(self._record(digest))
                return bundle
        except (OSError, ValueError) as error:  # ChunkError is a ValueError, as is mapping an empty file
            _log.debug("flowerpress: %s: %s", digest, error)
        _log.warning("flowerpress: the record %s in %s is damaged and was removed", digest, self.folder)
        self._remove(digest)
        return None

    def add(self, digest: str, arrays: Mapping[str, ArrayLike], holder: str) -> Bundle:
        """Store a record for ``holder``, unless it is there, and return it.

        A record that the disk, or the limit, has no room for is returned all the same, and is not in the store then.
        """
        if (found := self.get(digest)) is None:
            data = pack(dict(arrays), "raw", keep_input=False)
            if not self._write(digest, data):
                return Bundle(on_disk(data))
        self._hold(digest, holder)
        return found or self.get(digest) or Bundle(on_disk(data))

    def keep(self, holder: str, digests: Collection[str]) -> None:
        """Say that ``holder`` holds these records and no others; records that nobody holds then are removed."""
        for digest in self._sizes():
            if digest in digests:
                self._hold(digest, holder)
            else:
                self._release(digest, holder)

    def _write(self, digest: str, data: bytes) -> bool:
        if len(data) > self.most_bytes:
            _log.warning("flowerpress: %d bytes are over the limit of %s; set %s", len(data), self.folder, MOST)
            return False
        try:
            self._record(digest).parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data), digest)
            save(self._record(digest), data)
        except OSError as error:
            _log.warning("flowerpress: cannot keep a model in %s: %s; it will be sent whole again", self.folder, error)
            self._remove(digest)
            return False
        return True

    def _make_room(self, nbytes: int, digest: str) -> None:
        """Remove the records used least recently until ``nbytes`` more fit."""
        sizes = self._sizes()
        sizes.pop(digest, None)
        oldest = sorted(sizes, key=self._used)
        while oldest and sum(sizes.values()) + nbytes > self.most_bytes:
            sizes.pop(oldest[0])
            self._remove(oldest.pop(0))

    def _hold(self, digest: str, holder: str) -> None:
        marker = self.folder / digest / holder
        if not marker.exists():
            with suppress(OSError), self._lock():  # another process may have removed the record
                marker.touch()

    def _release(self, digest: str, holder: str) -> None:
        marker = self.folder / digest / holder
        if not marker.exists():
            return
        with suppress(OSError), self._lock():
            marker.unlink(missing_ok=True)
            if not self.holders(digest):
                shutil.rmtree(self.folder / digest, ignore_errors=True)

    def _remove(self, digest: str) -> None:
        with suppress(OSError), self._lock():
            shutil.rmtree(self.folder / digest, ignore_errors=True)

    def _lock(self) -> FileLock:
        return FileLock(self.folder / ".lock")

    def _record(self, digest: str) -> Path:
        return self.folder / digest / "record"

    def _used(self, digest: str) -> float:
        with suppress(OSError):
            return self._record(digest).stat().st_mtime
        return 0.0

    def _sizes(self) -> dict[str, int]:
        """Return the bytes of each record on disk."""
        sizes = {}
        with suppress(OSError):
            for path in self.folder.iterdir():
                with suppress(OSError):
                    sizes[path.name] = (path / "record").stat().st_size
        return sizes
