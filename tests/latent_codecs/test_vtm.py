"""VTM, through programs that stand in for it; and through the real ones in the folder that VTM_PATH names, if any."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from tests.latent_codecs.vtm_standin import asked, install, misbehave

from flowerpress import ChunkError, ConfigError, RunError
from flowerpress.latent_codecs import vtm
from flowerpress.latent_codecs.vtm import VtmCodec, VtmFeatureCodec

SHAPES = {"llama3": (1, 1, 6, 5), "dinov2": (2, 4, 5, 3), "sd3": (1, 16, 3, 2)}
PLANES = {"llama3": (6, 5), "dinov2": (10, 12), "sd3": (12, 8)}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory in which every test, whatever it does, must leave nothing."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of programs that do what they should."""
    return install(tmp_path_factory.mktemp("good") / "VTM")


@pytest.fixture(scope="module")
def codec(root: str) -> VtmCodec:
    return VtmCodec(root)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """A folder of programs that a test may spoil."""
    return install(tmp_path / "VTM")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "picture.yuv"
    path.write_bytes(bytes(range(48)))
    return path


def options(root: str, model: str = "dinov2", **more: object) -> dict[str, object]:
    cfg = {"vtm_path": root, "trun_flag": True, "trun_low": -20, "trun_high": 20, "bit_depth": 10, "model_type": model}
    return cfg | more


