"""The store of references: real files, real processes, and whatever happens to files and processes."""

import itertools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowerpress import Bundle, ConfigError, pack
from flowerpress.chunks.content import FOLDER, digest_of
from flowerpress.chunks.pack import save
from flowerpress.federation.store import MOST, SEED, STALE, Store
from tests.samples import awkward, of_dtype, special_floats

Model = dict[str, np.ndarray]
GB = 1 << 30


def model(number: int = 0, size: int = 40) -> Model:
    """Return a model like no other: all numbers have their own."""
    rng = np.random.default_rng(number)
    return {
        "w": rng.standard_normal((size, 30)).astype(np.float32),
        "half": rng.standard_normal((3, 5)).astype(ml_dtypes.bfloat16),
        "eight": rng.standard_normal(7).astype(ml_dtypes.float8_e4m3fn),
        "count": np.array(number),
        "none": np.zeros((0, 4), np.float32),
        "mask": rng.random(9) < 0.5,
    }


def same(found: Mapping[str, np.ndarray] | None, arrays: Mapping[str, np.ndarray]) -> bool:
    return found is not None and identity(found) == identity(arrays)


def identity(arrays: Mapping[str, np.ndarray]) -> list[Any]:
    return [(key, x.dtype.name, x.shape, x.tobytes()) for key, x in arrays.items()]


def added(store: Store, number: int, holder: str = "a", size: int = 40) -> str:
    """Add a model, check what comes back, and return its digest."""
    arrays = model(number, size)
    digest = digest_of(arrays)
    assert same(store.add(digest, arrays, holder), arrays)
    return digest


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def used(store: Store, digest: str, seconds_ago: float) -> None:
    at = time.time() - seconds_ago
    os.utime(store.folder / digest / "record", (at, at))


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", GB)


# ---- digests


def test_digests_are_for_ever() -> None:
    """They travel and name files: other versions, and other machines, find the same."""
    assert digest_of({}) == "99aa06d3014798d86001c324468d497f"
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7), "b": np.ones(2, ml_dtypes.bfloat16)}
    assert digest_of(arrays) == "1e7238361b410cfc5a22b8f75e77f553"


def test_digests_tell_records_apart() -> None:
    x = np.arange(6, dtype=np.float32)
    nan = special_floats()[:1]
    records = [
        {},
        {"a": x},
        {"b": x},
        {"a": x.reshape(2, 3)},
        {"a": x.reshape(3, 2)},
        {"a": x.reshape(6, 1)},
        {"a": x.view(np.int32)},
        {"a": x.view(np.uint32)},
        {"a": x.view(np.uint8)},
        {"a": -x},
        {"a": np.nextafter(x, 9)},
        {"a": x, "b": x},
        {"b": x, "a": x},
        {"a": x[:3], "b": x[3:]},
        {"a": x[:4], "b": x[4:]},
        {"a": x, "none": x[:0]},
        {"a": x, "none": x[:0].reshape(0, 5)},
        {"n": np.array(1.0)},
        {"n": np.array([1.0])},
        {"n": np.zeros(1)},
        {"n": -np.zeros(1)},
        {"n": np.zeros(4, np.float16)},
        {"n": np.zeros(4, ml_dtypes.bfloat16)},
        {"n": nan},
        {"n": np.array([np.nan], np.float32)},
    ]
    assert len({digest_of(record) for record in records}) == len(records)


def test_digests_are_of_contents_not_of_their_form() -> None:
    arrays = {**awkward(), **model()}
    plain = {key: np.array(x, x.dtype.newbyteorder("="), order="C") for key, x in arrays.items()}
    digest = digest_of(plain)
    assert digest == digest_of(arrays)
    for codec in ("raw", "zstd", "planes"):
        assert digest_of(Bundle(pack(plain, codec))) == digest


def test_digests_of_tensors() -> None:
    import torch

    tensors = {"a": torch.randn(50, 20).T, "b": torch.randn(9).bfloat16(), "c": torch.tensor(3), "d": torch.zeros(0, 2)}
    arrays = {
        "a": tensors["a"].numpy(),
        "b": tensors["b"].view(torch.int16).numpy().view(ml_dtypes.bfloat16),
        "c": np.array(3),
        "d": np.zeros((0, 2), np.float32),
    }
    assert digest_of(tensors) == digest_of(arrays)


