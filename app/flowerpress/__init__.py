"""Federated learning on Flower whose messages are compressed array records.

Two lines press a Flower app: ``ClientApp(mods=[press_mod])``, and ``strategy.start(grid=PressGrid(grid), …)``.
"""

from typing import TYPE_CHECKING

from flowerpress.exports import on_demand

if TYPE_CHECKING:
    from flowerpress.chunks.bundle import Bundle as Bundle
    from flowerpress.chunks.latent import LatentChunks as LatentChunks
    from flowerpress.chunks.pack import pack as pack
    from flowerpress.codecs.base import Codec as Codec
    from flowerpress.codecs.base import Pipeline as Pipeline
    from flowerpress.codecs.base import Spec as Spec
    from flowerpress.codecs.policy import Policy as Policy
    from flowerpress.codecs.text import parse as parse
    from flowerpress.errors import ChunkError as ChunkError
    from flowerpress.errors import ConfigError as ConfigError
    from flowerpress.errors import FlowerpressError as FlowerpressError
    from flowerpress.errors import LatentError as LatentError
    from flowerpress.errors import RunError as RunError
    from flowerpress.federation.grid import PressGrid as PressGrid
    from flowerpress.federation.mod import press_mod as press_mod
    from flowerpress.federation.screening import Screen as Screen
    from flowerpress.records import LatentArray as LatentArray
    from flowerpress.records import LatentRecord as LatentRecord
    from flowerpress.wire import press as press
    from flowerpress.wire import unpress as unpress

_HOMES = {
    "Bundle": "chunks.bundle",
    "ChunkError": "errors",
    "Codec": "codecs.base",
    "ConfigError": "errors",
    "FlowerpressError": "errors",
    "LatentArray": "records",
    "LatentChunks": "chunks.latent",
    "LatentError": "errors",
    "LatentRecord": "records",
    "Pipeline": "codecs.base",
    "Policy": "codecs.policy",
    "PressGrid": "federation.grid",
    "RunError": "errors",
    "Screen": "federation.screening",
    "Spec": "codecs.base",
    "pack": "chunks.pack",
    "parse": "codecs.text",
    "press": "wire",
    "press_mod": "federation.mod",
    "unpress": "wire",
}
__all__ = list(_HOMES)
__getattr__ = on_demand(__name__, _HOMES)
