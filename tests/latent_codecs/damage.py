"""Damaged streams of each learned codec: an error, or an array of the right shape."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from flowerpress.errors import ChunkError

Decode = Callable[[Any], torch.Tensor]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Return bytes with a few of them changed, cut off, repeated or put in."""
    bad = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(bad) + 1)
        match dice.randrange(5):
            case 0 | 1 if bad:
                bad[min(at, len(bad) - 1)] = dice.randrange(256)
            case 2:
                del bad[at : at + dice.randint(1, 9)]
            case 3:
                bad[at:at] = dice.randbytes(dice.randint(1, 9))
            case _:
                bad = bad[:at]
    return bytes(bad)


def survive(strings: Sequence[Sequence[bytes]], decode: Decode, shape: Sequence[int], times: int, seed: int) -> int:
    """Damage one stream or more, and decode, many times; return how often that was an error.

    Whatever is no error must be finite and of ``shape``.
    """
    dice, errors = random.Random(seed), 0
    for _ in range(times):
        bad = [list(streams) for streams in strings]
        for _ in range(dice.randint(1, 2)):
            streams = bad[dice.randrange(len(bad))]
            item = dice.randrange(len(streams))
            streams[item] = damaged(streams[item], dice)
        try:
            found = decode(bad)
        except ChunkError:
            errors += 1
        else:
            assert tuple(found.shape) == tuple(shape)
            assert bool(found.isfinite().all())
    return errors


def cases(make: Any) -> dict[str, tuple[list[list[bytes]], Decode, tuple[int, ...]]]:
    """Return, of a module that makes codecs and features, streams of each class, what decodes them, and the shape."""
    vit, vit_with_ctx, scale, hyperprior = make.vit(), make.vit_with_ctx(), make.scale(), make.hyperprior()
    h, ctx = make.tokens(2, (3, 4)), make.context(2, (3, 4))
    of_vit, of_ctx = vit.compress(h, (3, 4)), vit_with_ctx.compress(h, ctx, (3, 4))
    of_scale = scale.compress(torch.rand(2, 1, 64, 64))
    y = torch.randn(2, 12, 4, 4) * 4
    of_y = hyperprior.compress(y, None)
    hyper = hyperprior["hyper"]
    of_z = hyper.compress(y, None)

    def tokens_of(model: Any, packed: Any, **more: Any) -> Decode:
        def decode(strings: Any) -> torch.Tensor:
            return model.decompress({"z": strings[:1], "y": strings[1:]}, packed["pstate"], **more)["h_hat"]

        return decode

    def lists(packed: Any) -> list[list[bytes]]:
        return [*packed["strings"]["z"], *packed["strings"]["y"]]

    return {
        "VitUnionLatentCodec": (lists(of_vit), tokens_of(vit, of_vit), tuple(h.shape)),
        "VitUnionLatentCodecWithCtx": (lists(of_ctx), tokens_of(vit_with_ctx, of_ctx, ctx=ctx), tuple(h.shape)),
        "FeatureScaleHyperprior": (
            of_scale["strings"],
            lambda strings: scale.decompress(strings, of_scale["shape"], of_scale["pstate"])["x_hat"],
            (2, 1, 64, 64),
        ),
        "HyperpriorLatentCodecWithCtx": (
            of_y["strings"],
            lambda strings: hyperprior.decompress(strings, of_y["shape"], None)["y_hat"],
            tuple(y.shape),
        ),
        "HyperLatentCodecWithCtx": (
            of_z["strings"],
            lambda strings: hyper.decompress(strings, of_z["shape"], None)["params"],
            tuple(of_z["params"].shape),
        ),
    }
