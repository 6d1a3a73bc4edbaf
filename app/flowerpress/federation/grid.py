"""The server's hook: a Grid that presses what a strategy sends and unpresses what comes back.

Any strategy runs on it unchanged: ``strategy.start(grid=PressGrid(grid, "zstd"), …)``. ::

    strategy ─► dtypes restored ─► Ledger: differences to what nodes hold ─► push
    strategy ◄─ in a fixed order ◄─ Screen ◄─ one reply at a time, compressed, on disk ◄─ poll

Replies are handed on still compressed; a strategy decodes an array when it reads it.
"""

import logging
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from statistics import median

import msgspec
from flwr.app import ArrayRecord, ConfigRecord, Error, Message
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from flowerpress.chunks.bundle import Bundle
from flowerpress.codecs import recommended
from flowerpress.codecs.base import Pipeline, Spec
from flowerpress.codecs.policy import Policy, as_policy
from flowerpress.errors import ChunkError, ConfigError, RunError
from flowerpress.federation.around import Around
from flowerpress.federation.fold import unfold
from flowerpress.federation.inbox import Got, receive
from flowerpress.federation.ledger import Ledger
from flowerpress.federation.metrics import Exchange, Log, NodeMetrics, log_to, object_bytes
from flowerpress.federation.outbox import Outbox, Sent
from flowerpress.federation.protocol import RAISED, Mark, kind_of, records_of, refusal, ticket_of, whole_wanted
from flowerpress.federation.pulling import Pulls
from flowerpress.federation.screening import Findings, Question, Screen
from flowerpress.federation.spill import Spill
from flowerpress.federation.store import Store
from flowerpress.federation.verdicts import Verdicts
from flowerpress.records import CodecLike

_log = logging.getLogger("flwr")
_POLL = (0.02, 0.2)  # seconds between polls, at first and at most
_GIVE_UP = 3  # failed rounds in a row after which a run ends
_UNKNOWN = 0  # Flower's code for an error that it has none for; its name is not public
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DecodeError)  # see `PressGrid._pull`


