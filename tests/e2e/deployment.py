"""A federation on loopback: a SuperLink, and SuperNodes with Flower homes of their own."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from flowerpress.apps.superlink import SuperLink, descendants, end_processes, free_port, program
from flowerpress.chunks.content import FOLDER

START_SECONDS = 60
Node: TypeAlias = "tuple[subprocess.Popen[bytes], str]"  # and its Flower home


@contextmanager
def federation(
    folder: Path, nodes: int, through: Callable[[str], str] = lambda address: address
) -> Iterator[SuperLink]:
    """Start a SuperLink and ``nodes`` SuperNodes; logs go to ``folder``; stop all of it at the end.

    ``through`` is asked, for each SuperNode, which address leads to that of the SuperLink.
    """
    with SuperLink(simulation=False, log=folder / "superlink.log") as superlink:
        started: list[Node] = []
        try:
            for i in range(nodes):
                address, log = through(superlink.address), folder / f"supernode{i}.log"
                started.append(start_node(superlink, address, log, i, nodes))
            wait(superlink, nodes)
            yield superlink
        finally:
            stop(started)


def start_node(superlink: SuperLink, address: str, log: Path, partition: int, nodes: int) -> Node:
    home = tempfile.mkdtemp(prefix="flowerpress-node-")
    options = ["--insecure", "--superlink", address, "--port", str(free_port())]
    config = f"partition-id={partition} num-partitions={nodes}"
    with log.open("wb") as out:
        command = [program("flower-supernode"), *options, "--node-config", config]
        env = {**superlink.env, "FLWR_HOME": home, FOLDER: f"{home}/cache"}  # as if it were another machine
        return subprocess.Popen(command, env=env, cwd=home, stdout=out, stderr=subprocess.STDOUT), home


def stop(nodes: Sequence[Node], *, kill: bool = False) -> None:
    """End SuperNodes and what they started; with ``kill``, without a word to anybody."""
    families = [pid for process, _ in nodes for pid in (process.pid, *descendants(process.pid))]
    for process, home in nodes:
        (process.kill if kill else process.terminate)()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)
    end_processes(families)


def wait(superlink: SuperLink, nodes: int) -> None:
    """Wait until our SuperLink says that all nodes are online."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        found = superlink.flwr("supernode", "ls", "own").get("nodes", [])
        if sum(node["status"] == "online" for node in found) >= nodes:
            return
        time.sleep(0.5)
    raise TimeoutError(f"{nodes} SuperNodes were not online after {START_SECONDS} s")


def run(superlink: SuperLink, app: Path, config: str, seconds: float, resources: str = "") -> int:
    """Submit an app, wait until it has completed, and return the run's id; ``resources`` are a simulation's."""
    run_id = superlink.submit(app, config, resources)
    follow = [program("flwr"), "log", str(run_id), "own"]  # ends when the run does; polling would cost a core's time
    subprocess.run(follow, env=superlink.env, capture_output=True, timeout=seconds, check=False)
    status, details = superlink.status(run_id)
    if status != "finished:completed":
        raise RuntimeError(f"{status}: {details}\n{superlink.log_of(run_id)[-3000:]}")
    return run_id
