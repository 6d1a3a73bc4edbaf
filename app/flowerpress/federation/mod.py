"""The client's hook: one mod, outermost, that presses what the app answers and unpresses what it is asked. ::

server ─► [ press_mod ─► other mods, such as DP ─► the app ] ─► server
            unpress: LatentRecords, decoded when read
            press: one bundle per ArrayRecord, with the codec the server named
"""

import logging
import time

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from flowerpress.errors import FlowerpressError
from flowerpress.federation.metrics import decode_seconds, raw_bytes
from flowerpress.federation.protocol import (
    MARK,
    RECORD,
    VERSION,
    Mark,
    Offer,
    error_reply,
    partition_of,
    without_record,
)
from flowerpress.wire import press, unpress

_log = logging.getLogger("flwr")


def press_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Exchange compressed records with a server that runs `PressGrid`; with any other, do nothing.

    Use it as the first mod of a ClientApp: ``ClientApp(mods=[press_mod])``. What the app, or the codec, raises reaches
    the server as an error reply with the reason; the log of the client has the traceback.
    """
    offer = Offer.find(message.content) if message.has_content() else None
    if offer is None:
        return call_next(message, context)
    if offer.version != VERSION:
        return error_reply(message, f"this node speaks protocol {VERSION}, the server {offer.version}; upgrade one")
    try:
        message.content = RecordDict(
            {k: unpress(r) if isinstance(r, ArrayRecord) else r for k, r in without_record(message.content).items()}
        )
        reply = call_next(message, context)
        return _pressed(reply, offer, context, decode_seconds(message.content))
    except Exception as error:  # the app's own, too: without the mark the server would take this node for a plain one
        if not isinstance(error, FlowerpressError):
            _log.exception("flowerpress: the client app raised")
        return error_reply(message, f"{type(error).__name__}: {error}")


def _pressed(reply: Message, offer: Offer, context: Context, decoding: float) -> Message:
    """Press the ArrayRecords of a reply, which is ours alone, and leave the mark."""
    if reply.has_error():
        reply.error = Error(reply.error.code, MARK + (reply.error.reason or ""))
        return reply
    started = time.perf_counter()
    records = {k: press(r, offer.codec) if isinstance(r, ArrayRecord) else r for k, r in reply.content.items()}
    seconds = time.perf_counter() - started
    mark = Mark(partition_of(context), raw_bytes(reply.content), seconds, decoding)
    reply.content = RecordDict({**records, RECORD: mark.record()})
    return reply
