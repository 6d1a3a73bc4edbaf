"""Bundles taken apart and put together again, with every length and digest right, as an attacker can."""

from dataclasses import dataclass
from typing import Any

import msgspec
import xxhash
import zstandard

from flowerpress.chunks import schema
from flowerpress.chunks.pack import BY_SCHEMA, TAIL, tail

FRAME = b"\x28\xb5\x2f\xfd"


@dataclass
class Parts:
    """A bundle: its head, the fields of its manifest, and header and payload of each chunk."""

    head: bytes
    fields: Any
    chunks: list[tuple[bytes, bytes]]

    @classmethod
    def of(cls, data: bytes) -> "Parts":
        head, end, at = data[:4], len(data) - TAIL, 4
        fields = msgspec.msgpack.decode(plain(head, data[end - int.from_bytes(data[end : end + 4], "little") : end]))
        chunks = []
        for entry in fields[3]:
            header, payload = (0, entry[3]) if head == BY_SCHEMA else entry[4:6]
            chunks.append((data[at : at + header], data[at + header : at + header + payload]))
            at += header + payload
        return cls(head, fields, chunks)

    def agree(self) -> None:
        """Make the fields say what the chunks are."""
        digests = [xxhash.xxh3_64(header + payload).digest() for header, payload in self.chunks]
        for entry, (header, payload), digest in zip(self.fields[3], self.chunks, digests, strict=True):
            if self.head == BY_SCHEMA:
                entry[3] = len(payload)
            else:
                entry[4:7] = [len(header), len(payload), digest]
        if self.head == BY_SCHEMA:
            self.fields[4] = b"".join(digests)

    def manifest(self) -> bytes:
        """Return the fields as they travel."""
        return self.pressed(msgspec.msgpack.encode(self.fields))

    def pressed(self, encoded: bytes) -> bytes:
        """Return any bytes as a manifest travels."""
        return schema.deflate(encoded) if self.head == BY_SCHEMA else encoded

    def bundle(self, manifest: bytes | None = None) -> bytes:
        """Return the bundle; with another manifest than that of the fields if one is given."""
        manifest = self.manifest() if manifest is None else manifest
        body = b"".join(header + payload for header, payload in self.chunks)
        return self.head + body + manifest + tail(manifest, self.head)


def plain(head: bytes, manifest: bytes) -> bytes:
    if head == BY_SCHEMA:
        return schema.inflate(manifest)
    return zstandard.ZstdDecompressor().decompress(manifest) if manifest[:4] == FRAME else manifest
