"""The client's hook: one mod, outermost, that presses what the app answers and unpresses what it is asked. ::

server ─► [ press_mod ─► other mods, such as DP ─► the app ] ─► server
            receive: LatentRecords, decoded when read
            press: one bundle per ArrayRecord, with the codec the server named, against what was received
"""

import logging
import time

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from flowerpress.chunks.bundle import Bundle
from flowerpress.codecs.dtypes import to_host
from flowerpress.codecs.feedback import with_residual
from flowerpress.errors import ChunkError, FlowerpressError
from flowerpress.federation.feedback import Feedback
from flowerpress.federation.fold import fold, unfold
from flowerpress.federation.metrics import distortion, raw_bytes
from flowerpress.federation.protocol import (
    MARK,
    NEED_WHOLE,
    RECORD,
    VERSION,
    Mark,
    NeedWhole,
    Offer,
    error_reply,
    kind_of,
    partition_of,
    records_of,
    reference_of,
)
from flowerpress.federation.reference import Initial, Received, receive
from flowerpress.wire import bundle_bytes, press, values_of

_log = logging.getLogger("flwr")


def press_mod(
    message: Message, context: Context, call_next: ClientAppCallable, *, initial: Initial | None = None
) -> Message:
    """Exchange compressed records with a server that runs `PressGrid`; with any other, do nothing.

    Use it as the first mod of a ClientApp: ``ClientApp(mods=[press_mod])``. What the app, or the codec, raises reaches
    the server as an error reply with the reason; the log of the client has the traceback.

    Parameters
    ----------
    initial : callable, optional
        Makes, from the context, the model that the run starts from, if a client can: built from a seed, or read from a
        file. With `PressGrid.seed` on the server it is never sent: ``mods=[partial(press_mod, initial=make_model)]``.
    """
    try:
        content = unfold(message.content) if message.has_content() else RecordDict()
        offer = Offer.find(content)
    except ChunkError as error:
        return error_reply(message, f"ChunkError: {error}")
    if offer is None:
        return call_next(message, context)
    if offer.version != VERSION:
        return error_reply(message, f"this node speaks protocol {VERSION}, the server {offer.version}; upgrade one")
    try:
        started = time.perf_counter()
        received = receive(content, offer, context, initial)
        seconds = time.perf_counter() - started
        message.content = received.content
        return _pressed(call_next(message, context), offer, context, received, seconds)
    except NeedWhole as error:
        return error_reply(message, f"{NEED_WHOLE}{error}")
    except Exception as error:  # the app's own, too: without the mark the server would take this node for a plain one
        if not isinstance(error, FlowerpressError):
            _log.exception("flowerpress: the client app raised")
        return error_reply(message, f"{type(error).__name__}: {error}")


def _pressed(reply: Message, offer: Offer, context: Context, received: Received, decode_seconds: float) -> Message:
    """Press the ArrayRecords of a reply, which is ours alone, and leave the mark; the residuals are changed last."""
    if reply.has_error():
        reply.error = Error(reply.error.code, MARK + (reply.error.reason or ""))
        return reply
    started = time.perf_counter()
    feedback = Feedback(context, offer) if offer.feedback and kind_of(reply.metadata.message_type) == "train" else None
    records = records_of(reply.content, ArrayRecord)
    pressed, distortions = dict[str, ArrayRecord](), [0.0]
    for name, record in records.items():
        pressed[name], dropped = _press(name, record, offer.codec, reference_of(name, received.references), feedback)
        distortions.append(dropped)
    mark = Mark(
        partition=partition_of(context),
        ticket=offer.ticket,
        holds=received.holds,
        raw_bytes=raw_bytes(reply.content),
        distortion=max(distortions),
        encode_seconds=time.perf_counter() - started,
        decode_seconds=decode_seconds,
    )
    reply.content = fold(RecordDict({**dict(reply.content.items()), **pressed, RECORD: mark.record()}))
    if feedback:
        feedback.commit()
    return reply


def _press(
    name: str, record: ArrayRecord, codec: str, bases: Bundle | None, feedback: Feedback | None
) -> tuple[ArrayRecord, float]:
    """Return a record pressed, and what the codec dropped of it relative to what there was to say."""
    meant = values_of(record)
    residual = feedback.residual(name, meant) if feedback else {}
    pressed = press(record, codec, bases=bases, residual=residual)
    bundle = Bundle(data, bases=bases) if (data := bundle_bytes(pressed)) else None
    if bundle is None or all(map(bundle.exact, bundle)):
        return pressed, 0.0
    meant |= {key: with_residual(to_host(meant[key]), left) for key, left in residual.items()}
    if feedback and bases:
        feedback.add(name, meant, bundle, bases)
    return pressed, distortion(meant, bundle, bundle.bases)
