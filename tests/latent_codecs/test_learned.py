"""Learned codecs as stages of pipelines."""

import random
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from tests.latent_codecs.tiny import DIM, scale, tokens, vit

from flowerpress import Bundle, ChunkError, ConfigError, LatentRecord, Policy, Spec, pack, parse
from flowerpress.arrays.files import arrays_to_file
from flowerpress.chunks.content import FOLDER
from flowerpress.latent_codecs import frames, weights
from flowerpress.latent_codecs import tokens as tokens_module


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def of_tokens() -> str:
    return f"learned(weights='{weights.install(vit().state_dict())}')"


@pytest.fixture
def of_planes() -> str:
    return f"learned(model='scale-hyperprior', weights='{weights.install(scale().state_dict())}')"


def there_and_back(text: str, x: np.ndarray) -> np.ndarray:
    spec, pipeline = Spec.of(x, "h"), parse(text)
    return pipeline.decode(bytes(pipeline.encode(x, spec)), spec)


def test_tokens_are_what_the_codec_makes_of_them(of_tokens: str) -> None:
    h = tokens(70, (3, 3))  # more than the networks see at once
    packed = vit().compress(h, (3, 3))
    expected = vit().decompress(**packed)["h_hat"].numpy()
    found = there_and_back(of_tokens, h.numpy())
    assert found.dtype == np.float32
    assert found.flags.writeable
    assert np.abs(found - expected).max() < 1e-4
    apart = sum(len(s) for lists in packed["strings"].values() for streams in lists for s in streams)
    together = len(parse(of_tokens).encode(h.numpy(), Spec.of(h.numpy())))
    assert together < apart - 70 * 7 * 4  # of seven streams for each image, one is left


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_features_of_any_float_type(of_tokens: str, dtype: object) -> None:
    h = tokens(2, (3, 3)).numpy().astype(dtype)
    found = there_and_back(of_tokens, h)
    assert (found.dtype, found.shape) == (h.dtype, h.shape)


def test_more_tokens_than_go_into_one_call(of_tokens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tokens_module, frames):
        monkeypatch.setattr(module, "MOST_TOKENS", 40)  # four images
    h = tokens(11, (3, 3))
    expected = torch.cat([vit().decompress(**vit().compress(part, (3, 3)))["h_hat"] for part in h.split(4)])
    assert np.abs(there_and_back(of_tokens, h.numpy()) - expected.numpy()).max() < 1e-4


def test_a_grid_that_is_no_square(of_tokens: str) -> None:
    h = tokens(3, (2, 6)).numpy()
    with pytest.raises(ConfigError, match="tokens"):
        there_and_back(of_tokens, h)
    assert there_and_back(of_tokens.replace(")", ", grid=[2, 6])"), h).shape == h.shape


