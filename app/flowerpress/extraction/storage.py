"""Files of this machine and objects of a bucket, under one kind of address: a path, or ``s3://bucket/key``.

What is read or written is what is named, and nothing else: objects are read through a copy in a temporary folder, which
is checked and goes afterwards; files that are ours to read are never changed; what is written appears when it is whole.

Where buckets are, and how one is let in, `flowerpress.arrays.s3` says.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import xxhash

from flowerpress.arrays import s3
from flowerpress.arrays.s3 import SILENT
from flowerpress.chunks.content import cache_folder
from flowerpress.errors import ConfigError

_WHOLE = timedelta(hours=6)  # for an object to arrive
_PART = 5 << 20  # bytes that are sent at once, the least that S3 takes


def is_remote(address: str | Path) -> bool:
    """Tell whether an address is one of an object."""
    return str(address).startswith("s3://")


def name_of(address: str | Path) -> str:
    """Return the last part of an address.

    >>> name_of("s3://bucket/PreProc/a_preproc.h5"), name_of("data/b.h5")
    ('a_preproc.h5', 'b.h5')
    """
    return str(address).rstrip("/").rsplit("/", 1)[-1]


@contextmanager
def reading(address: str | Path) -> Iterator[Path]:
    """Provide a file to read: the very one, or a copy of an object, which is removed at the end.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    OSError
        If it cannot be had, with bucket, key and cause.
    """
    if not is_remote(address):
        if not Path(address).is_file():
            raise FileNotFoundError(f"{address}: there is no such file")
        yield Path(address)
        return
    with tempfile.TemporaryDirectory(prefix="flowerpress-") as folder:
        path = Path(folder, name_of(address))
        _download(str(address), path)
        yield path


def kept(address: str | Path) -> Path:
    """Return a file to read, again and again: the very one, or a copy of an object that this machine keeps.

    The copy is in the cache folder, and is fetched anew when the object is another; the one before goes then.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    OSError
        If it cannot be had, with bucket, key and cause.
    """
    if not is_remote(address):
        return Path(address)
    folder = cache_folder() / "objects" / _digest(str(address))
    copy = folder / f"{_digest(_version(str(address)))}-{name_of(address)}"
    if not copy.is_file():
        with reading(address) as found, writing(copy) as unfinished:
            shutil.copyfile(found, unfinished)
        for older in folder.iterdir():
            if older != copy and not older.name.startswith("."):
                older.unlink(missing_ok=True)
    return copy


@contextmanager
def writing(address: str | Path) -> Iterator[Path]:
    """Provide a file to write, which is at the address when the block has ended well, and nowhere otherwise.

    Raises OSError if it cannot be put there, with bucket, key and cause.
    """
    if is_remote(address):
        with tempfile.TemporaryDirectory(prefix="flowerpress-") as folder:
            path = Path(folder, name_of(address))
            yield path
            _upload(path, str(address))
        return
    target = Path(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        yield path
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)


def exists(address: str | Path) -> bool:
    """Tell whether there is a file or an object; OSError if a bucket does not say."""
    if not is_remote(address):
        return Path(address).is_file()
    import obstore

    with _named(str(address)) as (store, key):
        try:
            obstore.head(store, key)
        except FileNotFoundError:
            return False
    return True


def names(folder: str | Path) -> list[str]:
    """Return the names of the files in a folder, or of the objects behind a prefix; none if there is no such place."""
    if not is_remote(folder):
        return sorted(path.name for path in Path(folder).glob("*") if path.is_file())
    import obstore

    with _named(str(folder)) as (store, key):
        found = obstore.list_with_delimiter(store, f"{key.rstrip('/')}/")
        return sorted(name_of(entry["path"]) for entry in found["objects"])


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def _version(address: str) -> str:
    """Return what changes when an object does."""
    import obstore

    with _named(address) as (store, key):
        meta = obstore.head(store, key)
    return f"{meta['e_tag']} {meta['size']} {meta['last_modified']}"


def _download(address: str, path: Path) -> None:
    """Copy an object to a file; OSError unless it is the object that was there at first, every byte of it."""
    import obstore

    with _named(address) as (store, key):
        meta = obstore.head(store, key)
        options: obstore.GetOptions = {"if_match": meta["e_tag"]} if meta["e_tag"] else {}
        written = 0
        with path.open("wb") as file:
            if meta["size"]:  # of an empty one there is no range
                for part in obstore.get(store, key, options=options).stream(min_chunk_size=_PART):
                    written += file.write(part)
        if written != meta["size"]:
            raise OSError(f"expected {meta['size']} bytes, found {written}")


def _upload(path: Path, address: str) -> None:
    """Copy a file to an object, and check that it is there."""
    import obstore

    with _named(address, most=SILENT) as (store, key):
        obstore.put(store, key, path, chunk_size=_PART, max_concurrency=2)
        found, size = obstore.head(store, key)["size"], path.stat().st_size
        if found != size:
            raise OSError(f"sent {size} bytes, of which {found} are there")


@contextmanager
def _named(address: str, most: timedelta = _WHOLE) -> Iterator[tuple[Any, str]]:
    """Provide the bucket and the key of an address; errors inside name it."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not (bucket and key):
        raise ConfigError(f"expected s3://bucket/key, found {address!r}")
    store = s3.bucket(bucket, most)
    try:
        yield store, key
    except Exception as error:  # obstore's have no common root
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(f"bucket {bucket!r}, key {key!r}: {s3.words(error)}") from error
