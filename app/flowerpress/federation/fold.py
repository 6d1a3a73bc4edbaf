"""Small messages, folded: all records of a message in one, which is two Flower objects less for each of the others.

::

    RecordDict {"arrays": bundle, "config": …, "flowerpress": …}      8 objects, 1.2 kB of ids and names
    RecordDict {"flowerpress": ConfigRecord {"folded": bytes}}        3 objects, 0.3 kB

The bytes are a msgpack array of [name, kind, values]. Every object is a request of its own, and 1 kB is what an update
of 0.2 M parameters takes at 0.04 bits each. Records that hold 1 MiB or more, or arrays beside their bundle, travel as
they are.
"""

from typing import Any

import msgspec
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from flowerpress.errors import ChunkError
from flowerpress.federation.protocol import RECORD, records_of
from flowerpress.wire import KEY, bundle_array

MOST = 1 << 20  # bytes of bundles
_FOLDED = "folded"
_CONFIG, _METRICS, _ARRAYS = range(3)


class _Entry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    name: str
    kind: int
    values: dict[str, Any]  # what they may be, Flower's records check


def fold(content: RecordDict) -> RecordDict:
    """Return a pressed message's content as it travels: in one record if it is small, else as it is."""
    arrays = [array for record in records_of(content, ArrayRecord).values() for array in record.items()]
    if any(key != KEY for key, _ in arrays) or sum(len(array.data) for _, array in arrays) >= MOST:
        return content
    entries = [_entry(name, record) for name, record in content.items()]
    return RecordDict({RECORD: ConfigRecord({_FOLDED: msgspec.msgpack.encode(entries)})})


def unfold(content: RecordDict) -> RecordDict:
    """Return the records that were folded; content that was not is returned as it is.

    Raises ChunkError for bytes that `fold` did not write.
    """
    record = records_of(content, ConfigRecord).get(RECORD)
    if record is None or _FOLDED not in record:
        return content
    try:
        folded = record[_FOLDED]
        entries = msgspec.msgpack.decode(folded if isinstance(folded, bytes) else b"", type=list[_Entry])
        return RecordDict({entry.name: _record(entry) for entry in entries})
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise ChunkError(f"message: expected folded records, found {error}") from error


def _entry(name: str, record: ArrayRecord | ConfigRecord | MetricRecord) -> _Entry:
    if isinstance(record, ArrayRecord):
        return _Entry(name, _ARRAYS, {key: array.data for key, array in record.items()})
    return _Entry(name, _CONFIG if isinstance(record, ConfigRecord) else _METRICS, dict(record))


def _record(entry: _Entry) -> ArrayRecord | ConfigRecord | MetricRecord:
    if entry.kind == _ARRAYS:
        return _pressed(entry.values)
    if entry.kind == _METRICS:
        return MetricRecord(entry.values)
    if entry.kind == _CONFIG:
        return ConfigRecord(entry.values)
    raise ChunkError(f"message: expected the kind of a record, found {entry.kind}")


def _pressed(values: dict[str, Any]) -> ArrayRecord:
    """Return a pressed record, or an empty one."""
    record = ArrayRecord()
    if values:
        ((key, data),) = values.items()
        if key != KEY or not isinstance(data, bytes):
            raise ChunkError(f"message: expected a bundle under {KEY!r}, found {type(data).__name__} under {key!r}")
        record[KEY] = bundle_array(data)
    return record
