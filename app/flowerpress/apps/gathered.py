"""What the server has of the clients' latents: parts on disk as they come, and one Zarr group when all are there. ::

    parts/<encoder>/<client>-<start>-<rows>-<total>.fpb     latents of images start to start + rows of a client's total
    latents.zarr/{client,index,latents}                     all rows, client by client, in the order of their images

A part is there whole or not at all, so that a run that was stopped, or a client that was, goes on behind it.
"""

import re
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowerpress.arrays.converters import PlainConverter
from flowerpress.arrays.lazy import LazyChunkSequence, NestedLazyChunkSequence, NestedSequenceAggregator
from flowerpress.arrays.places import make_group
from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.pack import pack, save
from flowerpress.errors import ChunkError

ZARR = "latents.zarr"
_PART = re.compile(r"(\d+)-(\d+)-(\d+)-(\d+)\.fpb")
_KEY = "latents"
Kind: TypeAlias = tuple[str, tuple[int, ...]]  # dtype and shape of one latent


class _Rows(NestedSequenceAggregator[NDArray[Any]]):
    """Writes all chunks to an array, one below the other."""

    def __init__(self, where: Path) -> None:
        self._where = where

    def __call__(
        self, nested_generators_of_tensors: Generator[Generator[NDArray[Any], None, None], None, None]
    ) -> None:
        _write(self._where, (part for client in nested_generators_of_tensors for part in client))


class Gathered:
    """Latents of the clients of one run.

    Parameters
    ----------
    folder : Path
        Where the results of the run are.
    encoder : str
        The digest of the encoder: latents of another one are not mixed in.

    Attributes
    ----------
    totals : dict of int to int
        Images of each client that has answered.
    kind : pair or None
        Dtype and shape of one latent, of which all are; None while there is none.
    """

    def __init__(self, folder: Path, encoder: str) -> None:
        self._folder, self._parts = folder, folder / "parts" / encoder
        self._rows: dict[int, list[tuple[int, int, Path]]] = {}  # start, rows and file of each part, by client
        self.totals: dict[int, int] = {}
        self.kind: Kind | None = None
        for path in sorted(self._parts.glob("*.fpb")):
            if match := _PART.fullmatch(path.name):
                client, start, rows, total = map(int, match.groups())
                self._note(client, start, rows, total, path)
                spec = Bundle.open(path).spec(_KEY)
                self.kind = spec.dtype, spec.shape[1:]

    @property
    def images(self) -> int:
        """How many images have their latents here."""
        return sum(map(self.rows, self._rows))

    def rows(self, client: int) -> int:
        """Return how many of a client's images have their latents here, from the first on."""
        return sum(rows for _, rows, _ in self._rows.get(client, []))

    def missing(self, clients: int) -> dict[int, int]:
        """Return how many latents are missing of each of so many clients; -1 of one that has not answered yet."""
        left = {client: self.totals.get(client, -1) - self.rows(client) for client in range(clients)}
        return {client: left if client in self.totals else -1 for client, left in left.items() if left}

    def add(self, client: int, start: int, total: int, latents: NDArray[Any]) -> None:
        """Keep latents of shape (n, …), of a client's images ``start`` to start + n of ``total``.

        Raises ChunkError if they do not go on where those before them end, or are of another kind than all others.
        """
        expected = (self.rows(client), self.totals.get(client, total))
        fits = 0 <= start < start + len(latents) <= total or (len(latents), start) == (0, total)
        if (start, total) != expected or not fits:
            wanted = f"latents from {expected[0]} on, of {expected[1]}"
            raise ChunkError(f"client {client}: expected {wanted}, found {len(latents)} from {start} on, of {total}")
        if not len(latents):
            self.totals[client] = total
            return
        found = latents.dtype.name, latents.shape[1:]
        if (kind := self.kind or found) != found:
            raise ChunkError(f"client {client}: expected latents of {_text(kind)}, as others, found {_text(found)}")
        self._parts.mkdir(parents=True, exist_ok=True)
        path = self._parts / f"{client}-{start:012}-{len(latents)}-{total}.fpb"
        save(path, pack({_KEY: latents}))
        self._note(client, start, len(latents), total, path)
        self.kind = found

    def nested(self) -> "NestedLazyChunkSequence[NDArray[Any]]":
        """Return the parts as they came: clients, and the batches of each; they are read when somebody asks."""
        return NestedLazyChunkSequence(lambda: (self._of(client) for client in sorted(self._rows)))

    def to_zarr(self) -> Path:
        """Write all rows to a Zarr group, one part in memory at a time; the array ``latents`` appears last."""
        where = self._folder / ZARR
        shutil.rmtree(where, ignore_errors=True)
        make_group(where)
        counts = [(client, self.totals[client]) for client in sorted(self.totals)]
        _write(where / "client", (np.full(total, client, np.int64) for client, total in counts))
        _write(where / "index", (np.arange(total) for _, total in counts))
        self.nested().compute(_Rows(where / _KEY))
        shutil.rmtree(self._folder / "parts", ignore_errors=True)
        return where

    def _note(self, client: int, start: int, rows: int, total: int, path: Path) -> None:
        if start == self.rows(client):  # what is not, lost the part before it
            self._rows.setdefault(client, []).append((start, rows, path))
            self.totals[client] = total

    def _of(self, client: int) -> Generator[NDArray[Any], None, None]:
        for _, _, path in self._rows.get(client, []):
            yield Bundle.open(path)[_KEY]


def _write(where: Path, chunks: Generator[NDArray[Any], None, None]) -> None:
    LazyChunkSequence(lambda: chunks).to_zarr(where, PlainConverter())


def _text(kind: Kind) -> str:
    return f"{kind[0]}{list(kind[1])}"
