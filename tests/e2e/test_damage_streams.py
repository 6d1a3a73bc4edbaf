"""Twenty thousand damaged streams of each learned codec; `tests/latent_codecs/test_damage.py` does some of it in CI."""

import pytest
import torch

from flowerpress.latent_codecs import FeatureScaleHyperprior, VitUnionLatentCodec, VitUnionLatentCodecWithCtx
from tests.latent_codecs import tiny
from tests.latent_codecs.damage import cases, survive

CASES = cases(tiny)


@pytest.mark.parametrize("name", CASES)
def test_20000_damaged_streams_of_a_small_codec(name: str) -> None:
    strings, decode, shape = CASES[name]
    assert survive(strings, decode, shape, times=20_000, seed=7) > 15_000


@pytest.mark.parametrize("name", ["tokens", "tokens with a context", "planes"])
def test_200_damaged_streams_at_default_sizes(name: str) -> None:
    torch.manual_seed(0)
    if name == "planes":
        planes = FeatureScaleHyperprior(128, 192).eval()
        planes.update()
        of_planes = planes.compress(torch.rand(1, 1, 128, 192))

        def decode(strings: list[list[bytes]]) -> torch.Tensor:
            return planes.decompress(strings, of_planes["shape"], of_planes["pstate"])["x_hat"]

        assert survive(of_planes["strings"], decode, (1, 1, 128, 192), times=200, seed=7) > 150
        return
    ctx = [] if name == "tokens" else [torch.randn(1, 256, 16, 16)]
    model = (VitUnionLatentCodecWithCtx if ctx else VitUnionLatentCodec)().eval()
    model.update()
    packed = model.compress(torch.randn(1, 257, 384), *ctx, (16, 16))

    def decode_tokens(strings: list[list[bytes]]) -> torch.Tensor:
        return model.decompress({"z": strings[:1], "y": strings[1:]}, packed["pstate"], *ctx)["h_hat"]

    lists = [*packed["strings"]["z"], *packed["strings"]["y"]]
    assert survive(lists, decode_tokens, (1, 257, 384), times=200, seed=7) > 150
