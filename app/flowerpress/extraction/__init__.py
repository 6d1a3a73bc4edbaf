"""Latents of images (seed 002): an encoder runs over HDF5 files, here, in a bucket, or at federated clients."""

from typing import TYPE_CHECKING

from flowerpress.exports import on_demand

if TYPE_CHECKING:
    from flowerpress.extraction.hdf5 import HDF5RGBDataset as HDF5RGBDataset
    from flowerpress.extraction.hdf5 import build_loader as build_loader
    from flowerpress.extraction.inference import calc_latent as calc_latent
    from flowerpress.extraction.latents import main as main
    from flowerpress.extraction.latents import model_latents_extract as model_latents_extract
    from flowerpress.extraction.latents import prep as prep
    from flowerpress.extraction.options import Params as Params
    from flowerpress.extraction.options import load_opt as load_opt
    from flowerpress.extraction.options import option_preprocess as option_preprocess

_HOMES = {
    "HDF5RGBDataset": "hdf5",
    "Params": "options",
    "build_loader": "hdf5",
    "calc_latent": "inference",
    "load_opt": "options",
    "main": "latents",
    "model_latents_extract": "latents",
    "option_preprocess": "options",
    "prep": "latents",
}
__all__ = list(_HOMES)
__getattr__ = on_demand(__name__, _HOMES)
