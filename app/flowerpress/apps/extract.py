"""Federated extraction: each client runs the server's encoder over its own images, and the server gathers the latents.

::

    server ──► encoder, once; how many latents of each client it has ──► client (see latents.py)
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
from flowerpress.apps.latents import ANSWER, ASKED, LATENTS, QUERY, with_weights
from flowerpress.apps.results import Results
from flowerpress.errors import ChunkError, RunError
from flowerpress.federation.grid import PressGrid
from flowerpress.federation.protocol import records_of
from flowerpress.federation.store import digest_of
from flowerpress.wire import values_of

_MOST_CLIENTS = 1_000_000
_PATIENCE, _PAUSE = 5, 3.0  # questions in a row that brought nothing, and seconds before the next one
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
    press = PressGrid(grid, config.latent_codec, down="lossless", error_feedback=False)
    gathered = Gathered(folder, digest_of(values_of(weights))[:16])
    results = Results(config, press.exchanges, Counter(), sys.maxsize)
    clients, idle, number = 0, 0, max(0, results.last)
    while True:
        before, number = gathered.images, number + 1
        clients = _ask(press, weights, gathered, number, config.reply_bytes) or clients
        results.add_round(number, images=gathered.images, of=sum(gathered.totals.values()))
        missing = gathered.missing(clients)
        if clients and not missing:
            break
        idle = 0 if gathered.images > before else idle + 1
        if idle > _PATIENCE:
            raise RunError(f"latents are missing, by client: {missing}; what arrived is in {folder}: resume the run")
        if idle:
            time.sleep(_PAUSE)
    where = gathered.to_zarr()
    results.finish()
    return where


def _ask(press: PressGrid, weights: ArrayRecord, gathered: Gathered, number: int, most: int) -> int:
    """Ask all nodes for their next latents, and keep what they send; return how many clients there are, as most say."""
    have = {client: gathered.rows(client) for client in gathered.totals}
    asked = ConfigRecord(
        {"server-round": number, "clients": list(have), "rows": list(have.values()), "most-bytes": most}
    )
    content = RecordDict({"arrays": weights, ASKED: asked})
    answers = []
    for reply in press.send_and_receive([Message(content, node, QUERY) for node in press.get_node_ids()]):
        try:
            answers.append(_Answer.of(reply))
        except ChunkError as error:
            _log.warning("flowerpress: node %d: %s", reply.metadata.src_node_id, error)
    kinds = Counter(_kind_of(answer.latents) for answer in answers if answer.latents.shape[0])
    usual = gathered.kind() or (kinds.most_common(1)[0][0] if kinds else None)
    for answer in answers:
        try:
            answer.keep(gathered, usual)
        except ChunkError as error:
            _log.warning("flowerpress: %s", error)
    said = Counter(answer.clients for answer in answers)
    return said.most_common(1)[0][0] if said else 0


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
