"""Bundles whose arrays are named by the schema of the references: who can read them, and who is told why not."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowerpress import Bundle, ChunkError, pack
from flowerpress.chunks import schema
from flowerpress.chunks.pack import BY_SCHEMA, HEAD, save
from tests.bundles import Parts
from tests.samples import SHAPES, of_dtype

LOSSY = "delta | quantize(step=0.01, zone=0.6) | entropy"
CODECS = ["intdelta | zstd", LOSSY, "delta | budget(bits=2.0)", "*.bias = zstd; * = intdelta | entropy"]


def model(large: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = {
        "conv.weight": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.standard_normal(8).astype(np.float32),
        "norm.count": np.array(3),
        "half": of_dtype("bfloat16", (20, 3)),
        "none": np.zeros((0, 4), np.float32),
        "head.weight": rng.standard_normal((50, 70)).astype(np.float32),
        "tied": np.zeros((50, 70), np.float32),
        "mask": rng.random(33) > 0.5,
    }
    return arrays | ({"large": rng.standard_normal((1500, 1000)).astype(np.float32)} if large else {})


def trained(bases: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    arrays = {
        k: (x + 0.02 * rng.standard_normal(x.shape)).astype(x.dtype) if "float" in x.dtype.name and x.shape else x
        for k, x in bases.items()
    }
    return arrays | {"norm.count": bases["norm.count"] + 5, "tied": arrays["head.weight"]}


BASES = model()
ARRAYS = trained(BASES)
DATA = pack(dict(ARRAYS), "intdelta | zstd", bases=BASES, by_schema=True)


def same(found: Any, expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for key, x in expected.items():
        assert (found[key].dtype, found[key].shape, found[key].tobytes()) == (x.dtype, x.shape, x.tobytes()), key


@pytest.mark.parametrize("codec", CODECS)
def test_it_says_what_a_whole_bundle_says(codec: str) -> None:
    bases = model(large=True)
    arrays = trained(bases)
    data = pack(dict(arrays), codec, bases=bases, by_schema=True)
    assert data[:4] == BY_SCHEMA
    assert pack(dict(arrays), codec, bases=bases, by_schema=True, workers=1) == data
    assert pack(dict(arrays), codec, bases=bases)[:4] == HEAD
    short, whole = Bundle(data, bases=bases), Bundle(pack(dict(arrays), codec, bases=bases), bases=bases)
    short.verify()
    assert short.to_bytes() == data
    assert [short.spec(key) for key in short] == [whole.spec(key) for key in whole]
    repeats = "tied" if short.exact("tied") else None  # lossy, with another reference, it is coded by itself
    assert [r["pipeline"] == "a copy" for r in short.rows()] == [key == repeats for key in arrays]
    assert sum(short.encoded_bytes(k) for k in short) == sum(chunk.payload for chunk in short.layout.chunks)
    same(short.read_all(), {key: short[key] for key in arrays})
    assert np.array_equal(short.read("large", 700_123, 1_234_567), short["large"].ravel()[700_123:1_234_567])
    for key, x in arrays.items():
        if short.exact(key):
            assert short[key].tobytes() == x.tobytes()
    if "budget" not in codec:
        same(short, whole.read_all())
        assert [(c.arrays, c.start, c.stop, c.payload) for c in short.layout.chunks] == [
            (c.arrays, c.start, c.stop, c.payload) for c in whole.layout.chunks
        ]


def test_references_of_any_kind(tmp_path: Path) -> None:
    exact = {key: x for key, x in BASES.items() if x.dtype.name != "bfloat16"}
    arrays = trained(exact)
    data = pack(dict(arrays), "intdelta | zstd", bases=exact, by_schema=True)
    tensors = {key: torch.from_numpy(np.array(x)) for key, x in exact.items()}
    bundle = Bundle(pack(dict(exact), "raw"))
    save(tmp_path / "message.fpb", data)
    for bases in (exact, tensors, bundle):
        assert pack(dict(arrays), "intdelta | zstd", bases=bases, by_schema=True) == data
        same(Bundle(data, bases=bases), arrays)
        same(pickle.loads(pickle.dumps(Bundle.open(tmp_path / "message.fpb", bases=bases))), arrays)


def test_framing_takes_less_than_a_hundred_bytes() -> None:
    rng = np.random.default_rng(1)
    shapes = [s for width in (32, 64) for s in ((width, 32, 3, 3), (width,), (width,), (width,), (width,), ())]
    bases = {
        f"layer{i // 6}.{i % 6}.weight": np.array(7) if shape == () else rng.standard_normal(shape).astype(np.float32)
        for i, shape in enumerate((*shapes, (10, 640), (10,)))
    }
    arrays = {k: (x + rng.laplace(size=x.shape) * 0.01).astype(x.dtype) if x.shape else x + 5 for k, x in bases.items()}
    for codec in ("delta | budget(bits=0.4)", "intdelta | zstd"):
        data = pack(dict(arrays), codec, bases=bases, by_schema=True)
        payload = sum(chunk.payload for chunk in Bundle(data, bases=bases).layout.chunks)
        assert len(data) - payload < 100
    assert len(pack(dict(arrays), "delta | budget(bits=0.4)", bases=bases, by_schema=True)) <= 0.4 / 8 * sum(
        x.size for x in arrays.values()
    )


def other_references() -> dict[str, dict[str, np.ndarray] | None]:
    keys = list(BASES)
    return {
        "none": None,
        "empty": {},
        "missing": {key: BASES[key] for key in keys[:-1]},
        "extra": {**BASES, "more": np.zeros(1)},
        "reordered": {key: BASES[key] for key in reversed(keys)},
        "renamed": {key.upper(): x for key, x in BASES.items()},
        "of another dtype": {**BASES, "conv.bias": BASES["conv.bias"].astype(np.float64)},
        "of another shape": {**BASES, "conv.bias": BASES["conv.bias"].reshape(2, 4)},
        "text": {**BASES, "conv.bias": np.array(["text"])},
    }


@pytest.mark.parametrize("case", other_references())
def test_other_references_are_refused(case: str) -> None:
    bases = other_references()[case]
    found = f"{len(bases)} arrays of the schema [0-9a-f]{{16}}" if bases else "none"
    with pytest.raises(ChunkError, match=f"expected references of the schema [0-9a-f]{{16}}, found ({found})"):
        Bundle(DATA, bases=bases)


@pytest.mark.parametrize("case", [case for case in other_references() if case != "text"])
def test_without_references_for_every_array_a_bundle_describes_itself(case: str) -> None:
    bases = other_references()[case]
    data = pack(dict(ARRAYS), "intdelta | zstd", bases=bases, by_schema=True)
    assert data == pack(dict(ARRAYS), "intdelta | zstd", bases=bases)
    assert list(Bundle(data)) == list(ARRAYS)
    same(Bundle(data, bases=bases), ARRAYS)


@pytest.mark.parametrize("codec", ["zstd", "raw", "quantize(step=0.1) | entropy"])
def test_what_can_be_read_without_references_describes_itself(codec: str) -> None:
    data = pack(dict(ARRAYS), codec, bases=BASES, by_schema=True)
    assert data == pack(dict(ARRAYS), codec)
    assert Bundle(data).read_all()["mask"].tobytes() == ARRAYS["mask"].tobytes()


def forged(manifest: bytes, data: bytes = DATA, head: bytes = BY_SCHEMA) -> bytes:
    return replace(Parts.of(data), head=head).bundle(manifest)


def encoded(fields: Any) -> bytes:
    return schema.deflate(msgspec.msgpack.encode(fields))


def test_forging_nothing_gives_the_bundle() -> None:
    parts = Parts.of(DATA)
    parts.agree()
    assert parts.bundle() == DATA


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ((0,), b"12345678", "expected references of the schema 3132333435363738, found 8 arrays"),
        ((0,), b"1234567", "bundle manifest"),
        ((1,), [[6, 0]], "not of the dtype and shape"),
        ((1,), [[5, 6]], "cannot be a copy"),
        ((1,), [], "0 of 3500 elements of array 6"),
        ((1,), [[6, 5], [0, 5]], "cannot be a copy"),
        ((1,), [[65535, 5]], "cannot be a copy"),
        ((2, 0), "xyz", "no codec is called 'xyz'"),
        ((3, 0, 0), 9, "pipeline that is not listed"),
        ((3, 0, 1), [8], "chunk 0 is of array 8, of 8"),
        ((3, 0, 1), [65535] * 3, "chunk 0 is of array 196605, of 8"),
        ((3, 0, 1), [], "bundle manifest"),
        ((3, 0, 1), [0, 0], "does not follow"),
        ((3, 0, 2), 1, "elements"),
        ((3, 0, 2), 1 << 47, "elements|does not follow"),
        ((3, 0, 3), 5, "but the bundle has"),
        ((4,), b"", "0 bytes of digests for"),
        ((4,), b"1" * 8000, "8000 bytes of digests for"),
    ],
)
def test_contradictions(path: tuple[int, ...], value: object, match: str) -> None:
    changed = where = Parts.of(DATA).fields
    for index in path[:-1]:
        where = where[index]
    where[path[-1]] = value
    with pytest.raises(ChunkError, match=match):
        Bundle(forged(encoded(changed)), bases=BASES)


def test_arrays_that_are_named_again_and_again() -> None:
    changed = Parts.of(DATA).fields
    changed[3] = [[0, [0] * 60000, 0, 0]] * 90
    changed[4] = bytes(8 * 90)
    with pytest.raises(ChunkError, match="name more arrays than there are"):
        Bundle(forged(encoded(changed)), bases=BASES)


def test_streams_that_are_none() -> None:
    manifest = encoded(Parts.of(DATA).fields)
    wrong = [
        b"",
        manifest[:-1],
        manifest + b"\0",
        manifest + manifest,
        b"\xff" * 20,
        msgspec.msgpack.encode(Parts.of(DATA).fields),
    ]
    for data in (*wrong, schema.deflate(bytes(7 << 20))):
        with pytest.raises(ChunkError, match="bundle manifest"):
            Bundle(forged(data), bases=BASES)


def test_one_form_is_not_taken_for_the_other() -> None:
    whole = pack(dict(ARRAYS), "intdelta | zstd", bases=BASES)
    with pytest.raises(ChunkError, match="bundle manifest"):
        Bundle(forged(Parts.of(whole).manifest(), whole, BY_SCHEMA), bases=BASES)
    headless = Parts.of(pack({"x": np.arange(3, dtype=np.uint8)}, "raw"))
    headless.chunks = [(b"", payload) for _, payload in headless.chunks]
    headless.agree()
    with pytest.raises(ChunkError, match="zstd frame"):
        Bundle(headless.bundle())["x"]
    for head, other in ((HEAD, DATA), (BY_SCHEMA, whole)):
        with pytest.raises(ChunkError, match="not the one that was written"):
            Bundle(head + other[len(head) :], bases=BASES)


def test_damaged_chunks_are_noticed() -> None:
    for at in range(len(HEAD), len(HEAD) + 300, 7):
        data = bytearray(DATA)
        data[at] ^= 4
        with pytest.raises(ChunkError):
            Bundle(bytes(data), bases=BASES).read_all()


@settings(max_examples=60, deadline=None)
@given(
    SHAPES,
    st.sampled_from(["intdelta | zstd", "intdelta | entropy", "*a* = raw; * = intdelta | zstd", "intdelta | raw"]),
    st.booleans(),
)
def test_any_record_round_trips(shapes: dict[str, tuple[str, list[int]]], codec: str, equal: bool) -> None:
    arrays = {key: of_dtype(dtype, tuple(shape)) for key, (dtype, shape) in shapes.items()}
    bases = {key: x.copy() if equal else np.zeros_like(x) for key, x in arrays.items()}
    same(Bundle(pack(dict(arrays), codec, bases=bases, by_schema=True), bases=bases), arrays)
