"""A federation on loopback, to try and to test with: a SuperLink and SuperNodes, each as if on a machine of its own. ::

FOLDER/superlink.log, supernode-0.log, …
FOLDER/superlink/          the SuperLink's Flower home, with its database: runs and messages outlive it
FOLDER/supernode-0/        a SuperNode's, with its cache
FOLDER/credentials/        with TLS
"""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from flowerpress.deployment.superlink import SuperLink
from flowerpress.deployment.supernode import NodeConfig, SuperNode, Trust
from flowerpress.errors import ConfigError, RunError

_START_SECONDS = 60.0


class Security(StrEnum):
    """How the SuperLink and the SuperNodes talk."""

    NONE = "none"
    TLS = "tls"
    KEYS = "keys"  # TLS, and a key for each SuperNode


class Federation:
    """A SuperLink and SuperNodes on loopback, as a context manager.

    Parameters
    ----------
    nodes : int
        How many SuperNodes.
    folder : Path
        Where everything is, and stays.
    security : Security
        How they talk.
    configs : mapping, optional
        What a SuperNode's client apps find in ``Context.node_config`` besides its ``partition-id``, by its number.
    through : callable, optional
        Asked, for each SuperNode, which address leads to that of the SuperLink; it is not asked twice for one.
    durable : bool
        Keep what the SuperLink knows in a database, so that it outlives it. Flower's is SQLite, which refuses writers
        that had to wait for five seconds: with many nodes and large models, memory is the better place.

    Attributes
    ----------
    superlink : SuperLink
        The SuperLink.
    supernodes : dict of int to SuperNode
        The SuperNodes that run, by number.
    """

    def __init__(
        self,
        nodes: int,
        *,
        folder: Path,
        security: Security = Security.NONE,
        configs: Mapping[int, NodeConfig] | None = None,
        through: Callable[[str], str] = lambda address: address,
        durable: bool = True,
    ) -> None:
        self.nodes, self.folder, self.security = nodes, folder, security
        self._configs, self._through = configs or {}, through
        self._addresses: dict[int, str] = {}
        state = folder / "superlink"
        state.mkdir(parents=True, exist_ok=True)
        self.credentials = None
        if security is not Security.NONE:
            from flowerpress.deployment.credentials import Credentials

            self.credentials = Credentials.make(folder / "credentials", ["127.0.0.1", "localhost"], nodes)
        self.superlink = SuperLink(
            log=folder / "superlink.log",
            credentials=self.credentials,
            keys=security is Security.KEYS,
            state=state if durable else None,
        )
        self.supernodes: dict[int, SuperNode] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.superlink)
            stack.callback(self._stop)
            for node in range(self.nodes):
                self.start(node)
            self.wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, node: int) -> SuperNode:
        """Start a SuperNode; one that was there before has its cache, and with keys its id."""
        trust = None
        if self.credentials:
            keyed = self.security is Security.KEYS
            trust = Trust.of(self.credentials, node, keyed=keyed)
            if keyed:
                self._admit(self.credentials.public_key(node))
        address = self._addresses.setdefault(node, self._through(self.superlink.address))
        config = {"partition-id": node, "num-partitions": self.nodes, **self._configs.get(node, {})}
        log, home = self.folder / f"supernode-{node}.log", self.folder / f"supernode-{node}"
        self.supernodes[node] = SuperNode(address, config, log=log, trust=trust, home=home)
        return self.supernodes[node]

    def stop(self, node: int, *, kill: bool = False) -> None:
        """Stop a SuperNode; ``kill`` gives no warning."""
        self.supernodes.pop(node).stop(kill=kill)

    def check(self) -> None:
        """Raise RunError if a program ended by itself, with its last words."""
        if not self.superlink.alive:
            raise RunError(f"the SuperLink ended; see {self.superlink.log}")
        for number, node in self.supernodes.items():
            if not node.alive:
                raise RunError(f"SuperNode {number} ended: {node.programs[0].last_words()}")

    def wait(self) -> None:
        """Wait until our SuperLink says that all SuperNodes that run are online; RunError if they are not in time."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if sum(node["status"] == "online" for node in self.superlink.nodes()) >= len(self.supernodes):
                return
            self.check()
            time.sleep(0.5)
        expected = len(self.supernodes)
        raise RunError(f"{expected} SuperNodes were not online after {_START_SECONDS:.0f} s; see {self.folder}")

    def _admit(self, key: Path) -> None:
        """Register a SuperNode's key, once in the life of the SuperLink's database."""
        note = self.superlink.home / f"{key.name}.registered"
        if not note.exists():
            self.superlink.register(key)
            note.touch()

    def _stop(self) -> None:
        with ThreadPoolExecutor() as together:  # each waits for what it started
            list(together.map(self.stop, list(self.supernodes)))


def node_configs(texts: Iterable[str], nodes: int) -> dict[int, NodeConfig]:
    """Return what ``key=value`` texts say for each SuperNode, whose number stands for ``{partition}``.

    >>> node_configs(["images=/data/{partition}.h5"], 2)
    {0: {'images': '/data/0.h5'}, 1: {'images': '/data/1.h5'}}
    """
    pairs = [text.partition("=") for text in texts]
    if wrong := [key for key, equals, _ in pairs if not (key and equals)]:
        raise ConfigError(f"node config: expected key=value, found {wrong[0]!r}")
    return {n: {key: value.replace("{partition}", str(n)) for key, _, value in pairs} for n in range(nodes)}
