"""Learned codecs of features: a network's latents, an entropy model that knows them, and a range coder.

With the class and parameter names of mpcompress, and the streams of CompressAI; published checkpoints load.
"""

from typing import TYPE_CHECKING

from flowerpress.exports import on_demand

if TYPE_CHECKING:
    from flowerpress.latent_codecs.entropy_models import EntropyBottleneck as EntropyBottleneck
    from flowerpress.latent_codecs.entropy_models import GaussianConditional as GaussianConditional
    from flowerpress.latent_codecs.hyperprior import HyperLatentCodecWithCtx as HyperLatentCodecWithCtx
    from flowerpress.latent_codecs.hyperprior import HyperpriorLatentCodecWithCtx as HyperpriorLatentCodecWithCtx
    from flowerpress.latent_codecs.scale import FeatureScaleHyperprior as FeatureScaleHyperprior
    from flowerpress.latent_codecs.vit import VitUnionLatentCodec as VitUnionLatentCodec
    from flowerpress.latent_codecs.vit import VitUnionLatentCodecWithCtx as VitUnionLatentCodecWithCtx
    from flowerpress.latent_codecs.vtm import VtmCodec as VtmCodec
    from flowerpress.latent_codecs.vtm import VtmFeatureCodec as VtmFeatureCodec

_HOMES = {
    "EntropyBottleneck": "entropy_models",
    "FeatureScaleHyperprior": "scale",
    "GaussianConditional": "entropy_models",
    "HyperLatentCodecWithCtx": "hyperprior",
    "HyperpriorLatentCodecWithCtx": "hyperprior",
    "VitUnionLatentCodec": "vit",
    "VitUnionLatentCodecWithCtx": "vit",
    "VtmCodec": "vtm",
    "VtmFeatureCodec": "vtm",
}
__all__ = list(_HOMES)
__getattr__ = on_demand(__name__, _HOMES)