def features(model: str = "dinov2", dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(5).normal(0, 7, SHAPES[model]).astype(dtype)


# The programs


@pytest.fixture
def typed() -> Iterator[None]:
    """Standard input with something in it, which is not for programs to read."""
    kept, (read, write) = os.dup(0), os.pipe()
    os.write(write, b"y\n")
    os.dup2(read, 0)
    yield
    os.dup2(kept, 0)
    for end in (kept, read, write):
        os.close(end)


@pytest.mark.usefixtures("typed")
def test_programs_are_given_these_arguments_and_no_input(codec: VtmCodec, root: str, raw: Path, tmp_path: Path) -> None:
    stream, rec = tmp_path / "a.bin", tmp_path / "b.yuv"
    before = len(asked(root))
    assert codec.compress(str(raw), str(stream), 8, 6, 37) == stream
    assert codec.decompress(str(stream), str(rec)) == rec
    assert rec.read_bytes() == raw.read_bytes()
    encoder, decoder = asked(root)[before:]
    partial = encoder[8]
    assert encoder == [
        *("EncoderAppStatic", "-c", f"{root}/cfg/encoder_intra_vtm.cfg", "-i", str(raw), "-o", "", "-b", partial),
        *("-q", "37", "--ConformanceWindowMode=1", "-wdt", "8", "-hgt", "6", "-f", "1", "-fr", "1"),
        *("--InternalBitDepth=8", "--InputBitDepth=8", "--InputChromaFormat=400", "--OutputBitDepth=8"),
    ]
    assert decoder == ["DecoderAppStatic", "-b", str(stream), "-o", decoder[4], "-d", "8"]
    for written in (partial, decoder[4]):  # beside what it becomes, and gone
        assert Path(written).is_relative_to(tmp_path)
        assert not Path(written).parent.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.yuv", "picture.yuv", "temporary"]


def test_version_and_description(codec: VtmCodec) -> None:
    assert (codec.version, codec.description) == ("21.0", "VTM-21.0")


@pytest.mark.parametrize("banner", ["", "Another encoder", "Its Version ", "\ufffd\x00"])
def test_another_banner_is_of_an_unknown_version(banner: str, raw: Path, tmp_path: Path) -> None:
    codec = VtmCodec(install(tmp_path / "VTM", banner=banner))
    assert codec.description == "VTM-unknown"
    codec.compress(raw, tmp_path / "a.bin", 8, 6, 20)
    assert (tmp_path / "a.bin").exists()


@pytest.mark.parametrize(
    "names", [["bin/EncoderAppStatic"], ["bin/DecoderAppStatic"], ["cfg/encoder_intra_vtm.cfg", "bin/DecoderAppStatic"]]
)
def test_what_is_missing_is_named(names: list[str], bad: str) -> None:
    for name in names:
        Path(bad, name).unlink()
    with pytest.raises(ConfigError, match="expected a folder of VTM, found no") as caught:
        VtmCodec(bad)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize("where", ["/nowhere", None, 5, b"/nowhere"])
def test_no_folder(where: object) -> None:
    with pytest.raises(ConfigError, match="folder of VTM"):
        VtmCodec(where)


@pytest.mark.parametrize("how", ["mode", "format"])
def test_programs_that_cannot_be_started(how: str, bad: str) -> None:
    path = Path(bad, "bin/EncoderAppStatic")
    if how == "mode":
        path.chmod(0o644)
    else:
        path.write_bytes(b"\x7fELF, not really")
    with pytest.raises(ConfigError, match=r"EncoderAppStatic: cannot be started: .*is it built for this machine"):
        VtmCodec(bad)


def test_any_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b;$(touch ran)`touch ran`'\"&|>\n*é"
    root = install(folder / "VTM")
    monkeypatch.chdir(folder)
    Path("-o x;$(touch ran).yuv").write_bytes(bytes(48))
    codec = VtmCodec("VTM")
    assert codec.compress("-o x;$(touch ran).yuv", "-c", 8, 6, 20) == Path("-c")
    codec.decompress("-c", "$(touch ran)")
    assert Path("$(touch ran)").read_bytes() == bytes(48)
    coded = VtmFeatureCodec(options(root)).compress(features(), 20)
    assert VtmFeatureCodec(options("VTM")).decompress(**coded)["h_hat"].shape == SHAPES["dinov2"]
    assert sorted(path.name for path in folder.iterdir()) == ["$(touch ran)", "-c", "-o x;$(touch ran).yuv", "VTM"]


@pytest.mark.parametrize(
    ("depth", "chroma", "size"),
    [(8, "400", 48), (9, "400", 96), (16, "400", 96), (8, "420", 72), (10, "422", 192), (12, "444", 288)],
)
def test_files_are_of_one_picture(
    depth: int, chroma: str, size: int, codec: VtmCodec, root: str, tmp_path: Path
) -> None:
    raw, stream, rec = tmp_path / "a.yuv", tmp_path / "a.bin", tmp_path / "b.yuv"
    raw.write_bytes(os.urandom(size))
    codec.compress(raw, stream, 8, 6, 0, depth, chroma)
    codec.decompress(stream, rec, depth)
    assert rec.read_bytes() == raw.read_bytes()
    before = len(asked(root))
    for wrong in (size - 1, size + 1, 2 * size, 0):
        raw.write_bytes(bytes(wrong))
        with pytest.raises(ConfigError, match=f"expected {size} bytes, 8x6 at {depth} bits, found {wrong}"):
            codec.compress(raw, tmp_path / "c.bin", 8, 6, 0, bitdepth=depth, chroma_format=chroma)
    assert len(asked(root)) == before
    assert not (tmp_path / "c.bin").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"qp": -1}, "qp: expected a whole number from 0 to 63, found -1"),
        ({"qp": 64}, "qp"),
        ({"qp": True}, "qp"),
        ({"qp": 22.0}, "qp"),
        ({"qp": "22"}, "qp"),
        ({"width": 0}, "width"),
        ({"height": -6}, "height"),
        ({"width": 8.0}, "width"),
        ({"bitdepth": 7}, "bitdepth: .* from 8 to 16"),
        ({"bitdepth": 17}, "bitdepth"),
        ({"bitdepth": True}, "bitdepth"),
        ({"chroma_format": "411"}, "chroma_format: expected 400, 420, 422, 444"),
        ({"chroma_format": 400}, "chroma_format"),
        ({"chroma_format": "420", "width": 7}, "multiples of 2x2, found 7x6"),
        ({"raw_path": "/nowhere.yuv"}, "nowhere.yuv: expected a file"),
        ({"bin_path": "/nowhere/a.bin"}, "a folder that exists"),
        ({"bin_path": "/"}, "expected a file to write"),
    ],
)
def test_arguments_that_cannot_be(
    arguments: dict[str, object], words: str, codec: VtmCodec, root: str, raw: Path, tmp_path: Path
) -> None:
    before = len(asked(root))
    good = {"raw_path": raw, "bin_path": tmp_path / "a.bin", "width": 8, "height": 6, "qp": np.int64(22)}
    with pytest.raises(ConfigError, match=words):
        codec.compress(**(good | arguments))
    assert len(asked(root)) == before