small_arrays = st.tuples(
    st.sampled_from(["float32", "int8", "bfloat16", "bool", "uint16"]), st.lists(st.integers(0, 3), max_size=3)
).map(lambda found: np.zeros(found[1], np.dtype(getattr(ml_dtypes, found[0], found[0]))))
records = st.dictionaries(st.sampled_from("abc"), small_arrays, max_size=3)


@given(records, records)
def test_equal_digests_are_equal_records(one: Model, other: Model) -> None:
    assert (digest_of(one) == digest_of(other)) == (identity(one) == identity(other))


# ---- adding and reading


def test_round_trip(store: Store) -> None:
    arrays = model()
    digest = digest_of(arrays)
    assert store.get(digest) is None
    assert digest not in store
    assert list(store) == []
    assert store.nbytes(digest) == 0
    for bundle in (store.add(digest, arrays, "a"), store.get(digest), Store(store.folder).get(digest)):
        assert same(bundle, arrays)
        assert bundle.bases == {}
    assert digest in store
    assert list(store) == [digest]
    assert store.holders(digest) == {"a"}
    assert store.nbytes(digest) == (store.folder / digest / "record").stat().st_size
    assert names(store.folder) == {digest, ".lock"}
    assert names(store.folder / digest) == {"record", "a"}


@settings(max_examples=50, deadline=None)
@given(records)
def test_any_record_round_trips(arrays: Model) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, digest = Store(Path(folder), GB), digest_of(arrays)
        for _ in range(2):  # the second time it is there
            assert same(store.add(digest, arrays, "a"), arrays)
        assert same(store.get(digest), arrays)


@pytest.mark.parametrize("dtype", ["float64", "complex64", "int64", "float8_e5m2", "float16"])
def test_more_dtypes(store: Store, dtype: str) -> None:
    arrays = {"large": of_dtype(dtype, (300, 70)), "scalar": of_dtype(dtype, ()), "none": of_dtype(dtype, (2, 0))}
    digest = digest_of(arrays)
    store.add(digest, arrays, "a")
    assert same(store.get(digest), arrays)


def test_tensors_and_bundles_are_records_too(store: Store) -> None:
    import torch

    tensors = {"a": torch.randn(50, 20), "b": torch.randn(9).bfloat16()}
    digest = digest_of(tensors)
    bundle = store.add(digest, tensors, "a")
    assert digest_of(bundle) == digest
    store.keep("a", ())
    assert same(store.add(digest, Bundle(pack(tensors, "zstd")), "a"), bundle)
    assert list(tensors) == ["a", "b"]


def test_what_is_there_is_not_written_again(store: Store) -> None:
    digest = added(store, 1)
    before = (store.folder / digest / "record").stat().st_ino
    assert added(store, 1, "b") == digest
    assert (store.folder / digest / "record").stat().st_ino == before
    assert store.holders(digest) == {"a", "b"}


def test_a_mapped_record_stays_readable_when_it_is_removed(store: Store) -> None:
    bundle = store.add(digest_of(model()), model(), "a")
    store.keep("a", ())
    assert list(store) == []
    assert same(bundle, model())


@pytest.mark.parametrize(
    "digest",
    ["", ".", "..", "../other", "/", "record", "\0", "\ud800", "x" * 5000, "A" * 32, "a" * 31, "a" * 32 + "\n"],
)
def test_what_is_no_digest_is_not_there(store: Store, digest: str) -> None:
    added(store, 1)
    assert digest not in store
    assert store.get(digest) is None


def test_digests_from_peers_do_not_lead_out_of_the_folder(store: Store, tmp_path: Path) -> None:
    """A server names what a client is to look up: what is damaged is removed, whatever else lies there must not be."""
    added(store, 1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "record").write_text("somebody's diary")
    for digest in ("../outside", str(outside)):
        assert store.get(digest) is None
    assert (outside / "record").read_text() == "somebody's diary"


