"""Bundles: what goes in comes out, lazily, from memory and from files, and damage is noticed."""

import copy
import mmap
import pickle
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowerpress import Bundle, ChunkError, ConfigError, Spec, pack, parse
from flowerpress.chunks.bundle import Memory
from flowerpress.chunks.manifest import ArrayEntry, Manifest, check
from flowerpress.chunks.pack import HEAD, TAIL, save, tail
from flowerpress.codecs.zstd import Zstd
from flowerpress.federation.spill import Spill
from tests.samples import SHAPES, awkward, of_dtype

RNG = np.random.default_rng(4)


def model() -> dict[str, np.ndarray]:
    return {
        "large": RNG.standard_normal((1500, 1000)).astype(np.float32),
        "small": RNG.standard_normal((30, 10)).astype(np.float32),
        "half": of_dtype("bfloat16", (20, 3)),
        "count": np.array(7),
        "none": np.zeros((0, 4), np.float32),
        "bias": RNG.standard_normal(30).astype(np.float32),
        "noise": RNG.integers(0, 256, 9 << 20, dtype=np.uint8),
    }


@pytest.mark.parametrize("codec", ["zstd", "raw", "zfp", "*.x = raw; * = zstd(level=3)"])
def test_round_trip(codec: str) -> None:
    arrays = model()
    bundle = Bundle(pack(arrays, codec))
    assert list(bundle) == list(arrays)
    everything = bundle.read_all()
    for key, x in arrays.items():
        for y in (bundle[key], everything[key]):
            assert (y.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes())
            assert y.flags.writeable
    bundle.verify()


def test_awkward_layouts() -> None:
    arrays = awkward()
    bundle = Bundle(pack(arrays))
    for key, x in arrays.items():
        assert np.array_equal(bundle[key], x), key


def test_lossy_pipelines_touch_floats_only() -> None:
    arrays = model()
    bundle = Bundle(pack(arrays, "zfp(tolerance=0.05)"))
    assert 0 < np.abs(bundle["large"] - arrays["large"]).max() <= 0.05
    assert bundle["count"] == 7
    assert bundle["noise"].tobytes() == arrays["noise"].tobytes()


def test_bytes_do_not_depend_on_workers() -> None:
    arrays = model()
    assert pack(arrays, workers=1) == pack(arrays, workers=2) == pack(arrays, workers=7)


def test_slices_decode_only_what_they_need() -> None:
    arrays = model()
    data = bytearray(pack(arrays))
    flat = arrays["large"].ravel()
    assert np.array_equal(Bundle(bytes(data)).read("large", 100, 1_200_000), flat[100:1_200_000])
    assert np.array_equal(Bundle(bytes(data)).read("small", 5, 7), arrays["small"].ravel()[5:7])
    assert Bundle(bytes(data)).read("small", 7, 5).size == 0
    layout = Bundle(bytes(data)).layout
    last = layout.holders[0][-1]
    data[len(HEAD) + layout.offsets[last] + 50] ^= 1
    damaged = Bundle(bytes(data))
    assert np.array_equal(damaged.read("large", 0, 1000), flat[:1000])
    with pytest.raises(ChunkError, match=f"chunk {last} is damaged"):
        damaged["large"]
    with pytest.raises(ChunkError, match="is damaged"):
        damaged.verify()


def test_neighbours_in_a_joined_chunk_do_not_share_memory() -> None:
    bundle = Bundle(pack({"a": np.ones(4), "b": np.ones(4)}))
    bundle["a"][:] = 5
    assert bundle["a"].tolist() == bundle["b"].tolist() == [1, 1, 1, 1]


def test_files(tmp_path: Path) -> None:
    arrays, path = model(), tmp_path / "model.fpb"
    save(path, pack(arrays))
    bundle = pickle.loads(pickle.dumps(Bundle.open(path)))
    assert np.array_equal(bundle["large"], arrays["large"])
    assert [p.name for p in tmp_path.iterdir()] == ["model.fpb"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ChunkError, match="became shorter"):
        bundle["noise"]
    path.unlink()
    with pytest.raises(ChunkError, match="cannot read"):
        bundle["large"]
    with pytest.raises(ChunkError, match="cannot read"):
        Bundle.open(path)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda bundle: pickle.loads(pickle.dumps(bundle))])
