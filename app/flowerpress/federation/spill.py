"""Large replies wait on disk, in one file without a name: however many a strategy keeps, they take no memory.

The disk is free again when the last reply, and the spill, are gone, or the process ends.
"""

import tempfile
import threading
from pathlib import Path

from flowerpress.chunks.bundle import Memory, Source
from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ChunkError

LARGE = 1 << 20  # bytes from which it is worth a trip to the disk


class _File:
    """A file that several parts share, and close when the last one goes."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed below

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def append(self, data: bytes) -> int:
        """Write ``data`` at the end; return where it begins."""
        with self._lock:
            start = self._file.seek(0, 2)
            self._file.write(data)
            self._file.flush()
        return start

    def read(self, start: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)


class _Part:
    """A stretch of a file."""

    def __init__(self, file: _File, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size

    def __len__(self) -> int:
        return self._size

    def read(self, start: int, stop: int) -> Buffer:
        data = self._file.read(self._start + start, stop - start)
        if len(data) != stop - start:
            raise ChunkError("bundle: the file in which it waited is shorter than it was written")
        return data


class Spill:
    """Where replies wait, in ``folder``; one file descriptor for all of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: _File | None = None

    def put(self, data: bytes) -> Source:
        """Return ``data`` as a source that is on disk if it is large; in memory if the disk has no room."""
        if len(data) < LARGE:
            return Memory(data)
        try:
            self._file = self._file or _File(self._folder)
            return _Part(self._file, self._file.append(data), len(data))
        except OSError:
            return Memory(data)
