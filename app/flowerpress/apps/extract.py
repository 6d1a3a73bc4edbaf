"""Federated extraction: each client runs the server's encoder over its own images, and the server gathers the latents.

::

    server ──► encoder, and weights of a learned codec, once; how many latents of each client it has ──► client
    server ◄── the next ones, a few megabytes, and how many there are ◄──
       └─────► parts on disk (gathered.py) ─► one Zarr group, when all clients are done

A client that is stopped and comes back, under whatever node id, goes on behind what arrived; so does the server.
"""

import logging
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from flowerpress.apps.config import Config
from flowerpress.apps.gathered import Gathered, Kind
from flowerpress.apps.latents import ANSWER, ASKED, LATENTS, QUERY, WEIGHTS, with_weights
from flowerpress.apps.results import Results
from flowerpress.chunks.content import digest_of
from flowerpress.codecs.policy import Policy
from flowerpress.errors import ChunkError, RunError
from flowerpress.federation.grid import PressGrid
from flowerpress.federation.protocol import records_of
from flowerpress.latent_codecs.learned import by_digest
from flowerpress.latent_codecs.weights import weights_of
from flowerpress.wire import values_of

_MOST_CLIENTS = 1_000_000
_PATIENCE, _PAUSE = 120.0, 3.0  # seconds in which nothing comes, and before the next question then
_log = logging.getLogger("flwr")


def gather(grid: Grid, config: Config) -> Path:
    """Gather the latents of all clients' images in a Zarr group; return where it is.

    Raises
    ------
    ConfigError
        For an encoder whose weights do not fit.
    RunError
        If clients stay away, or say nothing that can be used; what arrived is kept for a run that goes on.
    """
    folder, weights = Path(config.output_dir), ArrayRecord(with_weights(config).state_dict())
    codec, digests = by_digest(Policy.parse(config.latent_codec))
    press = PressGrid(grid, codec, down="lossless", error_feedback=False, timeout=config.round_timeout)
    gathered = Gathered(folder, digest_of(values_of(weights))[:16])
    results = Results(config, press.exchanges, Counter(), sys.maxsize)
    codecs = {WEIGHTS + digest: ArrayRecord(weights_of(digest)) for digest in digests}
    questions = _Questions(press, {"arrays": weights, **codecs}, gathered, config.reply_bytes)
    number, have, progress = max(0, results.last), -1, time.monotonic()
    while True:
        number += 1
        questions.ask(number)
        results.add_round(number, images=gathered.images, of=sum(gathered.totals.values()))
        missing = gathered.missing(questions.clients)
        if questions.clients and not missing:
            break
        if gathered.images > have:
            have, progress = gathered.images, time.monotonic()
        elif time.monotonic() - progress > _PATIENCE:
            raise RunError(f"latents are missing, by client: {missing}; what arrived is in {folder}: resume the run")
        else:
            time.sleep(_PAUSE)
    where = gathered.to_zarr()
    results.finish()
    return where


class _Questions:
    """Asks nodes for latents, round by round; those whose clients have sent all of theirs are left alone.

    Attributes
    ----------
    clients : int
        How many there are, as most of them said last; 0 until somebody has.
    """

    def __init__(self, press: PressGrid, records: dict[str, ArrayRecord], gathered: Gathered, most: int) -> None:
        self._press, self._records, self._gathered, self._most = press, records, gathered, most
        self._client_of: dict[int, int] = {}  # by node
        self.clients = 0

    def ask(self, number: int) -> None:
        """Ask for the next latents, and keep what comes."""
        have = {client: self._gathered.rows(client) for client in self._gathered.totals}
        asked = ConfigRecord(
            {"server-round": number, "clients": list(have), "rows": list(have.values()), "most-bytes": self._most}
        )
        content = RecordDict({**self._records, ASKED: asked})
        nodes = [node for node in self._press.get_node_ids() if not self._is_done(node)]
        answers = []
        for reply in self._press.send_and_receive([Message(content, node, QUERY) for node in nodes]):
            try:
                answers.append(answer := _Answer.of(reply))
                self._client_of[reply.metadata.src_node_id] = answer.client
            except ChunkError as error:
                _log.warning("flowerpress: node %d: %s", reply.metadata.src_node_id, error)
        self._keep(answers)

    def _is_done(self, node: int) -> bool:
        client = self._client_of.get(node, -1)
        return self._gathered.rows(client) == self._gathered.totals.get(client)

    def _keep(self, answers: "list[_Answer]") -> None:
        """Keep the latents of the kind that most have, or that those have which are there already."""
        kinds = Counter(_kind_of(answer.latents) for answer in answers if answer.latents.shape[0])
        usual = self._gathered.kind or (kinds.most_common(1)[0][0] if kinds else None)
        for answer in answers:
            try:
                answer.keep(self._gathered, usual)
            except ChunkError as error:
                _log.warning("flowerpress: %s", error)
        for clients, _ in Counter(answer.clients for answer in answers).most_common(1):
            self.clients = clients


@dataclass(frozen=True)
class _Answer:
    """What a client replied: latents of its images from ``start`` on, of ``total``."""

    client: int
    clients: int
    start: int
    total: int
    latents: Array

    @classmethod
    def of(cls, reply: Message) -> Self:
        """Return what a reply says; ChunkError if it is none."""
        if reply.has_error():
            raise ChunkError(reply.error.reason or "an error without a reason")
        said = records_of(reply.content, ConfigRecord).get(ANSWER)
        record = records_of(reply.content, ArrayRecord).get(LATENTS)
        numbers = [said.get(name) if said else None for name in ("client", "clients", "start", "total")]
        latents = record[LATENTS] if record is not None and list(record) == [LATENTS] else None
        if latents is None or not latents.shape or not all(type(n) is int and n >= 0 for n in numbers):
            raise ChunkError(f"expected latents, and whose they are, found {said and dict(said)}")
        client, clients, start, total = (int(n) for n in numbers)  # type: ignore[arg-type]
        if not client < clients <= _MOST_CLIENTS:
            raise ChunkError(f"expected a client among {_MOST_CLIENTS} at most, found {client} of {clients}")
        return cls(client, clients, start, total, latents)

    def keep(self, gathered: Gathered, usual: Kind | None) -> None:
        """Keep the latents; ChunkError if they are of another kind than those of most clients, or do not follow."""
        if self.latents.shape[0] and _kind_of(self.latents) != usual:
            raise ChunkError(f"client {self.client}: expected latents of {usual}, found {_kind_of(self.latents)}")
        gathered.add(self.client, self.start, self.total, self.latents.numpy())


def _kind_of(latents: Array) -> Kind:
    """Return the dtype and the shape of one latent."""
    return latents.dtype, tuple(latents.shape[1:])
