"""Records as they travel: plain Flower, with one Array for all arrays of a record.

::

    record ──► press ──► ArrayRecord {"flowerpress.bundle": Array("uint8", (n,), "flowerpress.bundle", bundle)}
                                     │ two objects and one request each way, however many tensors
    LatentRecord, decoded when read ◄── unpress

Flower pays two objects per array and hop; packed into one, a model of 200 tensors travels several times faster.
"""

from flwr.app import Array, ArrayRecord

from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.pack import pack
from flowerpress.codecs.dtypes import ArrayLike
from flowerpress.codecs.policy import as_policy
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.npy import STYPE, plain_numpy
from flowerpress.records import CodecLike, LatentArray, LatentRecord

KEY = "flowerpress.bundle"  # of the one array in a pressed record
PRESSED = "flowerpress.bundle"  # the stype of that array


def press(record: ArrayRecord, codec: CodecLike = "zstd") -> ArrayRecord:
    """Return the record as it travels: plain Flower, with one Array of stype ``"flowerpress.bundle"`` for all arrays.

    A LatentRecord that was compressed with the same codec is not compressed again. Arrays whose stype is not Flower's
    own travel beside the bundle as they are; an empty record is returned empty.

    >>> import numpy as np
    >>> record = press(LatentRecord([np.zeros(3)]))
    >>> [(a.dtype, a.stype) for a in record.values()]
    [('uint8', 'flowerpress.bundle')]
    """
    latent = {key: a for key, a in record.items() if a.stype == STYPE}
    bundle = record.bundle if isinstance(record, LatentRecord) and _alike(record.codec, codec) else None
    pressed = ArrayRecord()
    if bundle is not None:
        pressed[KEY] = _bundle_array(bundle.to_bytes())
    elif latent:
        pressed[KEY] = _bundle_array(pack({key: _value(a) for key, a in latent.items()}, codec, keep_input=False))
    for key, array in record.items():
        if key not in latent:
            if key == KEY:
                raise ConfigError(f"press: the key {KEY!r} is reserved; is the record pressed already?")
            pressed[key] = array
    return pressed


def unpress(record: ArrayRecord) -> ArrayRecord:
    """Return the record that was pressed, compressed still; a record that was not pressed is returned as it is.

    Raises ChunkError if the bundle is damaged, which includes its chunks; what is decoded later is only checked then.
    """
    pressed = record.get(KEY)
    if pressed is None or pressed.stype != PRESSED:
        return record
    if tuple(pressed.shape) != (len(pressed.data),) or pressed.dtype != "uint8":
        raise ChunkError(f"bundle: expected uint8[{len(pressed.data)}], found {pressed.dtype}{list(pressed.shape)}")
    bundle = Bundle(pressed.data)
    bundle.verify()
    latent = LatentRecord.of(bundle)
    for key, array in record.items():
        if key != KEY:
            latent[key] = array
    return latent


def _bundle_array(data: bytes) -> Array:
    return Array("uint8", (len(data),), PRESSED, data)


def _value(array: Array) -> ArrayLike:
    """Return what an array holds in its true dtype."""
    return array.decode() if isinstance(array, LatentArray) else plain_numpy(array)


def _alike(a: CodecLike, b: CodecLike) -> bool:
    return a is b or str(as_policy(a)) == str(as_policy(b))