def test_the_input_is_not_written_over(codec: VtmCodec, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to(raw)
    for target in (raw, tmp_path / "link.bin"):
        with pytest.raises(ConfigError, match="not the one to read"):
            codec.compress(raw, target, 8, 6, 20)
    with pytest.raises(ConfigError, match="not the one to read"):
        codec.decompress(raw, raw)
    named = raw.rename(tmp_path / "picture.y4m")
    with pytest.raises(ConfigError, match=r"a header in \.y4m: rename it"):
        codec.compress(named, tmp_path / "a.bin", 8, 6, 20)
    assert named.read_bytes() == bytes(range(48))


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("fail", r"(?s)AppStatic.* -b .*expected exit status 0, found 1:\nline 4\n.*line 8\nit cannot be done"),
        ("crash", "found a stop by SIGSEGV"),
        ("nothing", "expected some bytes, found that 0 were written"),
        ("empty", "expected some bytes, found that 0"),
    ],
)
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_programs_that_fail(role: str, mode: str, words: str, bad: str, raw: Path, tmp_path: Path) -> None:
    codec = VtmCodec(bad)
    stream, target = tmp_path / "a.bin", tmp_path / "target"
    codec.compress(raw, stream, 8, 6, 20)
    misbehave(bad, f"{role}:{mode}")

    def go() -> None:
        codec.compress(raw, target, 8, 6, 20) if role == "encoder" else codec.decompress(stream, target)

    with pytest.raises(RunError, match=words):
        go()
    assert not target.exists()
    target.write_bytes(b"older")
    with pytest.raises(RunError, match=words):
        go()
    assert target.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["VTM", "a.bin", "picture.yuv", "target", "temporary"]


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_programs_that_never_end_are_killed_with_what_they_started(
    role: str, bad: str, raw: Path, tmp_path: Path
) -> None:
    codec, stream = VtmCodec(bad), tmp_path / "a.bin"
    codec.compress(raw, stream, 8, 6, 20)
    misbehave(bad, f"{role}:hang")
    assert (codec.encode_timeout, codec.decode_timeout) == (86_400, 3_600)
    codec.encode_timeout = codec.decode_timeout = 0.5
    with pytest.raises(RunError, match=r"expected an end within 0\.5 s, found none; killed"):
        codec.compress(raw, stream, 8, 6, 20) if role == "encoder" else codec.decompress(stream, tmp_path / "b")
    assert gone(bad)
    assert VtmCodec(bad).encode_timeout == 86_400


def test_the_size_of_a_picture_may_be_said(bad: str, raw: Path, tmp_path: Path) -> None:
    codec, stream, rec = VtmCodec(bad), tmp_path / "a.bin", tmp_path / "b.yuv"
    codec.compress(raw, stream, 8, 6, 20)
    assert codec.decompress(stream, rec, size=48).read_bytes() == raw.read_bytes()
    for mode, words in (("short", "48 bytes, found that 47"), ("long", "found that 49"), ("endless", "exit status 0")):
        misbehave(bad, f"decoder:{mode}")
        with pytest.raises(RunError, match=words):
            codec.decompress(stream, tmp_path / "c.yuv", size=48)
    with pytest.raises(ConfigError, match="nowhere: expected a file"):
        codec.decompress("/nowhere", rec)
    with pytest.raises(ConfigError, match="bit_depth"):
        codec.decompress(stream, rec, 7)


def gone(root: str) -> bool:
    """Wait until what a hanging program started has ended, and tell whether it has."""
    pid = Path(root, "child")
    command = Path("/proc", pid.read_text() or "0", "cmdline") if pid.exists() else pid
    for _ in range(3000):
        if not (command.exists() and command.read_bytes()):
            return True
        time.sleep(0.01)
    return False


