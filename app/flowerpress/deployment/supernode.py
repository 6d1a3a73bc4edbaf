"""A SuperNode: started beside a SuperLink, with a Flower home and a cache of its own, as if it were another machine."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowerpress.chunks.content import FOLDER
from flowerpress.deployment.programs import Program, environment, free_port

if TYPE_CHECKING:
    from flowerpress.deployment.credentials import Credentials

NodeConfig = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Trust:
    """What a SuperNode is given: the authority that it trusts, the secret of its client apps, and its key, if any."""

    ca: Path
    secret: Path
    key: Path | None = None

    @classmethod
    def of(cls, credentials: "Credentials", node: int, *, keyed: bool) -> "Trust":
        """Return what a SuperNode needs of credentials."""
        return cls(credentials.ca, credentials.node_secret(node), credentials.key(node) if keyed else None)


class SuperNode:
    """A SuperNode that runs; with trust it speaks TLS, and runs client apps in processes of their own.

    Parameters
    ----------
    superlink : str
        ``host:port`` that leads to the SuperLink.
    config : mapping
        What its client apps find in ``Context.node_config``: ``partition-id``, ``num-partitions``, ``dataset``, …
    log : Path
        Where it, and the apps it runs, write what they print.
    trust : Trust, optional
        What it speaks TLS with.
    home : Path, optional
        Its Flower home, which outlives it, with its cache; by default both go with it.
    """

    def __init__(
        self, superlink: str, config: NodeConfig, *, log: Path, trust: Trust | None = None, home: Path | None = None
    ) -> None:
        self.log, self._kept = log, home is not None
        self.home = home or Path(tempfile.mkdtemp(prefix="flowerpress-node-"))
        self.home.mkdir(parents=True, exist_ok=True)
        env = environment(self.home, **{FOLDER: str(self.home / "cache")})
        port = free_port()
        command = ["flower-supernode", "--superlink", superlink, "--port", str(port)]
        command += ["--node-config", node_config(config)]
        if trust is None:
            self.programs = [Program([*command, "--insecure"], log=log, env=env)]
            return
        secret = ["--superexec-auth-secret-file", str(trust.secret)]
        command += ["--root-certificates", str(trust.ca), "--isolation", "process", *secret]
        command += ["--auth-supernode-private-key", str(trust.key)] if trust.key else []
        runner = ["flower-superexec", "--insecure", "--runtime-api-address", f"127.0.0.1:{port}", *secret]
        self.programs = [Program(one, log=log, env=env) for one in (command, runner)]

    @property
    def alive(self) -> bool:
        """Whether it, and what runs its apps, is there."""
        return all(one.alive for one in self.programs)

    def stop(self, *, kill: bool = False) -> None:
        """End it and what it started; with ``kill``, without a word to anybody."""
        for one in reversed(self.programs):
            one.stop(kill=kill)
        if not self._kept:
            shutil.rmtree(self.home, ignore_errors=True)


def node_config(values: NodeConfig) -> str:
    """Return a configuration as ``--node-config`` takes it.

    >>> node_config({"partition-id": 0, "dataset": "/data/site-a"})
    'partition-id=0 dataset="/data/site-a"'
    """
    return " ".join(f"{key}={_text(value)}" for key, value in values.items())


def _text(value: str | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