def test_foreign_files_are_left_alone(store: Store) -> None:
    digest = added(store, 1, size=200)
    (store.folder / "thesis").mkdir()
    (store.folder / "thesis" / "record").write_bytes(bytes(1 << 20))
    (store.folder / "notes.txt").write_text("mine")
    assert list(store) == [digest]
    store.most_bytes = store.nbytes(digest)
    added(store, 2, size=200)
    store.keep("a", ())
    store.clear()
    assert names(store.folder) == {"thesis", "notes.txt", ".lock"}
    assert names(store.folder / "thesis") == {"record"}


# ---- damage


def damaged(data: bytes) -> Iterator[bytes]:
    """Yield what may become of a file: each byte changed, cut at each place, grown, or of another record."""
    for i in range(len(data)):
        yield data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :]
    for i in range(len(data)):
        yield data[:i]
    yield data + b"\0"
    yield data + data
    yield pack(model(2), "raw")
    yield pack({**model(), "one": np.ones(1)}, "raw")
    yield bytes(len(data))


def test_damaged_records_are_removed_and_heal(store: Store) -> None:
    arrays = {key: x for key, x in model(size=1).items() if key != "eight"}
    digest = digest_of(arrays)
    store.add(digest, arrays, "a")
    record = store.folder / digest / "record"
    data = record.read_bytes()
    for bad in damaged(data):
        record.parent.mkdir(exist_ok=True)
        record.write_bytes(bad)
        assert store.get(digest) is None
        assert digest not in store
        assert names(store.folder) == {".lock"}
    assert same(store.add(digest, arrays, "b"), arrays)
    assert same(store.get(digest), arrays)
    assert store.holders(digest) == {"b"}


def test_adding_heals_what_is_damaged(store: Store) -> None:
    digest = added(store, 1)
    (store.folder / digest / "record").write_bytes(b"FPB")
    added(store, 1, "b")
    assert same(store.get(digest), model(1))
    assert store.holders(digest) == {"b"}


def test_deleted_records(store: Store) -> None:
    digest = added(store, 1)
    (store.folder / digest / "record").unlink()
    assert store.get(digest) is None
    assert list(store) == []
    added(store, 1, "b")
    assert same(store.get(digest), model(1))
    shutil.rmtree(store.folder)
    assert store.get(digest) is None
    assert list(store) == []
    assert store.holders(digest) == set()
    store.keep("a", [digest])
    added(store, 1)
    assert same(store.get(digest), model(1))


def test_a_record_under_a_wrong_name_is_no_record(store: Store) -> None:
    one, other = added(store, 1), added(store, 2)
    (store.folder / other / "record").replace(store.folder / one / "record")
    assert store.get(one) is None
    assert store.get(other) is None


def test_arrays_that_are_not_what_their_digest_says(store: Store) -> None:
    """They are returned, because the caller has them, and are not kept."""
    digest = digest_of(model(1))
    assert same(store.add(digest, model(2), "a"), model(2))
    assert store.get(digest) is None