def test_an_interrupt_ends_programs(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = VtmFeatureCodec(options(bad))
    misbehave(bad, "encoder:hang")
    started = []

    def interrupt(process: subprocess.Popen[bytes], timeout: float) -> None:
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        codec.compress(features(), 22)
    assert started[0].wait() == -signal.SIGKILL
    assert gone(bad)


# Features


@pytest.mark.parametrize(
    ("model", "depth"),
    [(model, depth) for model in SHAPES for depth in range(8, 17) if model == "dinov2" or depth in (8, 10, 16)],
)
def test_features_come_back(model: str, depth: int, root: str) -> None:
    codec = VtmFeatureCodec(options(root, model, bit_depth=depth))
    x = features(model)
    coded = codec.compress(x, 22)
    assert set(coded) == {"strings", "pstate"}
    ((stream,),) = coded["strings"]["vtm"]
    assert isinstance(stream, bytes)
    state = coded["pstate"]
    assert (state["pack_shape"], state["feat_shape"], state["bit_depth"]) == (PLANES[model], SHAPES[model], depth)
    assert asked(root)[-1][12:16] == ["-wdt", str(PLANES[model][1]), "-hgt", str(PLANES[model][0])]
    decoded = codec.decompress(coded["strings"], state)
    assert set(decoded) == {"h_hat"}
    scale = (2**depth - 1) / 40
    index = ((np.clip(x, -20, 20) + 20) * np.float32(scale)).astype("uint16")
    expected = index.astype("float32") / np.float32(scale) + np.float32(-20)
    assert decoded["h_hat"].dtype == ("float16" if model == "sd3" else "float32")
    np.testing.assert_array_equal(decoded["h_hat"], expected.astype(decoded["h_hat"].dtype))


def test_bitstreams_are_decoded_elsewhere_again_and_again(tmp_path: Path, root: str) -> None:
    cfg = options(install(tmp_path / "here"), trun_low=[-1, -2, -10, -20], trun_high=[1, 2, 10, 20], rounding="nearest")
    x = features()
    coded = VtmFeatureCodec(cfg).compress(x, 22)
    state = json.loads(json.dumps(coded["pstate"]))
    assert state["bin_path"] is None
    assert (state["trun_low"], state["rounding"], state["dtype"]) == ([-1, -2, -10, -20], "nearest", "float32")
    there = VtmFeatureCodec(options(root, "llama3", trun_flag=False, bit_depth=8))
    limits = np.array(cfg["trun_high"]).reshape(-1, 1, 1)
    for _ in range(2):
        y = there.decompress(coded["strings"], state, unused=1)["h_hat"]
        assert (np.abs(y - x.clip(-limits, limits)) <= limits / 1023 * 1.001).all()
    assert there.decompress({"vtm": ((coded["strings"]["vtm"][0][0],),), "more": 1}, state | {"more": None})


class Attributes:
    def __init__(self, options: dict[str, object]) -> None:
        self.__dict__.update(options)


class Config(Mapping):
    """As OmegaConf's: items and attributes."""

    def __init__(self, items: dict[str, object]) -> None:
        self._items = items

    def __getitem__(self, key: str) -> object:
        return self._items[key]

    def __getattr__(self, key: str) -> object:
        return self._items.get(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Listed(Sequence):
    """As OmegaConf's lists: sequences that are no lists."""

    def __init__(self, *items: float) -> None:
        self._items = items

    def __getitem__(self, index: int) -> float:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)


@pytest.mark.parametrize("kind", [dict, MappingProxyType, Config, Attributes, lambda cfg: SimpleNamespace(**cfg)])
def test_options_may_be_a_mapping_or_an_object(kind: object, root: str) -> None:
    cfg = kind(options(root))
    codec = VtmFeatureCodec(cfg)
    assert codec.cfg is cfg
    assert codec.vtm.description == "VTM-21.0"
    assert codec.compress(features(), 22)["pstate"]["trun_low"] == -20.0


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda values: Listed(*values), torch.tensor])
def test_bounds_may_be_any_sequence(kind: object, root: str) -> None:
    codec = VtmFeatureCodec(options(root, trun_low=kind([-1.0, -2.0, -10.0, -20.0]), trun_high=np.float32(20)))
    state = codec.compress(features(), np.uint8(22))["pstate"]
    assert (state["trun_low"], state["trun_high"]) == ((-1.0, -2.0, -10.0, -20.0), 20.0)
    with pytest.raises(ConfigError, match="lower bounds: expected a number, or 3, one per layer, found 4"):
        codec.compress(features()[:, :3], 22)


@pytest.mark.parametrize("flag", [True, 1, np.True_, np.int64(1)])
def test_flags_that_are_true(flag: object, root: str) -> None:
    assert VtmFeatureCodec(options(root, trun_flag=flag)).compress(features(), 22)["pstate"]["trun_high"] == 20.0


