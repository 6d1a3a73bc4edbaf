"""Twenty thousand damaged streams of each learned codec; `tests/latent_codecs/test_damage.py` does some of it in CI."""

import pytest
import torch

from flowerpress.latent_codecs import VitUnionLatentCodec
from tests.latent_codecs import tiny
from tests.latent_codecs.damage import cases, survive

CASES = cases(tiny)


@pytest.mark.parametrize("name", CASES)
def test_20000_damaged_streams_of_a_small_codec(name: str) -> None:
    strings, decode, shape = CASES[name]
    assert survive(strings, decode, shape, times=20_000, seed=7) > 15_000


def test_200_damaged_streams_at_default_sizes() -> None:
    model = VitUnionLatentCodec().eval()
    model.update()
    packed = model.compress(torch.randn(1, 257, 384), (16, 16))

    def decode(strings: list[list[bytes]]) -> torch.Tensor:
        return model.decompress({"z": strings[:1], "y": strings[1:]}, packed["pstate"])["h_hat"]

    lists = [*packed["strings"]["z"], *packed["strings"]["y"]]
    assert survive(lists, decode, (1, 257, 384), times=200, seed=7) > 150
