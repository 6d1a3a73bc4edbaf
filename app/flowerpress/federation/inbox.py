"""A reply as it came, made into a reply as the strategy sees it: unpressed, still compressed, checked by itself.

Whatever a peer's bytes bring about, here, costs that peer its reply, and nothing else.
"""

from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, Error, Message, RecordDict

from flowerpress.errors import ChunkError
from flowerpress.federation.ledger import Ledger, Sending
from flowerpress.federation.metrics import NodeMetrics, clocks
from flowerpress.federation.outbox import Sent
from flowerpress.federation.protocol import Mark, reference_of, refusal, without_record
from flowerpress.federation.screening import Findings, Screen
from flowerpress.federation.spill import Spill
from flowerpress.federation.update import Update
from flowerpress.wire import bundle_bytes, opened


@dataclass(frozen=True)
class Got:
    """A reply as the strategy sees it, what it answers, what it cost, and what it is like if it is a valid one."""

    reply: Message
    sent: Sent | None
    metrics: NodeMetrics
    findings: Findings | None = None

    @property
    def order(self) -> tuple[int, int]:
        """What replies are sorted by."""
        return self.metrics.mark.partition, self.metrics.node

    def refused(self, error: Error) -> "Got":
        """Return an error in the place of the reply, from the right node: lost ones Flower reports as the SuperLink."""
        reason = error.reason or f"error {error.code}"
        got = replace(self, metrics=replace(self.metrics, error=reason), findings=None)
        if self.sent is None and self.reply.has_error():
            return got
        message = self.sent.wire if self.sent else self.reply
        return replace(got, reply=Message(Error(error.code, reason), reply_to=message))


def receive(reply: Message, sent: Sent | None, screen: Screen, ledger: Ledger, spill: Spill) -> Got:
    """Unpress a reply, which is ours alone, take the mark off it, note what its node holds, and check it by itself."""
    mark = Mark.find(reply) or Mark()
    sender = sent.metrics if sent else NodeMetrics(reply.metadata.src_node_id, mark)
    got = Got(reply, sent, replace(sender, mark=mark))
    if reply.has_error():
        return got.refused(reply.error)
    try:
        if sent is not None:
            _confirm(reply, mark, sent, ledger)
        reply.content = _unpressed(without_record(reply.content), sent, spill)
        findings = screen.examine(reply, sent.records if sent else RecordDict())
    except Exception as error:  # see above
        return got.refused(refusal(str(error) if isinstance(error, ChunkError) else repr(error)))
    return replace(got, metrics=replace(got.metrics, clocks=clocks(reply.content)), findings=findings)


def _confirm(reply: Message, mark: Mark, sent: Sent, ledger: Ledger) -> None:
    """Check that a reply is one to this message, and note what its node holds now.

    What a reply says of itself is the node's word: Flower checks what stands beside it on its way to the server.
    """
    ours, theirs = sent.wire.metadata, reply.metadata
    meant = ours.message_id or theirs.reply_to_message_id, sent.node, ours.message_type  # a grid may leave ids out
    said = theirs.reply_to_message_id, theirs.src_node_id, theirs.message_type
    if said != meant:
        raise ChunkError(f"expected a reply to, from and of the type {meant}, found {said}")
    if not sent.plain and mark.ticket != sent.ticket:
        raise ChunkError(f"expected a reply to the message {sent.ticket!r}, found one to {mark.ticket!r}")
    for name, sending in sent.sendings.items():
        if sending.step is not None:
            found, expected = mark.holds.get(name, ""), sending.to
            ledger.holds(sent.node, name, found if found == expected else "")
            if found not in ("", expected):
                raise ChunkError(f"{name}: expected a reply that is based on {expected}, found one on {found!r}")


def _unpressed(records: RecordDict, sent: Sent | None, spill: Spill) -> RecordDict:
    """Return the records of a reply, compressed still, large ones on disk."""
    sendings = {name: s for name, s in sent.sendings.items() if s.step} if sent else {}
    content = RecordDict()
    for name, record in records.items():
        data = bundle_bytes(record) if isinstance(record, ArrayRecord) else None
        if data is None or not isinstance(record, ArrayRecord):
            content[name] = record
            continue
        to = reference_of(name, sendings) or Sending(record)
        content[name] = opened(record, Update(spill.put(data), to.reference or {}, to.model))
    return content