@pytest.mark.parametrize("flag", [False, 0, np.False_])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_without_truncation_the_features_say_the_bounds(flag: object, dtype: str, root: str) -> None:
    cfg = options(root, trun_flag=flag, bit_depth=16)
    del cfg["trun_low"], cfg["trun_high"]
    x = features(dtype=dtype)
    coded, decoded = VtmFeatureCodec(cfg).forward_test(x, 22)
    low, high = coded["pstate"]["trun_low"], coded["pstate"]["trun_high"]
    assert (low, high) == (x.min(), x.max())
    np.testing.assert_allclose(decoded["h_hat"], x, atol=(high - low) / 65535 * 1.1)


def test_constant_features(root: str) -> None:
    for model in SHAPES:
        codec = VtmFeatureCodec(options(root, model, trun_flag=False))
        x = np.full(SHAPES[model], 0.3, "float16")
        np.testing.assert_array_equal(codec.forward_test(x, 22)[1]["h_hat"], x.astype("float32"))


def test_float16_features_are_not_corrupted_by_deep_samples(root: str) -> None:
    x = features("sd3", "float16")
    for depth in (12, 16):
        y = VtmFeatureCodec(options(root, "sd3", bit_depth=depth)).forward_test(x, 22)[1]["h_hat"]
        np.testing.assert_allclose(y, x, atol=40 / (2**depth - 1) + 0.01)


