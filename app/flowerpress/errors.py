"""Every exception that flowerpress raises on its own account.

::

    FlowerpressError
    ├── ConfigError  (ValueError)    you: an argument, a pipeline text, an array that a codec cannot take
    ├── ChunkError   (ValueError)    the peer: bytes that are damaged, forged or from another version
    │   └── LatentError              the same for LATN chunks (seed 000), for input and for bytes
    └── RunError     (RuntimeError)  a run that failed: no usable reply, a server or program that did not do its work

Where the contract of a Flower class names a built-in exception (``TypeError`` for a bad record value), that is raised.
"""


class FlowerpressError(Exception):
    """Root of the tree: catches everything below it."""


class ConfigError(FlowerpressError, ValueError):
    """What the caller asked for is not possible; the message says what would be."""


class ChunkError(FlowerpressError, ValueError):
    """Bytes from elsewhere that cannot be trusted or understood; nothing was decoded from them."""


class LatentError(ChunkError):
    """A latent array that cannot be packed, or a LATN chunk that cannot be parsed."""


class RunError(FlowerpressError, RuntimeError):
    """A federated run did not produce a model; the message names the reason and the node."""
