"""Where a Zarr array can be: a folder, or the keys of a store that begin with a path; and how one gets there whole."""

import asyncio
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from os import walk
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, urlsplit

from flowerpress.arrays import s3
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    import zarr
    from zarr.storage import StoreLike, StorePath

Where: TypeAlias = "str | Path | StoreLike"  # a folder, a URL, or a place in a store
_PATIENCE = 60.0  # seconds
METADATA = ("zarr.json", ".zarray", ".zgroup")  # of Zarr 3, and of arrays and groups of Zarr 2


@dataclass(frozen=True)
class Folder:
    """A folder of the file system."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def check(self, *, overwrite: bool) -> None:
        """Raise FileExistsError if something is here that is not to be replaced."""
        if self._is_taken():
            _check_taken(str(self), any((self.path / name).is_file() for name in METADATA), overwrite)

    def beside(self) -> Path:
        """Return a new hidden folder on the same file system."""
        folder = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:12]}.partial")
        folder.mkdir(parents=True)
        return folder

    def take(self, folder: Path, *, overwrite: bool) -> None:
        """Rename a folder to this place; what was here goes when the new one is in place, or comes back."""
        self.check(overwrite=overwrite)
        old = folder.with_suffix(".old")
        if self._is_taken():
            self.path.rename(old)
        try:
            folder.rename(self.path)
        except OSError:
            if old.exists():
                old.rename(self.path)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def open(self) -> "zarr.Array[Any]":
        """Return the array that is here."""
        import zarr

        return zarr.open_array(self.path, mode="r+")

    def _is_taken(self) -> bool:
        return self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir()))


@dataclass(frozen=True)
class Prefix:
    """The keys of a store that begin with a path; folders are made in the temporary folder, and then copied."""

    where: "StorePath"

    def __str__(self) -> str:
        return str(self.where)

    def check(self, *, overwrite: bool) -> None:
        """Raise FileExistsError if something is here that is not to be replaced; ConfigError if nothing can be."""
        check_writable(self.where)
        if found := sync(self._some()):
            _check_taken(str(self), not found.isdisjoint(METADATA), overwrite)

    def beside(self) -> Path:
        """Return a new folder."""
        return Path(tempfile.mkdtemp(prefix="flowerpress-"))

    def take(self, folder: Path, *, overwrite: bool) -> None:
        """Copy what is in a folder to this place, metadata last: until then there is no array here."""
        self.check(overwrite=overwrite)
        sync(self._take(folder))

    def open(self) -> "zarr.Array[Any]":
        """Return the array that is here; it can be written if the store can."""
        import zarr

        return zarr.open_array(self.where, mode="r" if self.where.store.read_only else "r+")

    async def _some(self) -> set[str]:
        """Return the metadata that are here, or else some key."""
        found = {name for name in METADATA if await (self.where / name).exists()}
        async for key in self.where.store.list_prefix(f"{self.where.path}/" if self.where.path else ""):
            return found | {key}
        return found

    async def _take(self, folder: Path) -> None:
        if await self._some():
            await self.where.delete_dir()
        files = [Path(root) / name for root, _, names in walk(folder) for name in names]
        for file in sorted(files, key=lambda file: file.name in METADATA):
            await (self.where / file.relative_to(folder).as_posix()).set(buffer(file.read_bytes()))


Place = Folder | Prefix


def place_of(where: Where) -> Place:
    """Return the place that a path, a URL or a store means; ConfigError for anything else."""
    from zarr.storage import LocalStore

    found = store_path(where)
    if isinstance(found.store, LocalStore) and not found.store.read_only:
        return Folder(found.store.root / found.path)
    return Prefix(found)


def store_path(where: Where) -> "StorePath":
    """Return the place in a store that a path, a URL or a store means; ConfigError for anything else."""
    from zarr.storage import FsspecStore, LocalStore, ObjectStore, StorePath

    if isinstance(where, StorePath):
        store, path = where.store, where.path
    elif isinstance(where, str) and where.startswith("s3://"):
        address = urlsplit(where)
        store, path = ObjectStore(s3.bucket(address.netloc)), address.path.strip("/")
    elif isinstance(where, str) and "://" in where and urlsplit(where).scheme != "file":
        store, path = FsspecStore.from_url(where), ""
    elif isinstance(where, str | Path):
        folder = unquote(urlsplit(where).path) if isinstance(where, str) and "://" in where else where
        store, path = LocalStore(Path(folder).expanduser().resolve()), ""
    else:
        store, path = _store(where), ""
    if isinstance(store, LocalStore):
        return StorePath(store, path)  # opening it would make the folder
    return sync(StorePath.open(store, path, mode=None))  # type: ignore[no-any-return]


def check_writable(where: "StorePath") -> None:
    """Raise ConfigError for a place in a store that can only be read."""
    if where.store.read_only:
        raise ConfigError(f"{where}: expected a store to write to, found one to read from")


def make_group(where: Where) -> None:
    """Make an empty Zarr group where there is nothing."""
    import zarr

    zarr.create_group(store_path(where))


def _store(where: Any) -> Any:  # noqa: ANN401 - whatever it is
    from zarr.abc.store import Store
    from zarr.storage import MemoryStore

    if isinstance(where, dict):
        return MemoryStore(where)
    if not isinstance(where, Store):
        raise ConfigError(f"expected a path, a URL or a Zarr store, found {type(where).__name__}")
    return where


def _check_taken(name: str, is_zarr: bool, overwrite: bool) -> None:
    if not overwrite:
        raise FileExistsError(f"{name}: something is there already; overwrite=True replaces it")
    if not is_zarr:
        raise FileExistsError(f"{name}: what is there is neither a Zarr array nor a group; remove it, if it may go")


def buffer(data: bytes) -> Any:  # noqa: ANN401 - zarr's
    """Return bytes as stores take them."""
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(data)


def sync(coroutine: Any) -> Any:  # noqa: ANN401 - what it returns
    """Run a coroutine of a store's to its end; what a bucket refuses is an OSError."""
    from zarr.core.sync import sync

    try:
        return sync(coroutine)
    except Exception as error:
        if s3.is_failure(error):
            raise OSError(s3.words(error)) from error
        raise


def settle() -> None:
    """Wait for what Zarr has begun: behind the error of one chunk, others of its array are still being written."""

    async def others() -> None:
        if pending := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(pending, timeout=_PATIENCE)

    sync(others())