@pytest.mark.parametrize("kind", ["tensor", "bfloat16"])
def test_tensors_are_taken(kind: str, root: str) -> None:
    x = torch.tensor(features(), requires_grad=True)
    x = x.bfloat16() if kind == "bfloat16" else x
    codec = VtmFeatureCodec(options(root))
    assert codec.compress(x, 22) == codec.compress(x.detach().float().numpy(), 22)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"model_type": "gpt"}, "model_type: expected llama3, dinov2, sd3, found 'gpt'"),
        ({"model_type": None}, "model_type"),
        ({"rounding": "up"}, "rounding: expected truncate, nearest, found 'up'"),
        ({"bit_depth": 7}, "bit_depth: expected a whole number from 8 to 16"),
        ({"bit_depth": 10.0}, "bit_depth"),
        ({"bit_depth": True}, "bit_depth"),
        ({"trun_flag": "false"}, "trun_flag: expected true or false, found 'false'"),
        ({"trun_flag": None}, "trun_flag"),
        ({"trun_flag": 2}, "trun_flag"),
        ({"trun_low": 20}, "trun_low below trun_high"),
        ({"trun_low": 21}, "lower ones up to upper ones"),
        ({"trun_low": [-1, 20]}, "trun_low below trun_high"),
        ({"trun_low": [-1, -1], "trun_high": [1, 1, 1]}, "a number, or 3, one per layer, found 2"),
        ({"trun_low": float("nan")}, "trun_low: expected a finite number"),
        ({"trun_high": float("inf")}, "trun_high: expected a finite number"),
        ({"trun_high": "20"}, "trun_high: expected a finite number"),
        ({"trun_high": []}, "trun_high: expected"),
        ({"trun_high": 1e39}, "as in float32"),
        ({"vtm_path": "/nowhere"}, "found no bin/EncoderAppStatic"),
        ({"vtm_path": None}, "the folder of VTM, found None"),
        ({"bin_dir": "/nowhere"}, "bin_dir: expected a folder that exists"),
    ],
)
def test_options_that_cannot_be(more: dict[str, object], words: str, root: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VtmFeatureCodec(options(root, **more))


@pytest.mark.parametrize("name", ["vtm_path", "trun_flag", "trun_low", "trun_high", "bit_depth", "model_type"])
def test_options_that_are_missing(name: str, root: str) -> None:
    cfg = options(root)
    del cfg[name]
    for kind in (cfg, SimpleNamespace(**cfg)):
        with pytest.raises(ConfigError, match=f"cfg: expected {name}, found none"):
            VtmFeatureCodec(kind)


@pytest.mark.parametrize(
    ("model", "x", "qp", "words"),
    [
        ("dinov2", np.full((1, 1, 2, 2), np.nan, "float32"), 22, "NaN or infinity"),
        ("dinov2", np.full((1, 1, 2, 2), np.inf, "float64"), 22, "NaN or infinity"),
        ("dinov2", np.zeros((1, 1, 2, 2), "int64"), 22, "found int64"),
        ("dinov2", np.zeros((2, 2), "float32"), 22, "4 axes"),
        ("llama3", np.zeros((2, 1, 2, 2), "float32"), 22, "code crops and layers singly"),
        ("llama3", np.zeros((1, 2, 2, 2), "float32"), 22, "code crops and layers singly"),
        ("sd3", np.zeros((1, 4, 2, 2), "float32"), 22, r"\(1, 16, height, width\)"),
        ("sd3", np.full((1, 16, 2, 2), 1e6, "float32"), 22, "as in float16"),
        ("dinov2", np.full((1, 1, 2, 2), 1e300), 22, "as in float32"),
        ("dinov2", np.zeros((1, 1, 2, 2), "float32"), 64, "qp"),
        ("dinov2", np.zeros((1, 1, 2, 2), "float32"), 22.0, "qp"),
    ],
)
def test_features_that_cannot_be(model: str, x: np.ndarray, qp: object, words: str, root: str) -> None:
    codec = VtmFeatureCodec(options(root, model, trun_flag=False))
    before = len(asked(root))
    with pytest.raises(ConfigError, match=words):
        codec.compress(x, qp)
    assert len(asked(root)) == before


def test_bitstreams_are_kept_where_the_caller_says(tmp_path: Path, root: str) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    codec = VtmFeatureCodec(options(root, bin_dir=str(folder)))
    coded = codec.compress(features(), 22)
    assert codec.compress(features(), 22) == coded
    ((stream,),) = coded["strings"]["vtm"]
    assert [str(path) for path in folder.iterdir()] == [coded["pstate"]["bin_path"]]
    assert Path(coded["pstate"]["bin_path"]).read_bytes() == stream
    Path(coded["pstate"]["bin_path"]).unlink()
    codec.decompress(**coded)


def test_forward_test_says_how_long_it_took(root: str) -> None:
    codec = VtmFeatureCodec(options(root))
    coded, decoded = codec.forward_test(features(), 22)
    assert isinstance(coded.pop("encoding_time"), float)
    assert isinstance(decoded.pop("decoding_time"), float)
    assert coded == codec.compress(features(), 22)
    np.testing.assert_array_equal(decoded["h_hat"], codec.decompress(**coded)["h_hat"])


@pytest.mark.parametrize("mode", ["fail", "crash", "nothing", "hang"])
def test_encoders_that_fail(mode: str, bad: str) -> None:
    codec = VtmFeatureCodec(options(bad))
    misbehave(bad, f"encoder:{mode}")
    codec.vtm.encode_timeout = 0.25
    with pytest.raises(RunError):
        codec.compress(features(), 22)


@pytest.mark.parametrize("mode", ["fail", "crash", "nothing", "hang", "empty", "short", "long", "endless"])
def test_bitstreams_of_which_no_plane_is_made(mode: str, bad: str) -> None:
    codec = VtmFeatureCodec(options(bad))
    coded = codec.compress(features(), 22)
    misbehave(bad, f"decoder:{mode}")
    codec.vtm.decode_timeout = 0.25 if mode == "hang" else 60
    with pytest.raises(ChunkError, match=r"strings: expected a plane of \(10, 12\): .*"):
        codec.decompress(**coded)


def test_samples_of_more_bits_than_there_are(codec: VtmCodec, root: str, raw: Path, tmp_path: Path) -> None:
    raw.write_bytes(b"\0\4" * 30)
    data = codec.compress(raw, tmp_path / "a.bin", 5, 6, 20, 10).read_bytes()
    features_codec = VtmFeatureCodec(options(root, "llama3"))
    state = features_codec.compress(features("llama3"), 22)["pstate"] | {"digest": vtm._digest(data)}
    with pytest.raises(ChunkError, match="samples of 10 bits, found 1024"):
        features_codec.decompress({"vtm": [[data]]}, state)


@pytest.mark.parametrize("sent", [None, b"", [], {}, {"vtm": b"x"}, {"vtm": [b"x"]}, {"vtm": [["x"]]}, {"vtm": [[]]}])
def test_strings_that_cannot_be(sent: object, coded: dict[str, object], decoder: VtmFeatureCodec) -> None:
    with pytest.raises(ChunkError, match="strings: expected"):
        decoder.decompress(sent, coded["pstate"])


@pytest.fixture(scope="module")
def decoder(root: str) -> VtmFeatureCodec:
    return VtmFeatureCodec(options(root))


@pytest.fixture(scope="module")
def coded(decoder: VtmFeatureCodec) -> dict[str, object]:
    return decoder.compress(features(), 22)


def test_strings_that_are_others(coded: dict[str, object], decoder: VtmFeatureCodec) -> None:
    ((data,),) = coded["strings"]["vtm"]
    for other in (data[:-1], data + b"\0", b"", b"\0" + data[1:]):
        with pytest.raises(ChunkError, match="strings: expected a bitstream of digest"):
            decoder.decompress({"vtm": [[other]]}, coded["pstate"])
        forged = coded["pstate"] | {"digest": vtm._digest(other)}
        if other != data + b"\0":  # which the stand-in does not notice
            with pytest.raises(ChunkError, match="strings: expected a plane of"):
                decoder.decompress({"vtm": [[other]]}, forged)
    with pytest.raises(ChunkError, match="strings: expected"):
        decoder.decompress({"vtm": [[data], [data]]}, coded["pstate"])


@pytest.mark.parametrize(
    "forged",
    [
        *({"pack_shape": value} for value in (None, 5, (10,), (12, 10), (10, 12, 1), (10.0, 12), ("10", "12"), (0, 0))),
        *(
            {"feat_shape": value}
            for value in (None, (2, 4, 5), (2, 4, 5, 4), (-2, -4, 5, 3), (1 << 40, 1, 1, 1), "2453")
        ),
        {"feat_shape": (1 << 14, 1, 1 << 14, 2), "pack_shape": (1 << 28, 2)},
        {"feat_shape": (1 << 28,) * 4, "pack_shape": (1 << 28,) * 2},
        *({"bit_depth": value} for value in (None, 7, 17, 10.0, "10", True, 10**30)),
        *({"model_type": value} for value in (None, "gpt", "llama3", "sd3", 1)),
        *(
            {"trun_low": value}
            for value in (None, "1", float("nan"), float("-inf"), 21, [-1], [-1] * 5, [[-1]], -1e39, {})
        ),
        *({"trun_high": value} for value in (None, float("inf"), -21, [1, 1, 1, float("nan")], 10**400, True)),
        *({"dtype": value} for value in (None, "float64", "int8")),
        {"dtype": "float16", "trun_high": 1e5},
        {"rounding": "up"},
        {"rounding": None},
        {"digest": None},
        {"digest": "0" * 32},
        {"bin_path": 5},
    ],
    ids=str,
)
def test_states_that_cannot_be(
    forged: dict[str, object], coded: dict[str, object], decoder: VtmFeatureCodec, root: str
) -> None:
    before = len(asked(root))
    with pytest.raises(ChunkError, match=r"expected|Expected|Invalid|out of range"):
        decoder.decompress(coded["strings"], coded["pstate"] | forged)
    assert len(asked(root)) == before


def test_states_that_are_none(coded: dict[str, object], decoder: VtmFeatureCodec) -> None:
    for state in (None, [], "state", 5, {}, {1: 2}, object(), list(coded["pstate"].items())):
        with pytest.raises(ChunkError, match="pstate: "):
            decoder.decompress(coded["strings"], state)
    for name in coded["pstate"]:
        with pytest.raises(ChunkError, match=f"pstate: Object missing required field `{name}`"):
            decoder.decompress(coded["strings"], {k: v for k, v in coded["pstate"].items() if k != name})


def test_the_path_of_a_peer_is_not_opened(coded: dict[str, object], decoder: VtmFeatureCodec, raw: Path) -> None:
    decoder.decompress(coded["strings"], coded["pstate"] | {"bin_path": str(raw)})
    assert raw.read_bytes() == bytes(range(48))


@pytest.mark.skipif(not os.environ.get("VTM_PATH"), reason="VTM_PATH names no folder of VTM")
@pytest.mark.parametrize("model", SHAPES)
def test_real_programs(model: str) -> None:
    codec = VtmFeatureCodec(options(os.environ["VTM_PATH"], model, rounding="nearest"))
    assert codec.vtm.version != "unknown"
    shape = (*SHAPES[model][:2], 24, 40)
    x = np.cumsum(np.random.default_rng(0).normal(0, 0.3, shape), axis=3).astype("float32").clip(-20, 20)
    errors, sizes = [], []
    for qp in (4, 40):
        coded, decoded = codec.forward_test(x, qp)
        errors.append(np.abs(decoded["h_hat"] - x).mean())
        sizes.append(len(coded["strings"]["vtm"][0][0]))
    assert errors[0] < 0.1 < errors[1] < 5
    assert sizes[0] > sizes[1]
