"""pcodec: integers of any size within 0.03 bit of their entropy (Loncaric et al. 2025, arXiv:2502.06112).

It bins the values, codes the bins with tANS, and stores the offset in the bin as it is.
"""

import numpy as np
from pcodec import ChunkConfig, standalone

from flowerpress.codecs.dtypes import Buffer, Host
from flowerpress.errors import ChunkError

_CONFIG = ChunkConfig(compression_level=8)


def compress(values: Host) -> bytes:
    """Return the pcodec stream of flat integers of 2, 4 or 8 bytes."""
    return bytes(standalone.simple_compress(np.ascontiguousarray(values), _CONFIG))


def decompress(body: Buffer, size: int, width: int) -> Host:
    """Return ``size`` signed integers of ``width`` bytes; ChunkError if the stream holds anything else."""
    values = np.empty(size, f"i{width}")
    try:
        progress = standalone.simple_decompress_into(bytes(body), values)
    except BaseException as error:  # pcodec's panics are no Exceptions
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ChunkError(f"entropy: pcodec cannot decode it: {error}") from error
    if progress.n_processed != size or not progress.finished:
        raise ChunkError(f"entropy: expected {size} values of pcodec, found another number")
    return values
