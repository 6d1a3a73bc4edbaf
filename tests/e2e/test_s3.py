"""Lazy sequences and checkpoints in an S3 bucket, over HTTP."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import ObjectStore, StorePath

from flowerpress import ConfigError, RunError
from flowerpress.arrays.converters import PlainConverter
from flowerpress.arrays.lazy import LazyChunkSequence
from flowerpress.arrays.places import sync
from flowerpress.arrays.store import Checkpoints
from flowerpress.deployment.programs import free_port
from tests.e2e import s3
from tests.e2e.conftest import Outcome

pytestmark = s3.needed


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """Return an obstore of a new bucket."""
    with s3.running() as server:
        yield server.store


def test_a_lazy_sequence(bucket: Any) -> None:
    where, chunks = StorePath(ObjectStore(bucket), "latents"), [np.full((4, 3), i, np.float32) for i in range(5)]
    lazy = LazyChunkSequence(lambda: (chunk for chunk in chunks))
    array = lazy.to_zarr(where, PlainConverter(), return_stored=True)
    assert isinstance(array, zarr.Array)
    assert np.array_equal(array[...], np.concatenate(chunks))
    with pytest.raises(FileExistsError):
        lazy.to_zarr(where, PlainConverter())
    chunks[:] = chunks[:1]
    lazy.to_zarr(where, PlainConverter(), overwrite=True)
    assert zarr.open_array(where, mode="r").shape == (4, 3)


def test_checkpoints(bucket: Any) -> None:
    checkpoints = Checkpoints(StorePath(ObjectStore(bucket), "run"), keep=2)
    models = {number: {"w": np.full((40, 3), number, np.float32), "n": np.array(number)} for number in (1, 2, 3)}
    for number, model in models.items():
        checkpoints.save(number, model, notes={"n": number})
    found = checkpoints.load()
    assert found
    assert (checkpoints.rounds(), found.round, found.notes) == ([2, 3], 3, {"n": 3})
    assert np.array_equal(found.model["w"], models[3]["w"])
    keys = [entry["path"] for page in bucket.list("run/rounds") for entry in page]
    (chunk,) = [key for key in keys if "/000003." in key and key.endswith("arrays/w/c/0/0")]
    bucket.put(chunk, b"damaged")
    found = checkpoints.load()
    assert found
    assert (found.round, list(found.passed_over)) == (2, [3])
    assert not [key for key in keys if "/000001" in key]


def test_of_two_writers_of_a_round_the_first_wins(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    where = StorePath(ObjectStore(bucket), "two")
    one, other = Checkpoints(where), Checkpoints(where)
    create = Checkpoints._create

    async def late(self: Checkpoints, place: Any, data: bytes) -> None:
        """Let the other writer be faster, as this one is about to write its manifest."""
        monkeypatch.setattr(Checkpoints, "_create", create)
        await create(other, place, _manifest_of_the_other)
        await create(self, place, data)

    other.save(1, {"w": np.zeros(3)})
    _manifest_of_the_other = sync((where / "rounds/000001.json").get()).to_bytes()
    sync((where / "rounds/000001.json").delete())
    monkeypatch.setattr(Checkpoints, "_create", late)
    with pytest.raises(ConfigError, match="someone else has written"):
        one.save(1, {"w": np.ones(3)})
    assert sync((where / "rounds/000001.json").get()).to_bytes() == _manifest_of_the_other


def at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Say in the environment where the server is."""
    for name, value in {
        "ACCESS_KEY_ID": "any",
        "SECRET_ACCESS_KEY": "any",
        "ENDPOINT_URL": f"http://{address}",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)


MODEL = {"w": np.arange(300, dtype=np.float32)}


def test_an_address_of_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.running() as server:
        at(monkeypatch, server.address)
        where = f"s3://{server.bucket}/runs/one"
        Checkpoints(where).save(1, MODEL)
        found = Checkpoints(where).load()
        assert found
        assert np.array_equal(found.model["w"], MODEL["w"])
        with s3.busy(server.address, 2) as busy:
            at(monkeypatch, busy)
            Checkpoints(where).save(2, MODEL)
        assert Checkpoints(StorePath(ObjectStore(server.store), "runs/one")).rounds() == [1, 2]


@pytest.mark.parametrize("kind", ["refuses", "hangs", "is busy", "has no such bucket"])
def test_a_bucket_that_fails(kind: str, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    """A round that cannot be written is an error within half a minute; those that were are there."""
    with s3.running() as server, ExitStack() as stack:
        at(monkeypatch, server.address)
        Checkpoints(f"s3://{server.bucket}/run").save(1, MODEL)
        where = f"s3://{server.bucket}{'x' * (kind == 'has no such bucket')}/run"
        if kind == "refuses":
            at(monkeypatch, f"127.0.0.1:{free_port()}")
        elif kind == "is busy":
            at(monkeypatch, stack.enter_context(s3.busy(server.address, 1000)))
        elif kind == "hangs":
            os.kill(server.process.pid, signal.SIGSTOP)
            stack.callback(os.kill, server.process.pid, signal.SIGCONT)
        started = time.monotonic()
        with pytest.raises(RunError, match=r"round 2 could not be written to .*Error: ") as raised:
            Checkpoints(where).save(2, MODEL)
        seconds = time.monotonic() - started
        assert seconds <= 30
        stack.close()
        at(monkeypatch, server.address)
        assert Checkpoints(f"s3://{server.bucket}/run").rounds() == [1]
        outcome(20, f"a checkpoint's bucket {kind}", f"named error in {seconds:.1f} s: {str(raised.value)[-110:]}")
