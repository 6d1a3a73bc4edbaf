"""Pulls replies one by one, and is not held up: Flower waits for minutes if a node stops in the middle of its reply. ::

pull ─► a thread ─► in time: the reply, or that there is none
                └─► else it is slow: the others are pulled meanwhile, and this one is asked for again

What is on its way takes memory: one slow reply at a time, besides those that have been slow for a minute, or for a
quarter of the time that is left.
"""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from threading import Thread
from typing import TypeAlias

from flwr.app import Message
from flwr.serverapp import Grid
from httpx import HTTPStatusError

from flowerpress.federation.around import Around

_log = logging.getLogger("flowerpress")
AT_ONCE = "answers_at_once"  # an attribute of grids that are not to be pulled from threads: clients run when they are
_PATIENCE = 5.0  # seconds that one reply may hold up the others
_LEAST = 1.0  # the same when the round is over: a reply that is there is taken
_STUCK = 60.0  # seconds from when on a slow reply no longer keeps others from being pulled
_LOOK = 5.0  # seconds between looks at which nodes are online

_Reply: TypeAlias = "Future[Message | None]"


class Pulls:
    """Pulls replies from a grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid, self._at_once = grid, getattr(_innermost(grid), AT_ONCE, False)
        self._slow: dict[str, tuple[_Reply, float]] = {}  # and since when it is waited for
        self._looked = 0.0

    def pull(self, i: str, patience: float = _PATIENCE) -> Message | None:
        """Return the reply to a message, the first if there are several; None if it is not there, or not whole.

        A SuperLink that answers with a status of 500 or more, mostly because its database is busy, is asked again.
        Raises what else the grid raises.
        """
        if self._at_once:
            return self._ask(i)
        if i not in self._slow:
            if self._held_up(patience):
                return None
            self._slow[i] = self._begin(i), time.monotonic()
            wait([self._slow[i][0]], max(_LEAST, min(patience, _PATIENCE)))
        found, _ = self._slow[i]
        if not found.done():
            return None
        del self._slow[i]
        return found.result()

    def stranded(self, nodes: Mapping[str, int]) -> list[str]:
        """Return which replies that are slow will not be whole: their nodes, by message, have gone offline."""
        slow = [i for i in nodes if i in self._slow]
        if not slow or time.monotonic() - self._looked < _LOOK:
            return []
        self._looked = time.monotonic()
        try:
            online = {node.node_id for node in self._grid.get_nodes()}
        except (AttributeError, NotImplementedError):  # a grid that does not know
            return []
        except HTTPStatusError as error:
            _raise_unless_busy(error)
            return []
        return [i for i in slow if nodes[i] not in online]

    def drop(self, i: str) -> None:
        """Wait for a reply no longer."""
        self._slow.pop(i, None)

    def _held_up(self, patience: float) -> bool:
        """Tell whether there is a slow reply to wait for, and do so for a moment."""
        now, stuck = time.monotonic(), min(_STUCK, patience / 4)
        coming = [found for found, since in self._slow.values() if now - since < stuck]
        wait(coming, _LEAST, FIRST_COMPLETED)
        return bool(coming)

    def _begin(self, i: str) -> _Reply:
        future: _Reply = Future()

        def run() -> None:
            try:
                future.set_result(self._ask(i))
            except BaseException as error:
                future.set_exception(error)

        Thread(target=run, daemon=True).start()
        return future

    def _ask(self, i: str) -> Message | None:
        try:
            return next(iter(self._grid.pull_messages([i])), None)
        except HTTPStatusError as error:
            _raise_unless_busy(error)
            return None


def _raise_unless_busy(error: HTTPStatusError) -> None:
    if not error.response.is_server_error:
        raise error
    _log.warning("flowerpress: the SuperLink is asked again: %s", error)


def _innermost(grid: Grid) -> Grid:
    while isinstance(grid, Around):
        grid = grid.inner
    return grid
