"""Which codec a name stands for: ours from a literal table, others from the entry points ``flowerpress.codecs``.

The table is literal because a Flower app bundle, which carries our source, has no entry points. Modules are imported
when a name is first looked up.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points

from flowerpress.codecs.base import Codec
from flowerpress.codecs.recommended import RECOMMENDED
from flowerpress.errors import ConfigError

_BUILT_IN = {
    "auto": "flowerpress.codecs.auto:Auto",
    "best": "flowerpress.codecs.best:Best",
    "bitpack": "flowerpress.codecs.bitpack:BitPack",
    "budget": "flowerpress.codecs.budget:Budget",
    "cast": "flowerpress.codecs.cast:Cast",
    "delta": "flowerpress.codecs.delta:Delta",
    "entropy": "flowerpress.codecs.entropy:Entropy",
    "intdelta": "flowerpress.codecs.intdelta:IntDelta",
    "learned": "flowerpress.latent_codecs.learned:Learned",
    "lowrank": "flowerpress.codecs.lowrank:LowRank",
    "nonzero": "flowerpress.codecs.nonzero:Nonzero",
    "planes": "flowerpress.codecs.planes:Planes",
    "quantize": "flowerpress.codecs.quantize:Quantize",
    "raw": "flowerpress.codecs.raw:Raw",
    "sparse": "flowerpress.codecs.sparse:Sparse",
    "zfp": "flowerpress.codecs.zfp:Zfp",
    "zstd": "flowerpress.codecs.zstd:Zstd",
}


def names() -> list[str]:
    """Return the names of all codecs that can be used here, sorted."""
    return sorted({*_BUILT_IN, *(point.name for point in _points())})


@cache
def lookup(name: str) -> type[Codec]:
    """Return the class of the codec called ``name``; a built-in name cannot be replaced.

    Raises ConfigError for an unknown name, or an entry point that is not a codec of that name.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        found: object = getattr(import_module(module), attribute)
    else:
        point = next((point for point in _points() if point.name == name), None)
        if point is None:
            known, alone = ", ".join(names()), ", ".join(RECOMMENDED)
            raise ConfigError(f"no codec is called {name!r}; expected one of {known}, or alone one of {alone}")
        found = point.load()
    if not (isinstance(found, type) and issubclass(found, Codec) and getattr(found, "name", None) == name):
        raise ConfigError(f"entry point {name!r}: expected a Codec whose name is {name!r}, found {found!r}")
    return found


def _points() -> EntryPoints:
    return entry_points(group="flowerpress.codecs")