class PressGrid(Around):
    """A Grid whose messages are compressed in both directions, against what both ends hold.

    Parameters
    ----------
    grid : Grid
        The grid that Flower gave to the server app.
    codec : str, Pipeline or Policy
        What clients code their replies with, and the server its messages unless ``down`` says otherwise; lossless by
        default. It travels to the clients as text. A name of `flowerpress.codecs.recommended` stands for one each way.
    down : str, Pipeline or Policy, optional
        What the server codes its messages with; it must decode to the same bits everywhere.
    error_feedback : bool
        Whether clients add what a lossy codec drops of an update to their next one (Seide et al. 2014, Karimireddy et
        al. 2019). Switch it off where clients clip for differential privacy: what is added is not clipped.
    screen : Screen
        Which replies a strategy gets to see.
    timeout : float
        Seconds to wait for replies when the strategy names no limit.
    log : str, Path or callable, optional
        A file to which each exchange is added as a line of JSON, or what is called with each `Exchange`.

    Attributes
    ----------
    exchanges : list of Exchange
        What each round trip cost, the last one last.

    Raises
    ------
    RunError
        When replies are awaited, if there is no hope: see `send_and_receive`.

    Notes
    -----
    A node that does not run `press_mod` is found out by its first reply, sent plain arrays in the same round, and from
    then on. Dtypes that a strategy promoted are restored before they are sent. References are kept in a `Store`.
    """

    def __init__(
        self,
        grid: Grid,
        codec: CodecLike = "zstd",
        *,
        down: CodecLike | None = None,
        error_feedback: bool = True,
        screen: Screen | None = None,
        timeout: float = 3600.0,
        log: str | Path | Log | None = None,
    ) -> None:
        if not isinstance(up := as_policy(codec), Policy):
            raise ConfigError(f"PressGrid: the codec travels to the clients as text: expected some, found {codec!r}")
        if not timeout > 0:
            raise ConfigError(f"PressGrid: expected a timeout above 0 seconds, found {timeout!r}")
        super().__init__(grid)
        self.exchanges: list[Exchange] = []
        self._screen = screen or Screen()
        self._timeout = timeout
        self._log = log_to(log) if isinstance(log, str | Path) else log
        self._name = uuid.uuid4().hex[:16]
        self._pushes = 0
        self._store = Store()
        self._ledger = Ledger(_down(codec if down is None else down), self._store, self._name)
        self._outbox = Outbox(codec if isinstance(codec, str) else str(up), error_feedback, self._ledger)
        self._verdicts = Verdicts()
        self._spill = Spill(self._store.folder)
        self._pulls = Pulls(grid)
        self._sent: dict[str, Sent] = {}
        self._plain_nodes: set[int] = set()
        self._marked_nodes: set[int] = set()
        self._partitions: dict[int, int] = {}  # of nodes, as they said last
        self._norms: list[float] = []  # of the updates of the last train round
        self._large = 0.0  # the largest median of such norms so far
        self._usual: dict[Question, Findings] = {}  # a valid reply of the last round
        self._failures = 0  # train rounds in a row that failed
        self._hopeless: set[int] | None = set()  # the nodes whose training failed, while none has succeeded

    def seed(self, record: ArrayRecord) -> str:
        """Expect new nodes to hold this record, so that it is not sent to them; return its digest.

        For models that clients make themselves, from a seed (see `press_mod`). One that lacks it gets it whole, in the
        same round. Files that both ends have are added with ``flowerpress cache add FILE`` on both.
        """
        return self._ledger.seed(record)

    def define(self, record: ArrayRecord, codec: CodecLike = "budget(bits=4)") -> ArrayRecord:
        """Return a model as nodes that hold nothing will decode it: start from that, and it is what they are sent.

        A model of random numbers is as good a start with 4 bits per value as with 32, in an eighth of the bytes; for
        a pretrained one take 8 bits, or `seed`. Nodes that come later get this model and the difference to it. Arrays
        that are positive throughout, as variances are, and would not be with this codec, are kept exactly.
        """
        return self._ledger.define(record, codec)

    def keep_dtypes(self, record: ArrayRecord, name: str = "arrays") -> None:
        """Send records of this name in the dtypes of ``record``, whatever a strategy makes of them.

        By default those are the dtypes in which one was sent first.
        """
        self._outbox.keep_dtypes(record, name)

    def reference(self) -> Bundle | None:
        """Return what most nodes hold, as they decoded it; None if that is nothing."""
        return self._ledger.most_held()

    def held(self, node: int, name: str = "arrays") -> str:
        """Return the digest of what a node holds under the name of a record, as far as is known, or ""."""
        return self._ledger.held(node, name)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages compressed, each distinct record encoded once; the messages themselves are not changed."""
        return self._push(list(messages), Exchange("", 0))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, unpressed and each checked by itself, in a fixed order."""
        replies = [(reply, self._sent.pop(i, None)) for i in dict.fromkeys(message_ids) if (reply := self._pull(i))]
        for reply, sent in replies:
            self._needs_another(reply, sent)  # with the next push, that is
        got = [self._receive(reply, sent) for reply, sent in replies]
        if not self._sent:
            self._ledger.settle()
            self._spill = Spill(self._store.folder)
        trained = [g for g in got if g.sent and g.sent.kind == "train"]
        self._outbox.replied(next((g.findings.arrays for g in trained if g.findings), ()))
        self._verdicts.judge(g.metrics for g in trained)
        return [g.reply for g in sorted(got, key=lambda g: g.order)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies, which come in the order of partition ids, then node ids.

        Parameters
        ----------
        messages : iterable of Message
            What to send.
        timeout : float, optional
            Seconds to wait; the grid's own by default.

        Returns
        -------
        list of Message
            Replies with content, and error replies. Replies that did not come in time are missing.

        Raises
        ------
        RunError
            If the training of two nodes or more failed and none has succeeded yet, or if the third round in a row
            failed; with the reasons.
        """
        messages = list(messages)
        exchange = _exchange(messages)
        got = self._screened(sorted(self._replies(messages, timeout, exchange), key=lambda g: g.order), {}, ())
        exchange.nodes += [g.metrics for g in got]
        self._close(exchange, [g.findings for g in got if g.findings])
        if exchange.failed:
            got = [g.refused(refusal(f"the round failed: {exchange.failed}")) if g.findings else g for g in got]
        return [g.reply for g in got]

    def stream(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send messages and yield the replies as they come, for strategies that keep none of them.

        They are screened as in `send_and_receive`, but beside those that came before in this round and in the last.
        One that is not what was sent, or not like the first, waits until all have come, and who is odd is known.
        Whether the round failed stands in the last of `exchanges` then.
        """
        messages = list(messages)
        exchange, before, odd = _exchange(messages), defaultdict[Question, list[Findings]](list), list[Got]()

        def judged(got: list[Got]) -> Iterator[Message]:
            for g in self._screened(got, before, self._norms):
                if g.findings:
                    before[g.findings.question].append(g.findings)
                exchange.nodes.append(g.metrics)
                yield g.reply

        for got in self._replies(messages, timeout, exchange):
            if got.findings and got.sent and not self._screen.regular(got.findings, before[got.findings.question]):
                odd.append(got)
            else:
                yield from judged([got])
        yield from judged(odd)
        self._close(exchange, [*chain(*before.values())])

    def _replies(self, messages: list[Message], timeout: float | None, exchange: Exchange) -> Iterator[Got]:
        """Send messages, pull the replies one by one, serve again the nodes that could not read theirs."""
        started = time.monotonic()
        self._spill = Spill(self._store.folder)  # one for each round: its disk is free when its replies are gone
        pending, pause = set(filter(None, self._push(messages, exchange))), _POLL[0]
        end = time.monotonic() + (self._timeout if timeout is None else timeout)
        while pending:
            for i in list(pending):
                if (reply := self._pull(i, end - time.monotonic())) is None:
                    continue
                pending.discard(i)
                sent = self._sent.pop(i)
                if self._needs_another(reply, sent):
                    pending |= set(filter(None, self._push([sent.message], exchange, sent)))
                else:
                    yield self._receive(reply, sent)
            if time.monotonic() > end:
                break
            for i in self._pulls.stranded({i: self._sent[i].node for i in pending}):
                pending.discard(i)
                self._give_up(i, exchange, "it went offline while its reply was on its way")
            if pending:
                time.sleep(pause)
                pause = min(2 * pause, _POLL[1])
        for i in pending:
            self._give_up(i, exchange, "no reply in time")
        exchange.seconds = time.monotonic() - started

    def _push(self, messages: list[Message], exchange: Exchange, first: Sent | None = None) -> list[str]:
        """Push what ``messages`` look like on the wire; return their ids, empty for those that Flower did not take.

        ``first`` is what was sent in the place of the only one, and could not be read.
        """
        started = time.perf_counter()
        self._pushes += 1
        ticket = ticket_of(self._name, self._pushes)
        pending = ((s.node, s.ticket) for s in self._sent.values() if s.kind == "train")
        sent = self._outbox.prepare(messages, ticket, self._plain_nodes, self._verdicts.beside(pending))
        sent = [s.instead_of(first) if first else s for s in sent]
        exchange.encode_seconds += time.perf_counter() - started
        ids = list(self._grid.push_messages([s.wire for s in sent]))
        for s, i in zip_longest(sent, ids):
            if i:
                self._sent[i] = s
            else:
                _lose(s, exchange, "Flower did not take its message")
        return ids

    def _give_up(self, i: str, exchange: Exchange, reason: str) -> None:
        """Wait no longer for the reply to a message."""
        self._pulls.drop(i)
        _lose(self._sent.pop(i), exchange, reason)

    def _pull(self, i: str, patience: float = math.inf) -> Message | None:
        """Return the reply to a message, the first if there are several; it is not waited for longer than so.

        A node decides on the objects that Flower makes its reply of, in here: what cannot be one is an error reply.
        """
        try:
            reply = self._pulls.pull(i, patience)
            if reply and i in self._sent:
                self._sent[i] = self._sent[i].answered(object_bytes(reply))
            if reply and reply.has_content():
                reply.content = unfold(reply.content)
        except _MALFORMED as error:
            if i not in self._sent:
                raise
            unread = Error(_UNKNOWN, f"Flower cannot read the reply: {error!r}")
            ours = isinstance(error, ChunkError)
            return Message(refusal(str(error)) if ours else unread, reply_to=self._sent[i].wire)
        return reply

    def _needs_another(self, reply: Message, sent: Sent | None) -> bool:
        """Tell whether a node could not read its message, plain or for lack of a reference, and remember that."""
        if sent is None or sent.plain:
            return False
        if sent.difference and whole_wanted(reply):
            for name in sent.sendings:
                self._ledger.holds(sent.node, name, "")
            return True
        if Mark.find(reply) is not None:
            self._marked_nodes.add(sent.node)
            return False
        if reply.has_error() and (reply.error.code != RAISED or sent.node in self._marked_nodes):
            return False  # the node was lost, or its app has no function for such messages: mods are not asked then
        _log.info("flowerpress: node %d does not run press_mod; it gets plain arrays", sent.node)
        self._plain_nodes.add(sent.node)
        return True

    def _receive(self, reply: Message, sent: Sent | None) -> Got:
        got = receive(reply, sent, self._screen, self._ledger, self._spill)
        if got.metrics.error and sent and sent.plain:
            self._plain_nodes.discard(got.metrics.node)  # it failed with plain arrays, too: that was not the reason
        return got

    def _screened(self, got: list[Got], before: Mapping[Question, list[Findings]], norms: Sequence[float]) -> list[Got]:
        """Refuse the replies that do not fit the others of their round; ``before`` are valid ones that came earlier."""
        groups, odd = dict[Question, dict[int, Findings]](), dict[int, str]()
        for i, g in enumerate(got):
            if g.findings and g.sent:
                groups.setdefault(g.findings.question, {})[i] = g.findings
        for question, found in groups.items():
            odd |= self._screen.odd_ones(found, before.get(question, ()), norms, self._usual.get(question), self._large)
        return [g.refused(refusal(odd[i])) if i in odd else g for i, g in enumerate(got)]

    def _close(self, exchange: Exchange, valid: list[Findings]) -> None:
        """Note what a round cost, whether it failed, and what its valid replies were like."""
        self._ledger.settle()
        if not exchange.nodes:
            return
        train = kind_of(exchange.message_type) == "train"
        exchange.nodes = [self._placed(node) for node in exchange.nodes]
        self._usual |= {findings.question: findings for findings in reversed(valid)}
        reasons = "; ".join(sorted({f"node {node.node}: {node.error}" for node in exchange.nodes if node.error}))
        if train and len(valid) < self._screen.min_replies:
            exchange.failed = f"{len(valid)} valid replies of {self._screen.min_replies} that are needed; {reasons}"
        self.exchanges.append(exchange)
        (_log.warning if exchange.failed else _log.info)("flowerpress: %s", exchange.line())
        try:
            if self._log:
                self._log(exchange)
        except Exception:  # a full disk, or a server for metrics that is away, is no reason to end a run
            _log.exception("flowerpress: the log of exchanges failed")
        if train:
            self._verdicts.judge(exchange.nodes, failed=bool(exchange.failed))
            self._count(exchange, valid)

    def _placed(self, node: NodeMetrics) -> NodeMetrics:
        """Return a node's figures with its partition, which a reply that was lost does not say."""
        if node.mark.partition >= 0:
            self._partitions[node.node] = node.mark.partition
        known = self._partitions.get(node.node, node.mark.partition)
        return replace(node, mark=msgspec.structs.replace(node.mark, partition=known))

    def _count(self, exchange: Exchange, valid: list[Findings]) -> None:
        """Count failed rounds in a row; RunError if there is no hope."""
        self._norms = [findings.norm for findings in valid] or self._norms
        if valid and math.isfinite(usual := median(self._norms)):
            self._large = max(self._large, usual)
        self._failures = self._failures + 1 if exchange.failed else 0
        if valid:
            self._outbox.replied(valid[0].arrays)
            self._hopeless = None
        if self._hopeless is not None:
            self._hopeless |= {node.node for node in exchange.nodes}
        if self._failures >= _GIVE_UP or len(self._hopeless or ()) > 1:
            raise RunError(f"round {exchange.server_round}: training fails: {exchange.failed}")


def _down(codec: CodecLike) -> Callable[[Spec], Pipeline]:
    """Return what chooses the pipelines of messages to clients."""
    return Policy.parse(codec, recommended.down) if isinstance(codec, str) else as_policy(codec)


def _lose(sent: Sent, exchange: Exchange, reason: str) -> None:
    """Note that there is no reply to a message, and why."""
    _log.warning("flowerpress: node %d: %s", sent.node, reason)
    exchange.nodes.append(replace(sent.metrics, error=reason))


def _exchange(messages: list[Message]) -> Exchange:
    """Return the exchange that these messages begin, in the round that the strategy wrote into its configuration."""
    if not messages:
        return Exchange("", 0)
    configs = records_of(messages[0].content, ConfigRecord).values()
    rounds = (r for r in (record.get("server-round") for record in configs) if isinstance(r, int))
    return Exchange(messages[0].metadata.message_type, next(rounds, 0))
