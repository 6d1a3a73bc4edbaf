"""Small codecs whose latents are not all zero, and features for them."""

import torch

from flowerpress.latent_codecs.hyperprior import HyperpriorLatentCodecWithCtx
from flowerpress.latent_codecs.scale import FeatureScaleHyperprior
from flowerpress.latent_codecs.vit import VitUnionLatentCodec, VitUnionLatentCodecWithCtx

DIM, CTX = 32, 6


def _lively(module: torch.nn.Module, gain: float) -> None:
    """Make a network's outputs vary: fresh ones are nearly constant."""
    with torch.no_grad():
        for name, x in module.named_parameters():
            if name.endswith("weight") and x.ndim == 4:
                x.mul_(gain)


def vit(seed: int = 0, **options: object) -> VitUnionLatentCodec:
    torch.manual_seed(seed)
    model = VitUnionLatentCodec(DIM, **{"y_dim": 12, "z_dim": 8, "groups": 4, **options})
    return _ready(model)


def vit_with_ctx(seed: int = 0, **options: object) -> VitUnionLatentCodecWithCtx:
    torch.manual_seed(seed)
    model = VitUnionLatentCodecWithCtx(DIM, **{"y_dim": 12, "z_dim": 8, "ctx_dim": CTX, "groups": 4, **options})
    return _ready(model)


def scale(seed: int = 0, **options: object) -> FeatureScaleHyperprior:
    torch.manual_seed(seed)
    model = FeatureScaleHyperprior(8, 12, **options)
    _lively(model, 3.0)
    model.update()
    return model.eval()


def hyperprior(seed: int = 0, **options: object) -> HyperpriorLatentCodecWithCtx:
    torch.manual_seed(seed)
    model = HyperpriorLatentCodecWithCtx.default(8, 12, **options)
    _lively(model, 2.0)
    model.update()
    return model.eval()


def _ready(model):
    _lively(model, 2.0)
    with torch.no_grad():
        model.post_reg_tokens.normal_()
        for group in model.y_lc.latent_codec.values():
            group.entropy_parameters[4].bias.chunk(2)[0].add_(2.0)  # scales that fit what there is
    model.update()
    return model.eval()


def tokens(items: int, grid: tuple[int, int], prefix: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(items, prefix + grid[0] * grid[1], DIM, generator=generator)


def context(items: int, grid: tuple[int, int], seed: int = 1) -> torch.Tensor:
    return torch.randn(items, CTX, *grid, generator=torch.Generator().manual_seed(seed))


def one_of(strings: dict, item: int) -> dict:
    """Return the streams of one item of a batch."""
    return {name: [[streams[item]] for streams in lists] for name, lists in strings.items()}
