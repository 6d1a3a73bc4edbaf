"""A SuperLink of one's own: started on a free port with its own Flower home, and stopped with all it started.

``flwr run`` alone would start, or silently reuse, one that all users of a machine share and that never stops. ::

    security    transport   server apps are run by       SuperNodes show
    none        HTTP        the SuperLink itself         nothing
    TLS         HTTPS       a program with the secret    nothing
    TLS, keys   HTTPS       a program with the secret    a key that was registered

Without the secret whoever reaches a SuperLink could take its server apps, TLS or not: Flower's Runtime API is on the
port of its Fleet API.
"""

import shutil
import ssl
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flowerpress.deployment.connection import Connection, configured
from flowerpress.deployment.programs import Program, environment, free_port
from flowerpress.errors import RunError

if TYPE_CHECKING:
    from flowerpress.deployment.credentials import Credentials

_START_SECONDS = 60.0
_NAME = "own"


class SuperLink(Connection):
    """A SuperLink on loopback, as a context manager.

    Parameters
    ----------
    log : Path
        Where it, and the apps it runs, write what they print.
    simulation : bool
        Run clients in Flower's simulation engine (Ray), not on SuperNodes.
    credentials : Credentials, optional
        With them it speaks TLS, and runs server apps in a process of their own.
    keys : bool
        Whether it admits only SuperNodes whose keys are registered; needs credentials.
    state : Path, optional
        A folder that is its Flower home, where runs and messages outlive it; by default there is none.

    Attributes
    ----------
    address : str
        ``127.0.0.1:port``, for SuperNodes; the same when it is started again.
    env : dict
        The environment for everything that talks to it: its Flower home, and Flower's outside calls switched off.

    Raises
    ------
    RunError
        If it does not answer within a minute.
    """

    def __init__(
        self,
        *,
        log: Path,
        simulation: bool = False,
        credentials: "Credentials | None" = None,
        keys: bool = False,
        state: Path | None = None,
    ) -> None:
        self.log, self.simulation, self.credentials, self._keys, self._state = log, simulation, credentials, keys, state
        self.home = state or Path(tempfile.mkdtemp(prefix="flowerpress-"))
        self.address = f"127.0.0.1:{free_port()}"
        self._link: Program | None = None
        self._runner: Program | None = None
        super().__init__(_NAME, environment(self.home))

    def __enter__(self) -> Self:
        configured(self.home, self.name, self.address, self.credentials.ca if self.credentials else None)
        try:
            self.start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    @property
    def alive(self) -> bool:
        """Whether it, and what runs its apps, is there."""
        return all(one is None or one.alive for one in (self._link, self._runner)) and self._link is not None

    def start(self) -> None:
        """Start it, on the address that it had before, and wait until it answers."""
        self._link = self._start_link()
        if given := self.credentials:
            command = ["flower-superexec", "--runtime-api-address", self.address, "--root-certificates", str(given.ca)]
            command += ["--superexec-auth-secret-file", str(given.secret)]
            self._runner = Program(command, log=self.log, env=self.env)

    def restart(self, *, kill: bool = False, pause: float = 0.0) -> None:
        """Stop it, and start it again after some seconds; server apps in processes of their own go on meanwhile."""
        if self._link:
            self._link.stop(kill=kill)
        time.sleep(pause)
        self._link = self._start_link()

    def stop(self, *, kill: bool = False) -> None:
        """Stop it and what it started; what it knows stays in its state. ``kill`` gives no warning."""
        for one in filter(None, (self._runner, self._link)):
            one.stop(kill=kill)
        self._link = self._runner = None

    def _start_link(self) -> Program:
        host, port = self.address.split(":")
        command = ["flower-superlink", "--host", host, "--port", port]
        command += ["--simulation"] if self.simulation else []
        command += ["--database", str(self._state / "state.db")] if self._state else []
        if given := self.credentials:
            command += ["--ssl-ca-certfile", str(given.ca), "--ssl-certfile", str(given.certificate)]
            command += ["--ssl-keyfile", str(given.private_key)]
            command += ["--isolation", "process", "--superexec-auth-secret-file", str(given.secret)]
            command += ["--enable-supernode-auth"] if self._keys else []
        else:
            command += ["--insecure"]
        started = Program(command, log=self.log, env=self.env)
        try:
            self._wait(started)
        except BaseException:
            started.stop()
            raise
        return started

    def _leave(self) -> None:
        self.stop()
        if not self._state:
            shutil.rmtree(self.home, ignore_errors=True)

    def _wait(self, one: Program) -> None:
        """Wait until the server answers that is ours: its process lives, and says in its log that it has the port."""
        url, end = f"{'https' if self.credentials else 'http'}://{self.address}", time.monotonic() + _START_SECONDS
        trust = ssl.create_default_context(cafile=str(self.credentials.ca)) if self.credentials else None
        while one.alive and time.monotonic() < end:
            if f"running on {url}" in one.said():
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=2, context=trust).close()
                except OSError:
                    pass
                else:
                    return
            time.sleep(0.1)
        raise RunError(f"the SuperLink did not start on {self.address}; its last words: {one.last_words()}")
