"""Records on disk by the digest of what they hold: the references that both ends code against. ::

    <folder>/<digest>/record       the arrays as a bundle, uncompressed, so that each is read where it is needed
    <folder>/<digest>/<holder>     empty: somebody holds the record; one that nobody holds any longer is removed

All processes of a machine share a store: what one virtual client decoded, the next one only maps. Folders are written
and removed under one lock, and read without it. Nothing in them is believed: a record is checked against its digest
whenever it is read, and a damaged one counts as missing.
"""

import logging
import mmap
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from flowerpress.chunks.bundle import Bundle, Memory
from flowerpress.chunks.content import FOLDER, cache_folder, digest_of, is_digest
from flowerpress.chunks.pack import pack, save
from flowerpress.codecs.dtypes import ArrayLike
from flowerpress.errors import ChunkError, ConfigError

SEED = "seed"  # the holder of records that users added
MOST = "FLOWERPRESS_CACHE_BYTES"  # an environment variable
STALE = 7 * 24 * 3600  # seconds without use after which a record goes: a client is not told that its run has ended
_DEFAULT_MOST = 8 << 30
_log = logging.getLogger("flwr")


class Store:
    """A folder of records, which processes and virtual clients share.

    Parameters
    ----------
    folder : Path, optional
        By default ``$FLOWERPRESS_CACHE``, or ``flowerpress`` in the user's cache folder.
    most_bytes : int, optional
        Bytes on disk above which the records used least recently are removed, held or not; by default
        ``$FLOWERPRESS_CACHE_BYTES``, or 8 GiB.

    Raises
    ------
    ConfigError
        If ``$FLOWERPRESS_CACHE_BYTES`` is no number.

    Notes
    -----
    Records that were not used for a week are removed too, seeds excepted.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int | None = None) -> None:
        self.folder = Path(folder or cache_folder())
        self.most_bytes = _most_bytes() if most_bytes is None else most_bytes

    def __iter__(self) -> Iterator[str]:
        """Iterate over the digests that are there, the ones used last first."""
        return iter(sorted(filter(self.__contains__, self._folders()), key=self._used, reverse=True))

    def __contains__(self, digest: str) -> bool:
        return is_digest(digest) and os.path.isfile(self._record(digest))

    def nbytes(self, digest: str) -> int:
        """Return the bytes that a record takes on disk; 0 if it is not there."""
        with suppress(OSError):
            return sum(path.stat().st_size for path in (self.folder / digest).iterdir())
        return 0

    def holders(self, digest: str) -> set[str]:
        """Return who holds a record."""
        with suppress(OSError):
            names = {path.name for path in (self.folder / digest).iterdir()}
            return {name for name in names if name != "record" and not name.startswith(".")}
        return set()

    def rows(self) -> list[dict[str, Any]]:
        """Describe each record, the one used last first: digest, arrays, bytes, holders, seed, used (a time stamp)."""
        rows = []
        for digest in self:
            with suppress(ChunkError):  # removed meanwhile, or damaged
                holders = self.holders(digest)
                rows.append(
                    {
                        "digest": digest,
                        "arrays": len(Bundle.open(self._record(digest))),
                        "bytes": self.nbytes(digest),
                        "holders": len(holders),
                        "seed": SEED in holders,
                        "used": self._used(digest),
                    }
                )
        return rows

    def get(self, digest: str) -> Bundle | None:
        """Return a record, mapped; None if it is not there, or damaged, and then it is removed."""
        if digest not in self:
            return None
        try:
            with self._record(digest).open("rb") as file:
                bundle = Bundle(Memory(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
            if digest_of(bundle) == digest:
                with suppress(OSError):  # it may be on a disk that is read-only
                    os.utime(self._record(digest))
                return bundle
        except OSError:  # removed meanwhile, or not ours to read
            return None
        except ValueError as error:  # ChunkError is one, as is mapping an empty file
            _log.debug("flowerpress: %s: %s", digest, error)
        _log.warning("flowerpress: the record %s in %s is damaged and was removed", digest, self.folder)
        self._remove(digest)
        return None

    def add(self, digest: str, arrays: Mapping[str, ArrayLike], holder: str) -> Bundle:
        """Store a record for ``holder``, unless it is there, and return it.

        A record that the disk, or the limit, has no room for is returned all the same, and is not in the store then.
        """
        if self._hold(digest, holder) and (found := self.get(digest)) is not None:
            return found
        data = pack(dict(arrays), "raw", keep_input=False)
        written = self.get(digest) if self._write(digest, data, holder) else None
        return Bundle(data) if written is None else written

    def seed(self, arrays: Mapping[str, ArrayLike]) -> str:
        """Store a record that stays until the store is cleared, or full; return its digest.

        Raises ConfigError if it cannot be stored.
        """
        digest = digest_of(arrays)
        self.add(digest, arrays, SEED)
        if SEED not in self.holders(digest):
            raise ConfigError(f"{self.folder} cannot take the record; choose another with {FOLDER}, or raise {MOST}")
        return digest

    def keep(self, holder: str, digests: Collection[str]) -> None:
        """Say that ``holder`` holds these records and no others; records that nobody holds then are removed."""
        for digest in self:
            if digest in digests:
                self._hold(digest, holder)
            else:
                self._release(digest, holder)
        self._expire()

    def clear(self, *, keep_seeds: bool = False) -> int:
        """Remove all records, or all but the seeds, held or not; return the bytes that were freed."""
        folders = [d for d in self._folders() if not (keep_seeds and SEED in self.holders(d))]
        before = sum(map(self.nbytes, folders))
        for digest in folders:
            self._remove(digest)
        return before - sum(map(self.nbytes, folders))

    def _write(self, digest: str, data: bytes, holder: str) -> bool:
        if len(data) > self.most_bytes:
            _log.warning("flowerpress: %d bytes are over the limit of %s; set %s", len(data), self.folder, MOST)
            return False
        try:
            with self._lock():
                if digest not in self:  # nobody else has written it meanwhile
                    self._remove(digest)  # what a writer left that was killed
                    self._make_room(len(data))
                    self._record(digest).parent.mkdir(parents=True, exist_ok=True)
                    save(self._record(digest), data)
                (self.folder / digest / holder).touch()
        except OSError as error:
            _log.warning("flowerpress: cannot keep a model in %s: %s; it will be sent whole again", self.folder, error)
            return False
        return True

    def _make_room(self, nbytes: int) -> None:
        """Remove the records used least recently until ``nbytes`` more fit."""
        self._expire()
        sizes = {digest: self.nbytes(digest) for digest in self._folders()}
        for oldest in sorted(sizes, key=self._used):
            if sum(sizes.values()) + nbytes <= self.most_bytes:
                return
            del sizes[oldest]
            self._remove(oldest)

    def _expire(self) -> None:
        """Remove what nobody used for too long."""
        for digest in self._folders():  # one that another process removes meanwhile was never used
            if 0 < self._used(digest) < time.time() - STALE and SEED not in self.holders(digest):
                self._remove(digest)

    def _hold(self, digest: str, holder: str) -> bool:
        """Hold a record, before it is read: others may let go of it. Return False if it was not there to be held."""
        marker = self.folder / digest / holder
        if digest not in self:
            return False
        if not os.path.exists(marker):
            try:
                with self._lock():
                    marker.touch()
            except FileNotFoundError:  # somebody else has removed the record
                return False
            except OSError as error:  # a volume that is read-only can be read all the same
                _log.debug("flowerpress: %s: %s", marker, error)
        return True

    def _release(self, digest: str, holder: str) -> None:
        marker = self.folder / digest / holder
        if os.path.exists(marker):
            with suppress(OSError), self._lock():
                marker.unlink(missing_ok=True)
                if not self.holders(digest):
                    self._remove(digest)

    def _remove(self, digest: str) -> None:
        with suppress(OSError), self._lock():
            shutil.rmtree(self.folder / digest, ignore_errors=True)

    def _lock(self) -> FileLock:
        # as a singleton, a thread may take it twice: a ledger lets its records go when it is collected, at any moment
        return FileLock(self.folder / ".lock", is_singleton=True)

    def _record(self, digest: str) -> Path:
        return self.folder / digest / "record"

    def _used(self, digest: str) -> float:
        """Return when a record was used last; when its folder was made, while there is no record in it."""
        for path in (self._record(digest), self.folder / digest):
            with suppress(OSError):
                return path.stat().st_mtime
        return 0.0

    def _folders(self) -> list[str]:
        """Return the digests that have a folder, which may be without a record: see `_write`."""
        with suppress(OSError):
            return [path.name for path in self.folder.iterdir() if is_digest(path.name)]
        return []


def _most_bytes() -> int:
    text = os.environ.get(MOST) or _DEFAULT_MOST
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{MOST}: expected a number of bytes, found {text!r}") from None