def without_files(folder: Path) -> None:
    store, digest = Store(folder, GB), digest_of(model(1))
    assert same(store.get(digest), model(1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    files: list[int] = []
    with suppress(OSError):
        while True:
            files.append(os.open(os.devnull, os.O_RDONLY))
    assert store.get(digest) is None
    assert same(store.add(digest, model(1), "a"), model(1))
    for file in files:
        os.close(file)
    assert same(store.get(digest), model(1))


def test_records_that_cannot_be_read_now_are_not_taken_for_damaged(store: Store) -> None:
    added(store, 1)
    elsewhere(without_files, store.folder)


# ---- who holds what


def test_a_record_goes_when_its_last_holder_lets_go(store: Store) -> None:
    one, other = added(store, 1, "a"), added(store, 2, "a")
    added(store, 1, "b")
    store.keep("a", [other])
    assert set(store) == {one, other}
    assert (store.holders(one), store.holders(other)) == ({"b"}, {"a"})
    store.keep("nobody", ())
    assert set(store) == {one, other}
    store.keep("b", ())
    assert set(store) == {other}
    store.keep("b", [other, one, "", "../x"])
    store.keep("a", ())
    assert store.holders(other) == {"b"}
    store.keep("b", ())
    assert names(store.folder) == {".lock"}


class Holding(RuleBasedStateMachine):
    """A store does with four records and three holders what a dictionary of sets does."""

    holders = st.sampled_from(["run-1", "run-2", SEED])
    numbers = st.integers(0, 3)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.expected: dict[str, set[str]] = {}

    @property
    def store(self) -> Store:
        return Store(Path(self.folder.name), GB)

    @rule(number=numbers, holder=holders)
    def add(self, number: int, holder: str) -> None:
        self.expected.setdefault(added(self.store, number, holder, 1), set()).add(holder)

    @rule(holder=holders, numbers=st.sets(numbers))
    def keep(self, holder: str, numbers: set[int]) -> None:
        digests = {digest_of(model(number, 1)) for number in numbers}
        self.store.keep(holder, digests)
        for digest, holders in self.expected.items():
            (holders.add if digest in digests else holders.discard)(holder)
        self.expected = {digest: holders for digest, holders in self.expected.items() if holders}

    @rule(number=numbers)
    def get(self, number: int) -> None:
        digest = digest_of(model(number, 1))
        assert same(self.store.get(digest), model(number, 1)) == (digest in self.expected)

    @rule(number=numbers)
    def damage(self, number: int) -> None:
        digest = digest_of(model(number, 1))
        if self.expected.pop(digest, None):
            (self.store.folder / digest / "record").write_bytes(b"?")
            assert self.store.get(digest) is None

    @rule(keep_seeds=st.booleans())
    def clear(self, keep_seeds: bool) -> None:
        kept = {digest: holders for digest, holders in self.expected.items() if keep_seeds and SEED in holders}
        freed = sum(self.store.nbytes(digest) for digest in self.expected if digest not in kept)
        assert self.store.clear(keep_seeds=keep_seeds) == freed
        self.expected = kept

    @invariant()
    def is_as_expected(self) -> None:
        assert {digest: self.store.holders(digest) for digest in self.store} == self.expected

    def teardown(self) -> None:
        self.folder.cleanup()


Holding.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
test_holding = Holding.TestCase


def test_seeds_stay(store: Store) -> None:
    digest = store.seed(model(1))
    assert digest == digest_of(model(1)) == store.seed(model(1))
    added(store, 1, "run")
    store.keep("run", ())
    assert store.holders(digest) == {SEED}
    assert same(store.get(digest), model(1))


def test_a_seed_that_cannot_be_stored_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for store in (Store(tmp_path, 100), Store(tmp_path / "file", GB)):
        with pytest.raises(ConfigError, match=f"cannot take the record; .* {FOLDER}, or raise {MOST}"):
            store.seed(model())


# ---- how long, and how much


@pytest.mark.parametrize("use", ["add", "keep"])
def test_records_that_nobody_used_for_long_are_removed(store: Store, use: str) -> None:
    """A client holds its references for ever: nobody tells it that a run is over."""
    old, young, read, seed = (added(store, number, f"run-{number}") for number in range(4))
    store.seed(model(3))
    for digest, seconds in ((old, STALE + 60), (young, STALE - 60), (read, STALE + 60), (seed, 10 * STALE)):
        used(store, digest, seconds)
    assert store.get(read) is not None
    if use == "add":
        new = added(store, 9)
        assert set(store) == {new, young, read, seed}
    else:
        store.keep("somebody else", ())
        assert set(store) == {young, read, seed}


def test_a_folder_without_a_record_is_removed_when_it_is_old(store: Store) -> None:
    """While it is young, somebody may be writing to it."""
    digest = digest_of(model())
    (store.folder / digest).mkdir(parents=True)
    store.keep("a", ())
    assert digest in names(store.folder)
    os.utime(store.folder / digest, (1, 1))
    store.keep("a", ())
    assert digest not in names(store.folder)


def test_the_records_used_least_recently_make_room(store: Store) -> None:
    digests = [added(store, number) for number in range(4)]
    for digest, seconds in zip(digests, (300, 100, 400, 200), strict=True):
        used(store, digest, seconds)
    assert list(store) == [digests[i] for i in (1, 3, 0, 2)]
    size = store.nbytes(digests[0])
    store.most_bytes = 4 * size
    last = added(store, 4)
    assert set(store) == {last, *(digests[i] for i in (0, 1, 3))}
    store.get(digests[0])  # now that is the one used last
    store.most_bytes = 3 * size
    new = added(store, 5)
    assert set(store) == {new, digests[0], last}


@pytest.mark.parametrize("room", [0, -1])
def test_a_store_that_is_full_to_the_byte(store: Store, room: int) -> None:
    one, other, third = (added(store, number) for number in (1, 2, 3))
    store.most_bytes = sum(map(store.nbytes, (other, third))) + room
    store.keep("a", [one, other])
    used(store, one, 200)
    used(store, other, 100)
    added(store, 1, "b")
    assert set(store) == {one, other}  # what is there needs no room
    used(store, one, 200)
    added(store, 3)
    assert set(store) == ({third} if room < 0 else {third, other})


def test_a_record_over_the_limit(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    small = added(store, 1)
    store.most_bytes = store.nbytes(small)
    large = added(store, 2, size=400)
    assert set(store) == {small}
    assert MOST in caplog.text
    store.most_bytes = 0
    added(store, 3)
    assert large not in store
    assert set(store) == {small}


def test_what_a_writer_left_that_was_killed_counts_and_goes(store: Store) -> None:
    digest, other = added(store, 1), digest_of(model(2))
    (store.folder / other).mkdir()
    (store.folder / other / ".record.1").write_bytes(bytes(store.nbytes(digest)))
    os.utime(store.folder / other, (time.time() - 60,) * 2)
    assert set(store) == {digest}
    store.most_bytes = 2 * store.nbytes(digest)
    third = added(store, 3)
    assert names(store.folder) == {digest, third, ".lock"}
    (store.folder / other).mkdir()
    (store.folder / other / ".record.1").write_bytes(b"FPB")
    added(store, 2)
    assert names(store.folder / other) == {"record", "a"}


def test_clear(store: Store) -> None:
    assert store.clear() == 0
    added(store, 1)
    seed = store.seed(model(2))
    total = sum(map(store.nbytes, store))
    assert store.clear(keep_seeds=True) == total - store.nbytes(seed)
    assert list(store) == [seed]
    assert store.clear() == store.clear() + total // 2 > 0
    assert names(store.folder) == {".lock"}


def test_rows(store: Store) -> None:
    assert store.rows() == []
    seed, other, broken = store.seed(model(1)), added(store, 2, "a"), added(store, 3)
    added(store, 2, "b")
    used(store, seed, 100)
    used(store, other, 50)
    before = store.rows()[1:]
    (store.folder / broken / "record").write_bytes(b"FPB")
    assert store.rows() == before  # a damaged one counts as missing; looking is no use
    assert [(r["digest"], r["arrays"], r["holders"], r["seed"]) for r in before] == [
        (other, 6, 2, False),
        (seed, 6, 1, True),
    ]
    assert all(r["bytes"] == store.nbytes(r["digest"]) for r in before)
    assert before[0]["used"] - before[1]["used"] == pytest.approx(50, abs=5)


# ---- where, and what the environment says


def test_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(MOST, "12345")
    assert (Store().folder, Store().most_bytes) == (tmp_path / "cache", 12345)
    assert (Store(tmp_path, 5).folder, Store(tmp_path, 5).most_bytes) == (tmp_path, 5)
    assert Store(most_bytes=0).most_bytes == 0
    monkeypatch.setenv(MOST, "0")
    digest = added(Store(), 1)
    assert digest not in Store()
    monkeypatch.setenv(FOLDER, "")
    monkeypatch.setenv(MOST, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert (Store().folder, Store().most_bytes) == (tmp_path / "xdg" / "flowerpress", 8 * GB)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store().folder == tmp_path / "home" / ".cache" / "flowerpress"
    assert added(Store(), 1) in Store()


def test_a_limit_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MOST, "8GB")
    with pytest.raises(ConfigError, match=f"{MOST}: expected a number of bytes, found '8GB'"):
        Store()


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_a_folder_that_cannot_be(tmp_path: Path, below: str, caplog: pytest.LogCaptureFixture) -> None:
    """A model is used all the same; it is only not there the next time."""
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file" / below, GB)
    digest = added(store, 1)
    assert digest not in store
    assert store.get(digest) is None
    assert (list(store), store.rows(), store.holders(digest), store.clear()) == ([], [], set(), 0)
    store.keep("a", [digest])
    assert "cannot keep a model" in caplog.text
    assert (tmp_path / "file").read_text() == "not a folder"


def without_room(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    store = Store(folder, GB)
    small, large = added(store, 1), added(store, 2, size=4000)
    assert set(store) == {small}
    assert store.holders(large) == set()
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot take the record"):
            store.seed(model(2, 4000))
    assert not list(folder.glob("*/.*"))


def test_a_full_disk(tmp_path: Path) -> None:
    elsewhere(without_room, tmp_path)
    digest = added(Store(tmp_path, GB), 2, size=4000)
    assert digest in Store(tmp_path, GB)


def as_a_stranger(folder: Path) -> None:
    """Use a store that others own: the folder is read-only, its first record is readable, its second is not."""
    store = Store(folder, GB)
    readable, unreadable = (digest_of(model(number)) for number in (1, 2))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    with pytest.raises(PermissionError):
        (folder / "mine").write_text("")
    assert same(store.get(readable), model(1))
    assert store.get(unreadable) is None
    assert all(added(store, number) for number in (1, 2, 3))
    store.keep("a", ())
    assert readable in store
    assert digest_of(model(3)) not in store


def in_a_closed_folder(folder: Path) -> None:
    store = Store(folder, GB)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    digest = added(store, 1)
    assert digest not in store
    assert (list(store), store.rows(), store.holders(digest), store.clear()) == ([], [], set(), 0)
    store.keep("a", ())


def test_a_folder_that_is_read_only() -> None:
    """As when a volume with seeds is shared among containers."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), GB)
        seed, other = store.seed(model(1)), added(store, 2)
        (store.folder / other / "record").chmod(0)
        for path in (store.folder / seed, store.folder / other, store.folder):
            path.chmod(0o555)
        elsewhere(as_a_stranger, store.folder)
        store.folder.chmod(0)
        elsewhere(in_a_closed_folder, store.folder)
        for path in (store.folder, store.folder / seed, store.folder / other):
            path.chmod(0o755)
        (store.folder / other / "record").chmod(0o644)
        assert {digest: store.holders(digest) for digest in store} == {seed: {SEED}, other: {"a"}}


# ---- several at once


def busy(folder: Path, number: int, rounds: int, most_bytes: int) -> set[str]:
    """Add, read and let go at random, check whatever is read, and return what is held at the end."""
    store, rng, holder, mine = Store(folder, most_bytes), random.Random(number), f"run-{number}", set[str]()
    models = {digest_of(arrays): arrays for arrays in (model(n, 500) for n in range(6))}
    for _ in range(rounds):
        mine = set(rng.sample(list(models), rng.randrange(4)))
        for digest in mine:
            assert same(store.add(digest, models[digest], holder), models[digest])
        store.keep(holder, mine)
        for digest, arrays in models.items():
            found = store.get(digest)
            assert same(found, arrays) or (found is None and (digest not in mine or most_bytes < GB))
    return mine


def check_held(folder: Path, held: dict[str, set[str]]) -> None:
    """Check that a store has what ``held`` says, by holder, and nothing else."""
    store = Store(folder, GB)
    digests = set().union(*held.values())
    assert names(folder) == digests | {".lock"}
    for digest in digests:
        holders = {holder for holder, mine in held.items() if digest in mine}
        assert names(folder / digest) == holders | {"record"}
        assert store.get(digest) is not None


def test_processes_share_a_store(tmp_path: Path) -> None:
    with ProcessPoolExecutor(5, mp_context=get_context("spawn")) as pool:
        done = {f"run-{n}": pool.submit(busy, tmp_path, n, 40, GB) for n in range(5)}
        held = {holder: future.result() for holder, future in done.items()}
    check_held(tmp_path, held)


def test_processes_share_a_store_that_is_too_small(tmp_path: Path) -> None:
    added(Store(tmp_path, GB), 0, size=500)
    most = 3 * Store(tmp_path).nbytes(digest_of(model(0, 500)))
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(busy, tmp_path, n, 30, most) for n in range(4)]:
            future.result()
    store = Store(tmp_path, most)
    assert sum(map(store.nbytes, names(tmp_path) - {".lock"})) <= most
    assert all(store.get(digest) is not None for digest in store)


def test_threads_share_a_store(tmp_path: Path) -> None:
    with ThreadPoolExecutor(5) as pool:
        done = {f"run-{n}": pool.submit(busy, tmp_path, n, 15, GB) for n in range(5)}
        held = {holder: future.result() for holder, future in done.items()}
    check_held(tmp_path, held)


def test_a_record_that_appears_while_it_is_added_is_held(tmp_path: Path) -> None:
    """One that another writes and lets go of, just after we looked for it."""

    class Late(Store):
        def _hold(self, digest: str, holder: str) -> bool:
            held = super()._hold(digest, holder)
            if not held:
                added(Store(tmp_path, GB), 1, "other")
            return held

    digest = added(Late(tmp_path, GB), 1, "mine")
    Store(tmp_path, GB).keep("other", ())
    assert Store(tmp_path, GB).holders(digest) == {"mine"}


def test_a_ledger_may_be_collected_while_this_thread_writes(store: Store) -> None:
    """Then its references are let go in the middle of something else, and must not wait for that to end."""
    one, other = added(store, 1), added(store, 2, "collected")
    with store._lock():
        Store(store.folder).keep("collected", ())
        added(Store(store.folder), 3)
    assert other not in store
    assert one in store


def test_writers_wait_for_each_other_and_readers_do_not(store: Store) -> None:
    digest = added(store, 1)
    with store._lock():
        thread = threading.Thread(target=store.keep, args=("a", ()))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert digest in store
    thread.join()
    assert digest not in store


def killed_while_writing(folder: Path) -> None:
    """Be killed, by a signal that nothing can catch, when a part of a record is written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    added(Store(folder, GB), 1, "killed", 4000)


def test_a_writer_killed_in_the_middle_of_a_file(store: Store) -> None:
    process = get_context("spawn").Process(target=killed_while_writing, args=(store.folder,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGXFSZ
    digest = digest_of(model(1, 4000))
    (left,) = (store.folder / digest).iterdir()
    assert left.stat().st_size == 50_000
    assert digest not in store
    assert store.get(digest) is None
    added(store, 1, size=4000)
    assert names(store.folder / digest) == {"record", "a"}


def killed_at_each_step(folder: Path) -> int:
    """Kill a writer after 1, 62, 123, … of its calls until one lives; check what each left, and return their number."""
    store, arrays = Store(folder, GB), model()
    digest = added(store, 0)  # imports, and whatever else is done once
    store.keep("a", ())
    for killed, step in enumerate(itertools.count(1, 61)):
        child = os.fork()
        if not child:
            try:
                die_after(step)
                store.add(digest, arrays, "killed")
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) in (0, signal.SIGKILL)
        found = store.get(digest)
        assert found is None or same(found, arrays)
        assert same(store.add(digest, arrays, "a"), arrays)
        assert store.holders(digest) - {"killed"} == {"a"}
        store.keep("killed", ())
        assert same(store.get(digest), arrays)
        store.keep("a", ())
        assert names(folder) == {".lock"}
        if not os.WIFSIGNALED(status):
            assert found is not None
            return killed
    raise AssertionError


def die_after(calls: int) -> None:
    """Have this process killed after so many more calls of functions, Python's and others'."""
    count = itertools.count()
    sys.setprofile(lambda *_: os.kill(os.getpid(), signal.SIGKILL) if next(count) == calls else None)


def test_a_writer_killed_anywhere_leaves_nothing_that_is_read_as_a_record(tmp_path: Path) -> None:
    assert elsewhere(killed_at_each_step, tmp_path) > 50


def test_a_record_that_is_replaced_while_it_is_mapped(store: Store) -> None:
    digest = added(store, 1)
    bundle = store.get(digest)
    save(store.folder / digest / "record", pack(model(2), "raw"))
    assert same(bundle, model(1))
    assert store.get(digest) is None
