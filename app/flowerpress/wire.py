"""Records as they travel: plain Flower, with one Array for all arrays of a record.

::

    record ──► press ──► ArrayRecord {"flowerpress.bundle": Array("uint8", (n,), "flowerpress.bundle", bundle)}
                                     │ two objects and one request each way, however many tensors
    LatentRecord, decoded when read ◄── unpress

Flower pays two objects per array and hop; packed into one, a model of 200 tensors travels several times faster.
"""

from collections.abc import Iterator, Mapping

from flwr.app import Array, ArrayRecord

from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.pack import pack
from flowerpress.codecs.dtypes import ArrayLike, Host, to_host
from flowerpress.codecs.feedback import with_residual
from flowerpress.codecs.policy import as_policy
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.npy import STYPE, plain_numpy
from flowerpress.records import CodecLike, LatentArray, LatentRecord

KEY = "flowerpress.bundle"  # of the one array in a pressed record
FIRST = "flowerpress.first"  # of the bundle beside it that it was coded against, for nodes that hold nothing
PRESSED = "flowerpress.bundle"  # the stype of that array


def press(
    record: ArrayRecord,
    codec: CodecLike = "zstd",
    *,
    bases: Mapping[str, ArrayLike] | None = None,
    residual: Mapping[str, Host] | None = None,
) -> ArrayRecord:
    """Return the record as it travels: plain Flower, with one Array of stype ``"flowerpress.bundle"`` for all arrays.

    ``bases`` are references that the receiver holds, by the name of the array, for codecs that code differences. Where
    they have the names, dtypes and shapes of the record, in its order, differences do not repeat these. ``residual`` is
    added to the arrays of the same name: what a lossy codec dropped of them before. A LatentRecord that was compressed
    with the same codec, without references, is not compressed again. Arrays whose stype is not Flower's own travel
    beside the bundle as they are; an empty record is returned empty.

    >>> import numpy as np
    >>> record = press(LatentRecord([np.zeros(3)]))
    >>> [(a.dtype, a.stype) for a in record.values()]
    [('uint8', 'flowerpress.bundle')]
    """
    if KEY in record:
        raise ConfigError(f"press: the key {KEY!r} is reserved; is the record pressed already?")
    bundle = record.bundle if isinstance(record, LatentRecord) and _alike(record.codec, codec) else None
    pressed = beside(record)
    if bundle is not None and not bases and not bundle.bases and not residual:
        pressed[KEY] = bundle_array(bundle.to_bytes())
    elif values := values_of(record):
        for key, left in (residual or {}).items():
            x = to_host(values[key])
            values[key] = with_residual(x, left).astype(x.dtype, copy=False)
        pressed[KEY] = bundle_array(pack(values, codec, bases=bases, by_schema=True, keep_input=False))
    return pressed


def unpress(record: ArrayRecord, *, bases: Mapping[str, ArrayLike] | None = None) -> ArrayRecord:
    """Return the record that was pressed, compressed still; a record that was not pressed is returned as it is.

    Raises ChunkError if the bundle is damaged, which includes its chunks, or if it needs other references than these;
    what is decoded later is only checked then.
    """
    data = bundle_bytes(record)
    return record if data is None else opened(record, Bundle(data, bases=bases))


def bundle_bytes(record: ArrayRecord, key: str = KEY) -> bytes | None:
    """Return the bundle in a pressed record; None if it has none."""
    pressed = record.get(key)
    if pressed is None or pressed.stype != PRESSED:
        return None
    if tuple(pressed.shape) != (len(pressed.data),) or pressed.dtype != "uint8":
        raise ChunkError(f"bundle: expected uint8[{len(pressed.data)}], found {pressed.dtype}{list(pressed.shape)}")
    return pressed.data


def opened(record: ArrayRecord, bundle: Bundle, codec: CodecLike = "zstd") -> LatentRecord:
    """Return the arrays of a bundle, checked for damage, and those that a pressed record carries beside it."""
    bundle.verify()
    latent = LatentRecord.of(bundle, codec)
    for key, array in record.items():
        if key not in (KEY, FIRST):
            latent[key] = array
    return latent


def values_of(record: ArrayRecord) -> dict[str, ArrayLike]:
    """Return what goes into a bundle: all arrays but those of a stype that is not Flower's own, in true dtypes."""
    return dict(Values(record))


class Values(Mapping[str, Host]):
    """What goes into a bundle of a record, decoded when it is read: one array in memory at a time."""

    def __init__(self, record: ArrayRecord) -> None:
        self._record = record
        self._keys = [key for key, array in record.items() if array.stype == STYPE]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, key: str) -> Host:
        array = self._record[key]
        return array.decode() if isinstance(array, LatentArray) else plain_numpy(array)


def beside(record: ArrayRecord) -> ArrayRecord:
    """Return the arrays that do not go into a bundle, and travel as they are."""
    others = ArrayRecord()
    for key, array in record.items():
        if array.stype != STYPE:
            others[key] = array
    return others


def bundle_array(data: bytes) -> Array:
    """Return a bundle as the one array of a pressed record."""
    return Array("uint8", (len(data),), PRESSED, data)


def _alike(a: CodecLike, b: CodecLike) -> bool:
    return a is b or str(as_policy(a)) == str(as_policy(b))
