"""The table of a raiiaf 1.x file: where its LATN chunks are.

::

    0   6s    "raiiaf"
    6   3 u8  major and minor version, flags
    9   u32   offset of the META chunk: one zstd frame of "META", 4s flags, u32 length, and the manifest as JSON
    13  u32   bytes of the META chunk
    17  16s   counts and sizes that are not needed to read it
"""

import json
import struct
from pathlib import Path
from typing import Any

from flowerpress.codecs.zstd import decompress
from flowerpress.errors import LatentError

_HEADER = struct.Struct("<6sBBBII")
_META = struct.Struct("<4s4sI")
_MOST_MANIFEST = 16 << 20


def read_records(filename: str | Path) -> list[dict[str, Any]]:
    """Return the manifest records of all chunks in a raiiaf file, for `LatentChunks.iter_lazy_latents`.

    Raises LatentError if the file cannot be read, is not raiiaf 1.x, or its manifest is damaged.
    """
    try:
        with Path(filename).open("rb") as file:
            magic, version, _, _, offset, size = _HEADER.unpack(file.read(_HEADER.size))
            if magic != b"raiiaf" or version != 1:
                raise LatentError(f"{filename}: expected a raiiaf file of version 1, found {magic!r} {version}")
            file.seek(offset)
            chunk = decompress(file.read(min(size, _MOST_MANIFEST)), _MOST_MANIFEST, checksum=False)
        kind, _, length = _META.unpack_from(chunk)
        records = json.loads(chunk[_META.size : _META.size + length])["raiiaf_metadata"]["chunks"]
    except (OSError, struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, LatentError):
            raise
        raise LatentError(f"{filename}: cannot read the table of chunks: {error}") from error
    if kind != b"META" or not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
        raise LatentError(f"{filename}: expected a META chunk with a list of records")
    return records