@pytest.mark.parametrize("where", ["memory", "mapped", "spilled"])
def test_copies_have_the_bytes_themselves(copied: Callable[[Bundle], Bundle], where: str, tmp_path: Path) -> None:
    arrays, path = model(), tmp_path / "model.fpb"
    data = pack(arrays)
    save(path, data)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    source = {"memory": data, "mapped": Memory(mapped), "spilled": Spill(tmp_path).put(data)}[where]
    bundle = copied(Bundle(source))
    path.unlink()
    assert bundle.to_bytes() == data
    assert all(bundle[key].tobytes() == np.asarray(x).tobytes() for key, x in arrays.items())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.fpb"
    save(path, b"old")
    with pytest.raises(TypeError):
        save(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_repeated_arrays_are_stored_once() -> None:
    x = RNG.standard_normal((300, 100)).astype(np.float32)
    tied = torch.from_numpy(x)
    once = len(pack({"a": x}))
    for arrays in ({"a": x, "b": x}, {"a": x, "b": x.copy()}, {"a": tied, "b": tied}):
        data = pack(arrays)
        assert len(data) < once + 30
        bundle = Bundle(data)
        assert np.array_equal(bundle["b"], x)
        assert (bundle.encoded_bytes("b"), bundle.rows()[1]["pipeline"]) == (0, "a copy")
    other = x.copy()
    other[150, 50] += 1
    assert np.array_equal(Bundle(pack({"a": x, "b": other}))["b"], other)


@pytest.mark.parametrize(
    ("text", "copies"),
    [
        ("a = quantize(step=0.5) | entropy; * = zstd", ["", "a copy"]),
        ("b = quantize(step=0.5) | entropy; * = zstd", ["a copy", "a copy"]),
        ("a = quantize(step=0.5) | entropy; b = quantize(step=0.1) | entropy; * = zstd", ["", ""]),
        ("c = zstd; * = quantize(step=0.5) | entropy", ["a copy", ""]),
        ("quantize(step=0.5) | entropy", ["a copy", "a copy"]),
        ("budget(bits=2)", ["a copy", "a copy"]),
        ("best(budget(bits=2), budget(lowrank | entropy, bits=2))", ["a copy", "a copy"]),
    ],
)
def test_equal_arrays_are_copies_only_of_what_is_as_exact(text: str, copies: list[str]) -> None:
    x = RNG.standard_normal((300, 100)).astype(np.float32)
    bundle = Bundle(pack({"a": x, "b": x.copy(), "c": x.copy()}, text))
    if text == "a = quantize(step=0.5) | entropy; * = zstd":
        assert bundle["b"].tobytes() == x.tobytes()
    found = [row["pipeline"] if row["pipeline"] == "a copy" else "" for row in bundle.rows()]
    assert found == ["", *copies]


@pytest.mark.parametrize("codec", ["safe", "small", "delta | quantize(step=0.01) | entropy"])
@pytest.mark.parametrize("tied", [False, True])
def test_equal_arrays_are_copies_only_of_what_has_their_reference(codec: str, tied: bool) -> None:
    x = RNG.standard_normal((300, 100)).astype(np.float32)
    bases = {"a": np.zeros_like(x), "b": np.zeros_like(x) if tied else x * np.float32(0.999)}
    bundle = Bundle(pack({"a": x, "b": x.copy()}, codec, bases=bases), bases=bases)
    assert (bundle.rows()[1]["pipeline"] == "a copy") == tied
    if codec == "safe" and not tied:
        assert np.abs(bundle["b"] - x).max() <= 0.0101 * np.ptp(x - bases["b"])


def test_tensors_are_not_copies_of_what_lay_in_the_same_place_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    place = torch.empty(
        (9, 8), dtype=torch.float64
    )  # where a device's allocator puts one contiguous copy after another
    monkeypatch.setattr("flowerpress.chunks.pack.local", lambda x: place.copy_(x))
    arrays = {key: torch.from_numpy(RNG.standard_normal((8, 9))).T for key in "ab"}
    bundle = Bundle(pack(arrays))
    assert all(np.array_equal(bundle[key], x.numpy()) for key, x in arrays.items())


def test_shapes_of_no_array() -> None:
    for shape in ((0, 1 << 47, 1 << 47), (1 << 31, 0, 1 << 30)):
        forged = Manifest((ArrayEntry("x", "float32", shape),), (), (), ())
        with pytest.raises(ChunkError, match="no array is of shape"):
            check(forged, 0)


def test_encoded_bytes_add_up() -> None:
    bundle = Bundle(pack(model()))
    assert sum(bundle.encoded_bytes(key) for key in bundle) == sum(chunk.size for chunk in bundle.layout.chunks)


@pytest.mark.parametrize("size", [1, 100, 5000, 1 << 20, 9 << 20, 70 << 20])
def test_noise_grows_by_no_more_than_64_bytes_per_array(size: int) -> None:
    noise = RNG.integers(0, 256, size, dtype=np.uint8)
    many = {f"layer.{i}": noise[i * size // 20 : (i + 1) * size // 20] for i in range(20)}
    assert len(pack(many)) <= size + 20 * 64
    one = Bundle(pack({"x": noise}))
    assert one.encoded_bytes("x") <= size + 64
    assert one.nbytes <= size + (160 if size > 64 << 20 else 110)


def test_framing_is_small() -> None:
    """20 convolutions and 100 small arrays, like ResNet-18's, coded 100 times smaller."""
    arrays = {f"layer{i // 5}.{i % 5}.conv.weight": np.zeros((64, 64, 3, 3 + i), np.float32) for i in range(20)}
    arrays |= {f"layer{i // 25}.{i % 25}.bn.weight": np.full(64, i, np.float32) for i in range(100)}
    bundle = Bundle(pack(arrays))
    payload = sum(chunk.payload for chunk in bundle.layout.chunks)
    assert bundle.nbytes - payload < 46_800_000 / 100 * 0.01


def test_keep_input() -> None:
    arrays = model()
    kept = dict(arrays)
    assert pack(kept, keep_input=False) == pack(arrays)
    assert kept == {}


def test_nothing_is_lost_when_an_array_cannot_be_coded() -> None:
    arrays = {"a": np.ones(3), "b": np.array(["text"])}
    with pytest.raises(ConfigError, match="cannot be coded"):
        pack(arrays, keep_input=False)
    assert list(arrays) == ["a", "b"]


def test_torch_and_numpy_give_equal_bundles() -> None:
    tensors = {"a": torch.randn(50, 20), "b": torch.randn(9).bfloat16(), "c": torch.arange(3), "d": torch.tensor(2.5)}
    arrays = {
        k: v.numpy() if v.dtype != torch.bfloat16 else v.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        for k, v in tensors.items()
    }
    assert pack(tensors) == pack(arrays)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x" * 1025: np.ones(1)}, "key or shape"),
        ({"\ud800": np.ones(1)}, "key or shape"),
        ({3: np.ones(1)}, "key or shape"),
        ({"x": np.ones((1,) * 33)}, "key or shape"),
    ],
)
def test_what_no_reader_would_accept_is_not_written(arrays: dict, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        pack(arrays, keep_input=False)
    assert len(arrays) == 1


def test_a_policy_of_yours_may_be_wrong() -> None:
    arrays = {"a": np.ones(2000), "n": np.ones(3, bool)}
    with pytest.raises(ConfigError, match="'n': zfp cannot take it"):
        pack(arrays, lambda spec: parse("zfp"), keep_input=False)
    assert len(arrays) == 2


def test_a_codec_alone_is_a_pipeline() -> None:
    arrays = {"a": np.ones(2000)}
    assert pack(arrays, Zstd(level=3)) == pack(arrays, "zstd(level=3)")


def test_limits() -> None:
    with pytest.raises(ConfigError, match="at most 65536"):
        pack({str(i): np.full(1, i) for i in range(65537)}, workers=1)


def test_finite_refuses_nan_when_it_is_read() -> None:
    data = pack(
        {"a": np.array([1.0, np.nan]), "h": np.array([np.inf], ml_dtypes.bfloat16), "ok": np.ones(2000)},
        "a = zfp; * = zstd",
    )
    assert np.isnan(Bundle(data)["a"][1])
    strict = Bundle(data, finite=True)
    for key in ("a", "h"):
        with pytest.raises(ChunkError, match="expected finite values"):
            strict[key]
    assert strict["ok"].sum() == 2000


def test_require() -> None:
    bundle = Bundle(pack({"a": np.ones(3), "b": np.ones((2, 2))}))
    good = {"a": Spec("a", "float64", (3,)), "b": Spec("b", "float64", (2, 2))}
    bundle.require(good)
    wrong = [
        {"a": good["a"]},
        {**good, "c": good["a"]},
        {**good, "a": Spec("a", "float32", (3,))},
        {**good, "a": Spec("a", "float64", (1,))},
    ]
    for expected in wrong:
        with pytest.raises(ChunkError, match="bundle: array '"):
            bundle.require(expected)


def test_empty_bundle() -> None:
    assert dict(Bundle(pack({}))) == {}


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (b"", "expected b'FPB'"),
        (b"PK\x03\x04" + bytes(100), "expected b'FPB'"),
        (b"FPB\x03" + bytes(100), "expected version 1 or 2, found 3; upgrade"),
        (b"FPB\x01" + bytes(11), "expected b'FPB'"),
        (b"FPB\x01" + b"\xff" * 100, "does not fit"),
        (b"FPB\x01" + bytes(100), "not the one that was written"),
        (HEAD + tail(b""), "bundle manifest"),
        (HEAD + b"\xc0" + tail(b"\xc0"), "bundle manifest"),
    ],
)
def test_what_is_no_bundle(damage: bytes, match: str) -> None:
    with pytest.raises(ChunkError, match=match):
        Bundle(damage)


