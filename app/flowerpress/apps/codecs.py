"""Architectures of the learned codecs that the app trains."""

from typing import Any

from flowerpress.latent_codecs.vit import VitUnionLatentCodec


def small(opt: Any) -> VitUnionLatentCodec:  # noqa: ANN401 - options, which it does not need
    """Return a codec of 0.34 M parameters for grids of tokens of 64 channels, without prefix tokens."""
    return VitUnionLatentCodec(64, y_dim=24, z_dim=16, groups=12, num_prefix_tokens=0)
