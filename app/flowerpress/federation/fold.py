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
from flowerpress.wire import FIRST, KEY, bundle_array

MOST = 1 << 20  # bytes of bundles
_FOLDED = "folded"
_CONFIG, _METRICS, _ARRAYS = range(3)
_PLAIN: tuple[type[Any], ...] = (int, float, str, bytes)


class _Entry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    name: str
    kind: int
    values: dict[str, Any]  # what they may be, Flower's records check


def fold(content: RecordDict) -> RecordDict:
    """Return a pressed message's content as it travels: in one record if it is small, else as it is."""
    arrays = [array for record in records_of(content, ArrayRecord).values() for array in record.items()]
    if any(key not in (KEY, FIRST) for key, _ in arrays) or sum(len(array.data) for _, array in arrays) >= MOST:
        return content
    entries = [_entry(name, record) for name, record in content.items()]
    return RecordDict({RECORD: ConfigRecord({_FOLDED: msgspec.msgpack.encode(entries, enc_hook=_plain)})})


def unfold(content: RecordDict) -> RecordDict:
    """Return the records that were folded; content that was not is returned as it is.

    Raises ChunkError for what `fold` did not write.
    """
    record = records_of(content, ConfigRecord).get(RECORD)
    if record is None or _FOLDED not in record:
        return content
    try:
        folded = record[_FOLDED]
        entries = msgspec.msgpack.decode(folded if isinstance(folded, bytes) else b"", type=list[_Entry])
        records = {entry.name: _record(entry) for entry in entries}
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise ChunkError(f"message: expected folded records, found {error}") from error
    ours = records.get(RECORD)
    if not isinstance(ours, ConfigRecord) or _FOLDED in ours or len(records) < len(entries):
        raise ChunkError(f"message: expected folded records, each once, found {sorted(e.name for e in entries)}")
    if len(content) > 1 or len(record) > 1:
        raise ChunkError("message: expected folded records and nothing beside them")
    return RecordDict(records)


def _entry(name: str, record: ArrayRecord | ConfigRecord | MetricRecord) -> _Entry:
    if isinstance(record, ArrayRecord):
        return _Entry(name, _ARRAYS, {key: array.data for key, array in record.items()})
    return _Entry(name, _CONFIG if isinstance(record, ConfigRecord) else _METRICS, dict(record))


def _plain(value: object) -> int | float | str | bytes:
    """Return a value that Flower takes for a plain one, such as ``numpy.float64``, as what it sends in its place."""
    for kind in _PLAIN:
        if isinstance(value, kind):
            return kind(value)  # type: ignore[no-any-return]
    raise NotImplementedError(f"a record cannot hold {type(value).__name__}")


def _record(entry: _Entry) -> ArrayRecord | ConfigRecord | MetricRecord:
    if entry.kind == _ARRAYS:
        return _pressed(entry.values)
    if entry.kind == _METRICS:
        return MetricRecord(entry.values)
    if entry.kind == _CONFIG:
        return ConfigRecord(entry.values)
    raise ChunkError(f"the kind {entry.kind}")


def _pressed(values: dict[str, Any]) -> ArrayRecord:
    """Return a pressed record, or an empty one."""
    record = ArrayRecord()
    for key, data in values.items():
        if key not in (KEY, FIRST) or not isinstance(data, bytes):
            raise ChunkError(f"other arrays than bundles under {KEY!r} and {FIRST!r}")
        record[key] = bundle_array(data)
    return record
