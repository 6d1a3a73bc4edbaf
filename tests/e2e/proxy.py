"""The link of one SuperNode to its SuperLink: a TCP proxy on loopback with a rate and a delay, which counts. ::

    SuperNode ──► up: rate, delay, requests are counted ──► SuperLink
              ◄── down: rate, delay                     ◄──

It models serialisation, propagation and the handshake of a connection; not loss, and not TCP's slow start.
"""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Self

CHUNK = 16 << 10  # bytes that one connection sends before the others have their turn
BURST = 0.005  # seconds of rate that an idle lane saves up: timers are late by less
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Lane:
    """One direction: the connections share its rate in turns, and what they send arrives ``delay`` seconds later."""

    def __init__(self, rate: float, delay: float) -> None:
        self.nbytes = 0
        self._rate, self._delay = rate, delay
        self._free = 0.0  # when all that was accepted is on its way

    async def carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, requests: "Requests | None" = None
    ) -> None:
        """Carry what ``source`` says, then its end; a broken connection ends, too."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await source.read(CHUNK):
                self.nbytes += len(data)
                if requests:
                    requests.read(data)
                self._free = gone = max(self._free, loop.time() - BURST) + len(data) / self._rate
                await asyncio.sleep(gone - loop.time())  # so a sender feels the rate; the delay holds up nobody
                if self._delay:
                    loop.call_later(self._delay, sink.write, data)
                else:
                    sink.write(data)
            await asyncio.sleep(self._delay)
            sink.write_eof()


class Requests:
    """The HTTP requests of one connection, counted by the last part of their path; their bodies are skipped."""

    def __init__(self, count: Counter[str]) -> None:
        self._count = count
        self._head, self._body = b"", 0

    def read(self, data: bytes) -> None:
        """Take the next bytes, which may begin and end anywhere."""
        while data:
            if self._body:
                skipped = min(self._body, len(data))
                self._body, data = self._body - skipped, data[skipped:]
                continue
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = b"" if end else head
            if end:
                self._count[head.split(b" ", 2)[1].decode().rpartition("/")[2]] += 1
                length = _LENGTH.search(head)
                self._body = int(length[1]) if length else 0


class Link:
    """A link to ``target``, as a context manager; it runs in a thread of its own.

    Parameters
    ----------
    target : str
        ``host:port`` of the SuperLink.
    rate : float
        Bytes per second, in each direction.
    delay : float
        Seconds that a byte travels, in each direction.

    Attributes
    ----------
    address : str
        ``host:port``, for the SuperNode.
    up, down : Lane
        Their ``nbytes`` is what TCP carried.
    requests : Counter
        How many requests the SuperNode sent, by name, such as ``"pull-object"``.
    """

    def __init__(self, target: str, rate: float, delay: float) -> None:
        self.address = ""
        self.up, self.down = Lane(rate, delay), Lane(rate, delay)
        self.requests: Counter[str] = Counter()
        self._target, self._delay = target, delay
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname())
        self._listening.set()
        await self._end.wait()
        server.close()
        open_ones = asyncio.all_tasks() - {asyncio.current_task()}
        for one in open_ones:
            one.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)
        await asyncio.sleep(0.05)  # transports close in a turn of their own

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await asyncio.sleep(2 * self._delay)  # the handshake
            far_reader, far_writer = await asyncio.open_connection(*self._target.split(":"))
            writers.append(far_writer)
            await asyncio.gather(
                self.up.carry(reader, far_writer, Requests(self.requests)), self.down.carry(far_reader, writer)
            )
        except OSError:
            pass
        finally:
            for open_one in writers:
                open_one.close()


@contextmanager
def links(rate: float, delay: float) -> Iterator[tuple[list[Link], Callable[[str], str]]]:
    """Provide a list of links, and what makes another to an address and returns its own, for a `Federation`."""
    made: list[Link] = []
    with ExitStack() as stack:

        def through(address: str) -> str:
            made.append(stack.enter_context(Link(address, rate, delay)))
            return made[-1].address

        yield made, through