def test_unknown_codecs_are_named() -> None:
    data = pack({"a": np.ones(3)}, "raw")
    end = len(data) - TAIL
    start = end - int.from_bytes(data[end : end + 4], "little")
    manifest = data[start:end].replace(b"\xa3raw", b"\xa3xyz")
    with pytest.raises(ChunkError, match="no codec is called 'xyz'"):
        Bundle(data[:start] + manifest + tail(manifest))


@settings(max_examples=60, deadline=None)
@given(
    SHAPES,
    st.sampled_from(["zstd", "raw", "zfp", "planes"]),
)
def test_any_record_round_trips(shapes: dict[str, tuple[str, list[int]]], codec: str) -> None:
    arrays = {key: of_dtype(dtype, tuple(shape)) for key, (dtype, shape) in shapes.items()}
    bundle = Bundle(pack(arrays, codec))
    assert list(bundle) == list(arrays)
    for key, x in arrays.items():
        assert (bundle[key].dtype, bundle[key].shape, bundle[key].tobytes()) == (x.dtype, x.shape, x.tobytes())


def test_codecs_that_must_see_an_array_whole() -> None:
    from flowerpress.chunks.parts import divide

    whole, spec = (
        type("P", (), {"elementwise": False, "joinable": False, "__str__": lambda self: "whole"})(),
        Spec("x", "float32", (3000, 1000)),
    )
    (part,) = divide([(0, spec, whole)])
    assert (part.start, part.stop, part.spec) == (0, spec.size, spec)
    cut = divide([(0, spec, parse("raw"))])
    assert [part.stop - part.start for part in cut] == [1_000_000] * 3


def test_joined_chunks_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though arrays of several chunks take turns, as weights and counters do."""
    kinds = [np.float32, np.int64, np.float64, np.int16]
    arrays = {f"{i}": np.arange(i, i + 500).astype(kinds[i % 4]) for i in range(40)} | {"large": np.ones((600, 1000))}
    data, decoded = pack(arrays), []
    flat = Bundle._flat
    monkeypatch.setattr(Bundle, "_flat", lambda self, *args: decoded.append(args[1]) or flat(self, *args))
    for read in (dict, Bundle.read_all, lambda bundle: bundle.read_all(3)):
        bundle = Bundle(data)
        found = read(bundle)
        assert all(np.array_equal(found[key], x) for key, x in arrays.items())
        assert len(decoded) == len(bundle.layout.chunks)
        assert bundle._kept == ()
        decoded.clear()
    for key in reversed(arrays):
        assert np.array_equal(bundle[key], arrays[key])
    assert len(bundle._kept) <= 4
