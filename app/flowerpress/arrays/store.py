"""The checkpoints of a run: rounds that are there whole or not at all, in a folder or in an object store. ::

    rounds/000012.4fd0a1b2/arrays/…         Zarr groups: the model, and what else a round has
    rounds/000012.4fd0a1b2/strategy/…
    rounds/000012.json                      written last: the digest of every file; what has none does not count
    LATEST                                  for people, and to notice that a round is gone

A round that is damaged in any byte is passed over, and the one before it is used. Nothing is written to a folder that a
manifest names, so that what was good stays good.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import xxhash

from flowerpress.arrays import s3, sealed
from flowerpress.arrays.group import LOSSLESS, Group, Writer, write
from flowerpress.arrays.places import Where, buffer, check_writable, settle, store_path, sync
from flowerpress.codecs.dtypes import ArrayLike
from flowerpress.errors import ChunkError, ConfigError, RunError

if TYPE_CHECKING:
    from zarr.storage import StorePath

MODEL = "arrays"  # the group of the model
_VERSION = 1
_MANIFEST = re.compile(r"(\d{6,})\.json")
_FOLDER = re.compile(r"(\d{6,})\.[0-9a-f]{8}")
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_log = logging.getLogger("flwr")


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    round: int
    folder: str
    groups: list[str]
    files: dict[str, sealed.Seal]
    notes: dict[str, Any]
    written: float


@dataclass(frozen=True)
class Checkpoint:
    """A round that was read back.

    Attributes
    ----------
    round : int
        Its number.
    groups : mapping of str to Group
        The arrays of each group, ``"arrays"`` those of the model, read when they are asked for.
    notes : dict
        What was noted with it.
    passed_over : dict of int to str
        Later rounds that are damaged, and how.
    """

    round: int
    groups: Mapping[str, Group]
    notes: Mapping[str, Any]
    passed_over: Mapping[int, str] = field(default_factory=dict)

    @property
    def model(self) -> Group:
        """The arrays of the model. ``LatentRecord.of`` makes a record of them that reads one array at a time."""
        return self.groups[MODEL]


class Checkpoints:
    """The rounds of one run. Of several processes that write a round, the first has it, and the others fail.

    Parameters
    ----------
    where : str, Path, zarr Store or StorePath
        A folder, a URL, or a place in a store.
    keep : int
        How many of the last rounds stay; 0 for all.
    every : int
        Rounds whose number is a multiple of it stay as well; 0 for none.
    codec : str
        The lossless pipeline that codes chunks; "" for codecs of Zarr's own, which need nothing of ours to be read.

    Raises
    ------
    ConfigError
        For a place that cannot be one, numbers below 0, or a pipeline that loses anything.
    """

    def __init__(self, where: Where, *, keep: int = 3, every: int = 0, codec: str = LOSSLESS) -> None:
        for name, value in (("keep", keep), ("every", every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"Checkpoints: expected {name} of 0 or more, found {value!r}")
        self.where: StorePath = store_path(where)
        self.keep, self.every, self._codec = keep, every, codec
        Writer(self.where, codec)

    def rounds(self) -> list[int]:
        """Return the numbers of the rounds that are there, in order, damaged ones included."""
        found = (_MANIFEST.fullmatch(name) for name in sync(_names(self.where / "rounds")))
        return sorted(int(match[1]) for match in found if match)

    def save(
        self,
        number: int,
        model: Mapping[str, ArrayLike],
        *,
        groups: Mapping[str, Mapping[str, ArrayLike]] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a round: it is there when this returns, and what was good is as it was if it raises.

        Parameters
        ----------
        number : int
            Of the round.
        model : mapping of str to ndarray or tensor
            Read array by array, once.
        groups : mapping of str to mapping, optional
            More arrays, such as those of the strategy, by the name of their group.
        notes : mapping, optional
            What JSON can hold.

        Raises
        ------
        ConfigError
            For arrays, names or notes that cannot be stored, a round that is there and not damaged, or a store that
            can only be read.
        RunError
            If the disk or the store did not take it.
        """
        groups = {MODEL: model, **(groups or {})}
        if strange := [name for name in groups if not _NAME.fullmatch(name)]:
            raise ConfigError(f"Checkpoints: expected names of groups like 'strategy', found {strange}")
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ConfigError(f"Checkpoints: expected a round of 0 or more, found {number!r}")
        check_writable(self.where)
        folder = f"{number:06d}.{uuid.uuid4().hex[:8]}"
        try:
            if number in self.rounds():
                self._remove_damaged(number)
            self._sweep(number)
            self._write(number, folder, groups, dict(notes or {}))
        except BaseException as error:
            self._failed(number, folder, error)
            raise
        try:
            self._retire()
        except OSError as error:
            _log.warning("flowerpress: old rounds of %s could not be removed: %s", self.where, error)

    def load(self, number: int | None = None) -> Checkpoint | None:
        """Return a round, every byte of it checked; by default the last that is good, or None if there is none.

        Raises ChunkError if the round that is asked for is not there, or damaged.
        """
        if number is not None:
            return self._checked(number)
        passed = dict[int, str]()
        rounds = self.rounds()
        if (latest := self._latest()) is not None and latest not in rounds:
            passed[latest] = "its manifest is gone"
        for candidate in reversed(rounds):
            try:
                found = self._checked(candidate)
            except ChunkError as error:
                passed[candidate] = str(error)
                continue
            for skipped, reason in passed.items():
                _log.warning("flowerpress: round %d in %s is passed over: %s", skipped, self.where, reason)
            return Checkpoint(found.round, found.groups, found.notes, passed)
        if passed:
            raise ChunkError(f"{self.where}: no round is good: {passed}")
        return None

    def _failed(self, number: int, folder: str, error: BaseException) -> None:
        """Clean up behind a round that could not be written; raise what says so, if that is not the error itself."""
        if not s3.is_failure(error):  # behind one, nothing can be removed either: that goes when a round is there
            with suppress(Exception):
                settle()
                self._sweep(number, folder)
            if (
                isinstance(error, Exception)
                and not isinstance(error, ConfigError)
                and self._is_of_another(number, folder)
            ):
                raise ConfigError(f"Checkpoints: someone else has written round {number} to {self.where}") from error
        if isinstance(error, OSError) or s3.is_failure(error):
            raise RunError(f"round {number} could not be written to {self.where}: {s3.words(error)}") from error

    def _write(self, number: int, folder: str, groups: Mapping[str, Mapping[str, ArrayLike]], notes: Any) -> None:  # noqa: ANN401
        from zarr.storage import StorePath

        files = dict[str, sealed.Seal]()
        store = sealed.recording(self.where / "rounds" / folder, files)
        for name, arrays in groups.items():
            write(StorePath(store, name), arrays, self._codec)
        manifest = _Manifest(_VERSION, number, folder, list(groups), files, notes, time.time())
        sync(self._create(self.where / f"rounds/{number:06d}.json", _encode(manifest)))
        with suppress(OSError):  # the round is there
            sync((self.where / "LATEST").set(buffer(f"{number}\n".encode())))

    async def _create(self, where: "StorePath", data: bytes) -> None:
        """Write a manifest; of two writers the first wins."""
        await where.set_if_not_exists(buffer(data))
        if await _get(where) != data:
            raise ConfigError(f"Checkpoints: someone else has written {where} meanwhile")

    def _is_of_another(self, number: int, folder: str) -> bool:
        """Tell whether a round is there that is not the one in this folder."""
        with suppress(ChunkError):
            return self._manifest(number).folder != folder
        return False

    def _remove_damaged(self, number: int) -> None:
        with suppress(ChunkError):
            self._checked(number)
            raise ConfigError(f"Checkpoints: round {number} is in {self.where} already")
        sync((self.where / f"rounds/{number:06d}.json").delete())

    def _checked(self, number: int) -> Checkpoint:
        """Return a round whose files are all as they were written."""
        from zarr.storage import StorePath

        manifest = self._manifest(number)
        store = sealed.checked(self.where / "rounds" / manifest.folder, manifest.files)
        sync(_read_all(store, manifest.files))
        groups = {name: Group(StorePath(store, name)) for name in manifest.groups}
        return Checkpoint(manifest.round, groups, manifest.notes)

    def _manifest(self, number: int) -> _Manifest:
        name = f"rounds/{number:06d}.json"
        data = sync(_get(self.where / name))
        if data is None:
            raise ChunkError(f"{self.where}: there is no round {number}")
        try:
            manifest = _decode(data)
        except (ValueError, RecursionError) as error:
            raise ChunkError(f"{self.where}/{name} is damaged: {error}") from error
        if manifest.version != _VERSION:
            raise ChunkError(f"{self.where}/{name}: expected version {_VERSION}, found {manifest.version}; upgrade")
        match = _FOLDER.fullmatch(manifest.folder)
        if not match or int(match[1]) != number or manifest.round != number or MODEL not in manifest.groups:
            raise ChunkError(f"{self.where}/{name} is not of round {number}")
        return manifest

    def _latest(self) -> int | None:
        with suppress(ValueError):
            return int(sync(_get(self.where / "LATEST")) or b"")
        return None

    def _retire(self) -> None:
        """Remove rounds that are not to stay: their manifests, and then their files."""
        rounds = self.rounds()
        for old in rounds[: -self.keep] if self.keep else []:
            if not (self.every and old % self.every == 0):
                sync((self.where / f"rounds/{old:06d}.json").delete())
        self._sweep(rounds[-1])

    def _sweep(self, number: int, failed: str = "") -> None:
        """Remove what no manifest names: of rounds before this one, of rounds that are there, and what ``failed``.

        It is of writers that were killed, or that lost. Somebody else may be writing this round.
        """
        folders, named, there = sync(_names(self.where / "rounds")), set(), self.rounds()
        for here in there:
            with suppress(ChunkError):
                named.add(self._manifest(here).folder)
        for name in folders:
            match = _FOLDER.fullmatch(name)
            if match and name not in named and (name == failed or int(match[1]) < number or int(match[1]) in there):
                with suppress(OSError):  # somebody else removes it, too
                    sync((self.where / "rounds" / name).delete_dir())


def _encode(manifest: _Manifest) -> bytes:
    """Return a manifest as JSON, and its digest on a line of its own."""
    try:
        data = json.dumps(msgspec.to_builtins(manifest), allow_nan=True).encode()
    except TypeError as error:
        raise ConfigError(f"Checkpoints: expected notes that JSON can hold: {error}") from error
    return data + b"\n" + xxhash.xxh3_128_hexdigest(data).encode() + b"\n"


def _decode(data: bytes) -> _Manifest:
    body, _, end = data.rpartition(b"\n")[0].rpartition(b"\n")
    if not data.endswith(b"\n") or xxhash.xxh3_128_hexdigest(body).encode() != end:
        raise ValueError("its digest is another one")
    return msgspec.convert(json.loads(body), _Manifest)


async def _names(where: "StorePath") -> list[str]:
    """Return the names directly below a place."""
    return [name async for name in where.store.list_dir(where.path)]


async def _get(where: "StorePath") -> bytes | None:
    found = await where.get()
    return None if found is None else found.to_bytes()


async def _read_all(store: Any, keys: Iterable[str]) -> None:  # noqa: ANN401 - a store that checks
    for key in keys:
        await store.get(key)
