import json
from pathlib import Path

import pytest
import torch
from tests.latent_codecs.test_vit import listed
from tests.latent_codecs.tiny import hyperprior, scale
from torch import nn

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs import (
    EntropyBottleneck,
    FeatureScaleHyperprior,
    HyperLatentCodecWithCtx,
    HyperpriorLatentCodecWithCtx,
)
from flowerpress.latent_codecs.checkerboard import ChannelGroups
from flowerpress.latent_codecs.layers import conv, deconv

STATE = Path(__file__).parents[1] / "golden" / "state_dicts" / "scale-hyperprior.txt"


class Joined(nn.Module):
    """A network that looks at its context."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, ctx: torch.Tensor) -> torch.Tensor:
        return self.net(torch.cat([x, ctx[:, :, : x.shape[2], : x.shape[3]]], 1))


def hyper(quantizer: str = "noise", **options: object) -> HyperLatentCodecWithCtx:
    torch.manual_seed(0)
    codec = HyperLatentCodecWithCtx(
        EntropyBottleneck(4), Joined(conv(6 + 3, 4, 5, 4)), Joined(deconv(4 + 3, 10, 5, 4)), quantizer, **options
    )
    with torch.no_grad():
        codec.h_a.net.weight.mul_(20)
    codec.update()
    return codec.eval()


def planes(items: int = 2, height: int = 64, width: int = 128) -> torch.Tensor:
    return torch.rand(items, 1, height, width, generator=torch.Generator().manual_seed(3))


def test_the_scale_hyperprior_has_the_published_keys_and_shapes() -> None:
    model = FeatureScaleHyperprior(128, 192)
    assert listed(model) == STATE.read_text().splitlines()
    assert len(model.state_dict()) == 91
    assert sum(p.numel() for p in model.parameters()) == 5_063_041
    assert model.downsampling_factor == 64
    assert model.training


def test_planes_there_and_back() -> None:
    model, x = scale(), planes()
    out = model(x)
    assert set(out) == {"x_hat", "likelihoods"}
    assert out["x_hat"].shape == x.shape
    assert out["likelihoods"]["y"].shape == (2, 12, 4, 8)
    assert out["likelihoods"]["z"].shape == (2, 8, 1, 2)
    packed = model.compress(x)
    assert packed["shape"] == (1, 2)
    assert [len(streams) for streams in packed["strings"]] == [2, 2]
    found = model.decompress(packed["strings"], packed["shape"])["x_hat"]
    assert torch.equal(found, model.decompress(**packed)["x_hat"])
    assert (found - out["x_hat"].clamp(0, 1)).abs().median() < 0.01
    assert 0 <= found.min() <= found.max() <= 1


def test_planes_of_a_batch_are_those_of_single_ones() -> None:
    model, x = scale(), planes(3)
    whole = model.compress(x)
    for i in range(3):
        single = model.compress(x[i : i + 1])
        assert single["strings"] == [[streams[i]] for streams in whole["strings"]]
        found = model.decompress(single["strings"], whole["shape"], whole["pstate"])["x_hat"]
        assert found.shape == (1, 1, 64, 128)


def test_planes_of_any_side_and_range() -> None:
    model, x = scale(), planes(2, 50, 100) * 12 - 5
    packed = model.compress(x, pad=True, bounds=(-5, 7))
    found = model.decompress(**packed)["x_hat"]
    assert found.shape == x.shape
    assert -5 <= found.min() <= found.max() <= 7
    assert packed["pstate"]["size"] == (50, 100)
    assert packed["pstate"]["bounds"] == (-5, 7)
    middle = torch.zeros(2, 1, 64, 128)
    middle[:, :, 7:57, 14:114] = (x + 5) / 12
    assert model.compress(middle)["strings"] == packed["strings"]
    exact = model.compress(planes(), pad=True)
    assert exact["strings"] == model.compress(planes())["strings"]


@pytest.mark.parametrize("bad", [planes(1, 63), planes(1)[0], planes(1).expand(1, 2, 64, 128), planes(1)[:0]], ids=str)
def test_what_are_no_planes_is_refused(bad: torch.Tensor) -> None:
    for call in (scale().compress, scale().forward):
        with pytest.raises(ConfigError, match="64 divides"):
            call(bad)


def test_bounds_that_do_not_rise_are_refused() -> None:
    for bad in ((1, 1), (2, 1), (0, float("inf")), (float("nan"), 1), (1,), 5):
        with pytest.raises(ConfigError, match="bounds"):
            scale().compress(planes(), bounds=bad)


def test_a_model_of_the_sizes_in_a_state_dict() -> None:
    model = scale()
    state = model.state_dict()
    loaded = FeatureScaleHyperprior.from_state_dict(state)
    assert loaded.training
    assert loaded.compress(planes()) == model.compress(planes())
    for bad in ({}, {"g_a.0.weight": torch.zeros(8, 1, 5, 5)}, {**state, "g_a.2.weight": torch.zeros(3)}):
        with pytest.raises(ConfigError, match="scale hyperprior"):
            FeatureScaleHyperprior.from_state_dict(bad)
    with pytest.raises(TypeError):
        FeatureScaleHyperprior(8, 12, unknown=1)


def test_hostile_planes_are_errors() -> None:
    model = scale()
    packed = model.compress(planes(2, 50, 100), pad=True)
    strings, shape, pstate = packed["strings"], packed["shape"], packed["pstate"]
    for bad in (strings[:1], [*strings, strings[0]], None, [strings[0], strings[1][:1]], [[b""] * 2] * 2, [[1, 2]] * 2):
        with pytest.raises(ChunkError):
            model.decompress(bad, shape, pstate)
    for bad in ((2, 1), (0, 2), (-1, 2), (1, 2, 3), (10**9, 10**9), 5, None, (1.0, 2.0)):
        with pytest.raises(ChunkError):
            model.decompress(strings, bad, pstate)
    for change in ({"size": (1, 1)}, {"size": (64, 200)}, {"bounds": (2, 1)}, {"bounds": "x"}, {"checksums": []}):
        with pytest.raises(ChunkError):
            model.decompress(strings, shape, {**pstate, **change})


@pytest.mark.parametrize("quantizer", ["noise", "ste"])
def test_the_hyper_branch(quantizer: str) -> None:
    codec, y, ctx = hyper(quantizer), torch.randn(2, 6, 8, 12), torch.randn(2, 3, 8, 12)
    out = codec(y, ctx)
    assert out["params"].shape == (2, 10, 8, 12)
    assert out["likelihoods"]["z"].shape == (2, 4, 2, 3)
    packed = codec.compress(y, ctx)
    assert packed["shape"] == (2, 3)
    assert [len(streams) for streams in packed["strings"]] == [2]
    assert (packed["params"] - out["params"]).abs().median() < 0.01
    found = codec.decompress(packed["strings"], packed["shape"], ctx, anything=1)
    assert set(found) == {"params"}
    assert torch.equal(found["params"], packed["params"])
    assert not torch.equal(codec.decompress(packed["strings"], packed["shape"], -ctx)["params"], packed["params"])
    codec.train()
    first, second = codec(y, ctx)["params"], codec(y, ctx)["params"]
    assert torch.equal(first, second) == (quantizer == "ste")
    first.square().sum().backward()
    assert codec.h_a.net.weight.grad.abs().sum() > 0


def test_an_unknown_quantizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="quantizer"):
        hyper("round")


def test_hostile_hyper_latents_are_errors() -> None:
    codec, ctx = hyper(), torch.randn(2, 3, 8, 12)
    packed = codec.compress(torch.randn(2, 6, 8, 12), ctx)
    for strings, shape in (
        ([], (2, 3)),
        (packed["strings"] * 2, (2, 3)),
        (packed["strings"], (2, 4)),
        (packed["strings"], (1 << 20, 1 << 20)),
        ([[b"12345678"] * 2], (2, 3)),
    ):
        with pytest.raises(ChunkError):
            codec.decompress(strings, shape, ctx)


@pytest.mark.parametrize("ctx", [None, torch.zeros(2, 5, 1, 1)], ids=["no context", "any context"])
def test_the_default_hyperprior(ctx: torch.Tensor | None) -> None:
    codec, y = hyperprior(), torch.randn(2, 12, 16, 8) * 4
    out = codec(y, ctx)
    assert out["y_hat"].shape == out["likelihoods"]["y"].shape == y.shape
    assert out["likelihoods"]["z"].shape == (2, 8, 4, 2)
    packed = codec.compress(y, ctx)
    assert packed["shape"] == {"y": (16, 8), "hyper": (4, 2)}
    assert [len(streams) for streams in packed["strings"]] == [2, 2]
    found = codec.decompress(packed["strings"], packed["shape"], ctx, anything=1)
    assert torch.equal(found["y_hat"], packed["y_hat"])
    shape = json.loads(json.dumps(packed["shape"]))
    assert torch.equal(codec.decompress(packed["strings"], shape, ctx)["y_hat"], found["y_hat"])
    assert (found["y_hat"] - y).abs().max() <= 0.501
    assert codec["y"] is codec.y
    assert codec["hyper"] is codec.hyper
    keys = set(codec.state_dict())
    assert {"y.gaussian_conditional.scale_table", "hyper.entropy_bottleneck.quantiles"} <= keys
    assert all(key.startswith(("y.", "hyper.")) for key in keys)
    assert len(y) == len(packed["strings"][0])


def test_a_hyperprior_with_a_context_model() -> None:
    torch.manual_seed(0)
    codec = HyperpriorLatentCodecWithCtx(nn.ModuleDict({"y": ChannelGroups((2, 4), 10, 5), "hyper": hyper()}))
    codec.update()
    codec.eval()
    y, ctx = torch.randn(3, 6, 8, 12) * 3, torch.randn(3, 3, 8, 12)
    packed = codec.compress(y, ctx)
    assert [len(streams) for streams in packed["strings"]] == [3] * 5
    assert packed["shape"] == {"y": [(2, 8, 12), (4, 8, 12)], "hyper": (2, 3)}
    assert torch.equal(codec.decompress(packed["strings"], packed["shape"], ctx)["y_hat"], packed["y_hat"])
    assert codec(y, ctx)["likelihoods"]["y"].shape == y.shape
    for strings in (packed["strings"][1:], [*packed["strings"][:-1], packed["strings"][-1][:2]]):
        with pytest.raises(ChunkError):
            codec.decompress(strings, packed["shape"], ctx)
    for shape in ({}, None, {**packed["shape"], "y": [(2, 8, 12)]}, {"y": packed["shape"]["y"]}):
        with pytest.raises(ChunkError):
            codec.decompress(packed["strings"], shape, ctx)


def test_codecs_that_are_missing_are_named() -> None:
    for bad in ({}, {"y": nn.Identity()}, {"hyper": nn.Identity()}):
        with pytest.raises(ConfigError, match="'y' and 'hyper'"):
            HyperpriorLatentCodecWithCtx(bad)
        with pytest.raises(KeyError):
            HyperpriorLatentCodecWithCtx(bad)
    with pytest.raises(KeyError, match="found 'z'"):
        hyperprior()["z"]
