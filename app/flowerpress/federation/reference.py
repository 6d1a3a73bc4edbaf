"""The client's end of the references: what came is decoded against what this node holds, and held from then on.

::

    step "from ► to":   to is in the store ──────────────────────────────────────► it was decoded here before
                        from is in the store ─► decode ─► has the digest "to" ───► store it
                                 └─ no ─► need-whole ◄─ no ─┘

A reference that was defined lies in the message, for nodes that hold nothing.

A node keeps the last two references of each record: if a reply is lost, the server goes on from the one before. What it
holds stands in ``Context.state``, digests only; the arrays are in the `Store`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.content import digest_of
from flowerpress.errors import ChunkError
from flowerpress.federation.protocol import RECORD, NeedWhole, Offer, Step, records_of, without_record
from flowerpress.federation.store import Store
from flowerpress.wire import FIRST, bundle_bytes, opened, unpress, values_of

Initial = Callable[[Context], ArrayRecord]


@dataclass
class Received:
    """A message as the app sees it, and what replies to it are coded against, by the name of the record."""

    content: RecordDict = field(default_factory=RecordDict)
    references: dict[str, Bundle] = field(default_factory=dict)
    holds: dict[str, str] = field(default_factory=dict)


def receive(content: RecordDict, offer: Offer, context: Context, initial: Initial | None = None) -> Received:
    """Decode the records of a message, and hold those that the server says both ends hold.

    Parameters
    ----------
    content, offer, context
        The message, what the server asks in it, and the node's context, whose state is updated.
    initial : callable, optional
        Makes the model that the server may start from, if it is not in the store.

    Raises
    ------
    NeedWhole
        If this node lacks a reference, or finds another digest than the server.
    ChunkError
        If a record is damaged.
    """
    store, holder, received = Store(), f"{context.run_id}-{context.node_id}", Received()
    for name, record in without_record(content).items():
        step = offer.steps.get(name)
        if isinstance(record, ArrayRecord) and step is not None:
            bundle = _follow(step, record, store, holder, lambda: initial(context) if initial else ArrayRecord())
            received.references[name] = bundle
            received.holds[name] = step.to if step.to in store else ""
            received.content[name] = opened(record, bundle, "raw")
        else:
            received.content[name] = unpress(record) if isinstance(record, ArrayRecord) else record
    if offer.steps:
        _remember(context, received.holds)
        before = {step.start for step in offer.steps.values()}
        store.keep(holder, before | set(_held(context).values()))
    return received


def _follow(step: Step, record: ArrayRecord, store: Store, holder: str, initial: Callable[[], ArrayRecord]) -> Bundle:
    """Return what a step leads to."""
    if kept := store.get(step.to):
        return kept
    first = bundle_bytes(record, FIRST)
    base = _base(step.start, first, store, holder, initial) if step.start else None
    if base is not None and step.start == step.to:
        return base
    data = bundle_bytes(record)
    if data is None:
        raise ChunkError(f"message: expected a bundle that leads to {step.to}, found none")
    bundle = Bundle(data, bases=base)
    bundle.verify()
    arrays = bundle.read_all()
    if (found := digest_of(arrays)) != step.to:
        kind = NeedWhole if step.start and first is None else ChunkError
        raise kind(f"expected arrays with the digest {step.to}, found {found}")
    return store.add(found, arrays, holder)


def _base(digest: str, first: bytes | None, store: Store, holder: str, initial: Callable[[], ArrayRecord]) -> Bundle:
    """Return the reference with this digest; the model that the app starts from is sent, or made when it is needed."""
    if found := store.get(digest):
        return found
    values = values_of(initial()) if first is None else Bundle(first).read_all()
    if values and (made := digest_of(values)) == digest:
        return store.add(digest, values, holder)
    if first is None:
        raise NeedWhole(f"this node does not hold the reference {digest}")
    raise ChunkError(f"message: expected a first model with the digest {digest}, found {made if values else 'nothing'}")


def _remember(context: Context, holds: Mapping[str, str]) -> None:
    held = {**_held(context), **holds}
    context.state[RECORD] = ConfigRecord({"records": list(held), "holds": list(held.values())})


def _held(context: Context) -> dict[str, str]:
    """Return the digests that this node remembers to hold, by the name of the record."""
    record = records_of(context.state, ConfigRecord).get(RECORD, ConfigRecord())
    pairs = zip(*(record.get(key, []) for key in ("records", "holds")), strict=False)
    return {str(name): str(digest) for name, digest in pairs}