@pytest.mark.parametrize("shape", [(50, 70), (3, 64, 64), (2, 2, 65, 40)], ids=str)
def test_planes_of_any_number_and_size(of_planes: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = there_and_back(of_planes, x)
    assert found.shape == shape
    assert x.min() - 1e-5 <= found.min() <= found.max() <= x.max() + 1e-5
    narrow = there_and_back(of_planes.replace(")", ", bounds=[-1.0, 0.5])"), x)
    assert -1 <= narrow.min() <= narrow.max() <= 0.5
    assert np.isfinite(there_and_back(of_planes, np.full(shape, 3.0, np.float32))).all()


def test_bundles_and_records_hold_them(of_tokens: str) -> None:
    h = tokens(5, (3, 3))
    policy = f"h = {of_tokens}; * = zstd"
    bundle = Bundle(pack({"h": h, "labels": np.arange(5), "bias": np.ones(3, np.float32)}, policy))
    assert bundle.rows()[0]["pipeline"] == of_tokens
    assert bundle["labels"].tolist() == [0, 1, 2, 3, 4]
    assert np.abs(bundle["h"] - there_and_back(of_tokens, h.numpy())).max() < 1e-4
    record = LatentRecord({"h": h}, codec=of_tokens)
    assert record["h"].numpy().shape == h.shape
    assert not Policy.parse(of_tokens).lossless
    assert not parse(of_tokens).reproducible


def test_what_it_cannot_take_is_coded_without_loss(of_tokens: str) -> None:
    odd = {"two": np.ones((4, 4), np.float32), "int": np.ones((2, 10, DIM), np.int32), "nan": tokens(1, (3, 3)).numpy()}
    odd["nan"][0, 0, 0] = np.nan
    bundle = Bundle(pack(odd, of_tokens))
    assert all(np.array_equal(bundle[key], x, equal_nan=True) for key, x in odd.items())


def test_a_file_of_weights_goes_by_its_digest(tmp_path: Path) -> None:
    model, h = vit(), tokens(1, (3, 3)).numpy()
    for name in ("codec.fpb", "codec.npz", "codec.pt"):
        arrays_to_file(model.state_dict(), tmp_path / name)
    digest = weights.install(model.state_dict())
    for name in ("codec.fpb", "codec.npz", "codec.pt"):
        assert digest in Bundle(pack({"h": h}, f"learned(weights='{tmp_path / name}')")).rows()[0]["pipeline"]
    other = vit(seed=1).state_dict()
    arrays_to_file(other, tmp_path / "codec.fpb")
    now = Bundle(pack({"h": h}, f"learned(weights='{tmp_path / 'codec.fpb'}')")).rows()[0]["pipeline"]
    assert weights.install(other) in now
    assert there_and_back(f"learned(weights='{tmp_path / 'codec.pt'}')", h).shape == h.shape


def test_weights_that_are_not_here_are_an_error(of_tokens: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h = tokens(1, (3, 3)).numpy()
    bundle = pack({"h": h}, of_tokens)
    monkeypatch.setenv(FOLDER, str(cache / "elsewhere"))
    with pytest.raises(ConfigError, match="flowerpress cache weights"):
        pack({"h": h}, of_tokens)  # it is not coded in some other way in silence
    with pytest.raises(ConfigError, match="no weights"):
        there_and_back(of_tokens, h)
    with pytest.raises(ChunkError, match="flowerpress cache weights"):
        Bundle(bundle)["h"]
    with pytest.raises(ConfigError, match="no weights 'nowhere'"):
        pack({"h": h}, "learned(weights='nowhere')")


def test_weights_are_checked_against_their_name(of_tokens: str, cache: Path) -> None:
    (path,) = (cache / "weights").iterdir()
    other = weights.install(vit(seed=1).state_dict())
    path.write_bytes((cache / "weights" / f"{other}.fpb").read_bytes())
    with pytest.raises(ConfigError, match="expected weights of that digest"):
        there_and_back(of_tokens, tokens(1, (3, 3)).numpy())
    with pytest.raises(ConfigError, match=r"update\(\)"):
        weights.install({"a": np.ones(3)})


def test_streams_of_other_weights_are_errors(of_tokens: str) -> None:
    h = tokens(2, (3, 3)).numpy()
    data = bytes(parse(of_tokens).encode(h, Spec.of(h)))
    other = f"learned(weights='{weights.install(vit(seed=1).state_dict())}')"
    with pytest.raises(ChunkError):
        parse(other).decode(data, Spec.of(h))
    for spec in (
        Spec("h", "float32", (3, 10, DIM)),
        Spec("h", "float32", (2, 10, 8)),
        Spec("h", "float32", (2, 9, DIM)),
    ):
        with pytest.raises(ChunkError):
            parse(of_tokens).decode(data, spec)


@pytest.mark.parametrize(
    "text",
    [
        "learned()",
        "learned(weights='')",
        "learned(model='vit', weights='a')",
        "learned(weights='a', grid=[1])",
        "learned(weights='a', grid=[0, 4])",
        "learned(weights='a', grid=[1.5, 4])",
        "learned(weights='a', bounds=[1, 1])",
        "learned(weights='a', bounds=[0])",
        "learned(weights='a', qp=-1)",
        "learned(weights='a', qp=1.0)",
    ],
)
def test_arguments_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="learned"):
        parse(text)


@pytest.mark.parametrize("kind", ["tokens", "planes"])
def test_damaged_streams_are_errors(kind: str, of_tokens: str, of_planes: str) -> None:
    x = tokens(2, (3, 3)).numpy() if kind == "tokens" else np.random.default_rng(0).random((2, 64, 64), np.float32)
    pipeline, spec, dice = parse(of_tokens if kind == "tokens" else of_planes), Spec.of(x), random.Random(0)
    data = bytes(pipeline.encode(x, spec))
    for n in (0, 7, 8, 15, 20, len(data) - 1):
        with pytest.raises(ChunkError):
            pipeline.decode(data[:n], spec)
    for _ in range(60):
        bad = bytearray(data)
        bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
        try:
            found = pipeline.decode(bytes(bad), spec)
        except ChunkError:
            continue
        assert kind == "planes"  # in its bounds, which no checksum covers
        assert found.shape == x.shape
        assert np.isfinite(found).all()


def test_a_codec_of_variable_rate_needs_its_rate() -> None:
    model, h = vit(rates=2), tokens(2, (3, 3)).numpy()
    with torch.no_grad():
        model.q_scale_enc[1], model.q_scale_dec[1] = 8.0, 0.125
    text = f"learned(weights='{weights.install(model.state_dict())}', qp={{}})"
    low, high = (len(parse(text.format(qp)).encode(h, Spec.of(h))) for qp in (0, 1))
    assert low < high
    assert there_and_back(text.format(1), h).shape == h.shape
    for bad in ("none", "2"):
        with pytest.raises(ConfigError, match="qp from 0 to 1"):
            there_and_back(text.format(bad), h)


def test_tensors_are_taken_as_they_are(of_tokens: str) -> None:
    h = tokens(2, (3, 3))
    assert parse(of_tokens).encode(h, Spec.of(h)) == parse(of_tokens).encode(h.numpy(), Spec.of(h.numpy()))
    assert torch.equal(h, tokens(2, (3, 3)))
