"""Stores between Zarr and a folder of a store: one that notes the digest of every file written, one that checks them.

Zarr reads a chunk that is not there as zeros, and has no checksum for metadata. Behind a store that checks, a file that
is missing or damaged is an error, and one that was not written does not exist. Where there are no digests, a third
store at least misses chunks.
"""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import xxhash

from flowerpress.arrays.places import METADATA
from flowerpress.errors import ChunkError

if TYPE_CHECKING:
    from zarr.storage import StorePath

Seal = tuple[int, str]  # bytes and XXH3-128 of a file
_OPTIONAL = (*METADATA, ".zattrs")  # which Zarr looks for in turn


def recording(folder: "StorePath", files: dict[str, Seal]) -> Any:  # noqa: ANN401 - a Zarr store
    """Return a store that writes to a folder, and notes in ``files`` what it wrote, by key."""
    return _classes()[0](folder, files)


def checked(folder: "StorePath", files: Mapping[str, Seal]) -> Any:  # noqa: ANN401 - a Zarr store
    """Return a store that reads these files of a folder and no others; ChunkError for one that is not as noted."""
    return _classes()[1](folder, files)


def whole(array: "StorePath") -> "StorePath":
    """Return the place of an array that has all its chunks, for reading: ChunkError for one that is not there."""
    return type(array)(_classes()[2](array.store), array.path)


def _seal(data: bytes) -> Seal:
    return len(data), xxhash.xxh3_128_hexdigest(data)


@cache
def _classes() -> tuple[Any, Any, Any]:
    """Make the classes when they are first used: their base is Zarr's."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import WrapperStore

    class Sealed(WrapperStore[Any]):
        def __init__(self, folder: Any, files: Any) -> None:  # noqa: ANN401
            super().__init__(folder.store)
            self.folder, self.files = folder, files

        def _with_store(self, store: Any) -> Any:  # noqa: ANN401 - how WrapperStore copies itself
            return type(self)(type(self.folder)(store, self.folder.path), self.files)

        def __str__(self) -> str:
            return str(self.folder)

        async def exists(self, key: str) -> bool:
            return key in self.files

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:  # noqa: ANN401
            if key not in self.files:
                return None
            buffer = await (self.folder / key).get(prototype or default_buffer_prototype())
            found = None if buffer is None else _seal(buffer.to_bytes())
            if found != self.files[key]:
                state = "it is gone" if found is None else f"found {found[0]} bytes of another digest"
                raise ChunkError(f"{self.folder / key}: expected {self.files[key][0]} bytes, {state}")
            if byte_range is not None:
                raise ChunkError(f"{self.folder / key}: a part of a file cannot be checked")
            return buffer

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:  # noqa: ANN401
            return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

        async def getsize_prefix(self, prefix: str) -> int:
            return sum(size for key, (size, _) in self.files.items() if key.startswith(f"{prefix.rstrip('/')}/"))

    class Recording(Sealed):
        async def set(self, key: str, value: Any) -> None:  # noqa: ANN401
            await (self.folder / key).set(value)
            self.files[key] = _seal(value.to_bytes())

        async def set_if_not_exists(self, key: str, value: Any) -> None:  # noqa: ANN401
            if key not in self.files:
                await self.set(key, value)

        async def _set_many(self, values: Any) -> None:  # noqa: ANN401
            for key, value in values:
                await self.set(key, value)

    class Whole(WrapperStore[Any]):
        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:  # noqa: ANN401
            found = await self._store.get(key, prototype, byte_range)
            if found is None and not key.endswith(_OPTIONAL):
                raise ChunkError(f"{self._store}/{key}: expected a chunk, it is gone")
            return found

        async def getsize_prefix(self, prefix: str) -> int:  # WrapperStore's would read all chunks
            return int(await self._store.getsize_prefix(prefix))

        def __str__(self) -> str:
            return str(self._store)

    return Recording, Sealed, Whole
