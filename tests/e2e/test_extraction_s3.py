"""Latents of files in a bucket, over HTTP; and what happens when the bucket is not as it should be."""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flowerpress import RunError
from flowerpress.extraction import Params, load_opt, main, model_latents_extract, option_preprocess, prep
from flowerpress.extraction.storage import kept, reading
from tests.e2e import s3
from tests.e2e.proxy import Link
from tests.extraction.samples import NAME, checkpoint, expected, images, options, read, ready, same, write

# servers are stopped while connections are open, which asyncio says when it collects them
pytestmark = [s3.needed, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
MODEL, LATENTS, PATIENCE = ready(), f"out/latents/ROOT/{NAME}", 30


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Set credentials; the working directory and the temporary one are empty, and have to be so at the end."""
    for name, value in {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    yield monkeypatch
    gc.collect()
    assert not list((tmp_path / "work").iterdir())
    assert not [path for path in (tmp_path / "temporary").iterdir() if path.name.startswith("flowerpress-")]


def put(server: s3.Server, tmp_path: Path, **files: np.ndarray) -> dict[str, str]:
    """Put a checkpoint and files of images into the bucket; return the addresses of these."""
    server.store.put(f"out/models/ROOT/{NAME}/last.pth", checkpoint(tmp_path / "local", MODEL))
    for name, data in files.items():
        server.store.put(f"in/{name}_preproc.h5", write(tmp_path / "local" / f"{name}.h5", train=data))
    return {name: f"s3://{server.bucket}/in/{name}_preproc.h5" for name in files}


def there(server: s3.Server) -> list[str]:
    """Return the names of latents in the bucket."""
    return sorted(entry["path"].rpartition("/")[2] for page in server.store.list(LATENTS) for entry in page)


def at(address: str, environment: pytest.MonkeyPatch, server: s3.Server, tmp_path: Path) -> Path:
    """Say where the server is; return an option file."""
    environment.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    return options(tmp_path, s3_outdir=f"s3://{server.bucket}/out/")


def test_files_of_a_bucket(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3.running() as server:
        sources = put(server, tmp_path, a=images(9), b=images(3, seed=1))
        opts = at(server.address, environment, server, tmp_path)
        before = [bytes(server.store.get(f"in/{name}_preproc.h5").bytes()) for name in sources]
        main(str(opts), list(sources.values()))
        assert there(server) == ["a_latents.h5", "b_latents.h5"]
        with reading(f"s3://{server.bucket}/{LATENTS}/a_latents.h5") as path:
            assert same(read(path), {"train": expected(MODEL, images(9))})
        opt, model_path = load_opt(str(opts))
        assert prep(opt) == ("last.pth", ["a_latents.h5", "b_latents.h5"])
        assert same(model_latents_extract(opt, sources["b"], model_path), {"train": expected(MODEL, images(3, seed=1))})
        server.store.put(f"{LATENTS}/a_latents.h5", b"mine")
        main(str(opts), list(sources.values()))
        assert server.store.get(f"{LATENTS}/a_latents.h5").bytes() == b"mine"
        main(str(opts), [sources["a"]], clobber=True)
        assert len(server.store.get(f"{LATENTS}/a_latents.h5").bytes()) > 1000
        assert before == [bytes(server.store.get(f"in/{name}_preproc.h5").bytes()) for name in sources]


def test_a_key_that_is_not_there(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3.running() as server:
        sources = put(server, tmp_path, a=images(9))
        opts, missing = at(server.address, environment, server, tmp_path), f"s3://{server.bucket}/in/no_preproc.h5"
        started = time.monotonic()
        with pytest.raises(
            RunError, match=f"1 of 2 .*\n.*bucket '{server.bucket}', key 'in/no_preproc.h5': .*NotFound"
        ):
            main(str(opts), [missing, sources["a"]])
        assert time.monotonic() - started < PATIENCE
        assert there(server) == ["a_latents.h5"]
        server.store.delete(f"out/models/ROOT/{NAME}/last.pth")
        with pytest.raises(FileNotFoundError, match="expected the checkpoint"):
            main(str(opts), [sources["a"]], clobber=True)


def test_wrong_credentials(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3.running(INITIAL_NO_AUTH_ACTION_COUNT="3") as server:
        sources = put(server, tmp_path, a=images(9))
        opts, started = at(server.address, environment, server, tmp_path), time.monotonic()
        with pytest.raises(OSError, match=f"bucket '{server.bucket}', key .*last.pth.*: (403|.*[Ff]orbidden|.*denied)"):
            main(str(opts), [sources["a"]])
        assert time.monotonic() - started < PATIENCE


def test_no_server(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3.running() as server:
        sources = put(server, tmp_path, a=images(9))
        opts = at(server.address, environment, server, tmp_path)
    started = time.monotonic()
    with pytest.raises(OSError, match=f"bucket '{server.bucket}', key"):
        main(str(opts), [sources["a"]])
    assert time.monotonic() - started < PATIENCE


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_stops_in_the_middle(
    how: signal.Signals, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other file, which is here, is done all the same, and so would one be whose server comes back."""
    with s3.running() as server, Link(server.address, 4e6, 0.01) as link:
        sources = put(server, tmp_path, big=images(140_000))  # 20 MB: five seconds
        local = write(tmp_path / "in" / "local_preproc.h5", train=images(5))
        at(link.address, environment, server, tmp_path)
        opts = options(tmp_path)
        checkpoint(tmp_path, MODEL)
        stop = threading.Timer(1.5, os.kill, (server.process.pid, how))
        stop.start()
        started = time.monotonic()
        with pytest.raises(RunError, match=f"1 of 2 .*\n.*bucket '{server.bucket}', key 'in/big_preproc.h5'"):
            main(str(opts), [sources["big"], str(local)])
        assert time.monotonic() - started < PATIENCE + 5
        assert 1e6 < link.down.nbytes < 19e6
        found = tmp_path / "latents" / "ROOT" / NAME / "local_latents.h5"
        assert same(read(found), {"train": expected(MODEL, images(5))})
        assert not list(tmp_path.rglob("*.partial"))
        stop.join()


@pytest.mark.parametrize(("times", "done"), [(2, True), (1000, False)])
def test_a_server_that_is_busy(times: int, done: bool, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3.running() as server, s3.busy(server.address, times) as address:
        sources = put(server, tmp_path, a=images(9))
        opts, started = at(address, environment, server, tmp_path), time.monotonic()
        if done:
            main(str(opts), [sources["a"]])
        else:
            with pytest.raises(OSError, match=f"bucket '{server.bucket}', key .*503"):
                main(str(opts), [sources["a"]])
        assert time.monotonic() - started < PATIENCE
        assert there(server) == (["a_latents.h5"] if done else [])


def test_a_slow_server_is_waited_for(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What counts is that something arrives, not when all has."""
    with s3.running() as server, Link(server.address, 2e5, 0.1) as link:
        sources = put(server, tmp_path, a=images(22_000))  # 3 MB: 16 seconds
        at(link.address, environment, server, tmp_path)
        with reading(sources["a"]) as path:
            assert read(path)["train"].shape == (22_000, 1, 6, 6)


def test_an_object_that_changes_meanwhile(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import obstore

    with s3.running() as server:
        sources = put(server, tmp_path, a=images(9))
        at(server.address, environment, server, tmp_path)
        head = obstore.head

        def late(store: object, key: str) -> object:
            found = head(store, key)  # type: ignore[arg-type]
            server.store.put("in/a_preproc.h5", b"another one")
            return found

        environment.setattr(obstore, "head", late)
        with pytest.raises(OSError, match=r"key 'in/a_preproc.h5': PreconditionError"), reading(sources["a"]):
            pass


def test_an_upload_that_is_not_whole(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import obstore

    with s3.running() as server:
        sources = put(server, tmp_path, a=images(9))
        opts, put_all = at(server.address, environment, server, tmp_path), obstore.put
        environment.setattr(obstore, "put", lambda store, key, path, **_: put_all(store, key, path.read_bytes()[:-9]))
        with pytest.raises(RunError, match=r"sent \d+ bytes, of which \d+ are there"):
            main(str(opts), [sources["a"]])


def test_an_upload_to_a_server_that_stops(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3.running() as server:
        put(server, tmp_path)
        source = write(tmp_path / "in" / "a_preproc.h5", train=images(9))
        before, opts = source.read_bytes(), at(server.address, environment, server, tmp_path)
        option_preprocess(Params(opts))
        from flowerpress.extraction import storage

        upload = storage._upload

        def stopped(path: Path, address: str) -> None:
            os.kill(server.process.pid, signal.SIGSTOP)
            upload(path, address)

        environment.setattr(storage, "_upload", stopped)
        started = time.monotonic()
        with pytest.raises(RunError, match=f"bucket '{server.bucket}', key '{LATENTS}/a_latents.h5'"):
            main(str(opts), [str(source)])
        assert time.monotonic() - started < PATIENCE + 5
        assert source.read_bytes() == before


def test_a_copy_that_is_kept(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a node trains on is fetched once, and again when it is another."""
    with s3.running() as server:
        (address,) = put(server, tmp_path, a=images(9)).values()
        at(server.address, environment, server, tmp_path)
        first = kept(address)
        assert first.name.endswith("-a_preproc.h5")
        assert same(read(first), read(tmp_path / "local" / "a.h5"))
        made = first.stat().st_mtime_ns
        assert kept(address) == first
        assert first.stat().st_mtime_ns == made
        server.store.put("in/a_preproc.h5", write(tmp_path / "local" / "b.h5", train=images(4, seed=1)))
        second = kept(address)
        assert same(read(second), read(tmp_path / "local" / "b.h5"))
        assert list(first.parent.iterdir()) == [second]
        with pytest.raises(FileNotFoundError, match=r"in/nothing\.h5"):
            kept(f"s3://{server.bucket}/in/nothing.h5")
    assert kept(second) == second
