"""A federation on loopback: a SuperLink, and SuperNodes with Flower homes of their own."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowerpress.apps.superlink import SuperLink, descendants, end_processes, free_port, program

START_SECONDS = 60


@contextmanager
def federation(folder: Path, nodes: int) -> Iterator[SuperLink]:
    """Start a SuperLink and ``nodes`` SuperNodes; logs go to ``folder``; stop all of it at the end."""
    with SuperLink(simulation=False, log=folder / "superlink.log") as superlink:
        started: list[tuple[subprocess.Popen[bytes], str]] = []
        try:
            started += [start_node(superlink, folder / f"supernode{i}.log", i, nodes) for i in range(nodes)]
            wait(superlink, nodes)
            yield superlink
        finally:
            families = [pid for process, _ in started for pid in (process.pid, *descendants(process.pid))]
            for process, home in started:
                process.terminate()
                process.wait()
                shutil.rmtree(home, ignore_errors=True)
            end_processes(families)


def start_node(superlink: SuperLink, log: Path, partition: int, nodes: int) -> tuple["subprocess.Popen[bytes]", str]:
    home = tempfile.mkdtemp(prefix="flowerpress-node-")
    options = ["--insecure", "--superlink", superlink.address, "--port", str(free_port())]
    config = f"partition-id={partition} num-partitions={nodes}"
    with log.open("wb") as out:
        command = [program("flower-supernode"), *options, "--node-config", config]
        env = {**superlink.env, "FLWR_HOME": home}
        return subprocess.Popen(command, env=env, cwd=home, stdout=out, stderr=subprocess.STDOUT), home


def wait(superlink: SuperLink, nodes: int) -> None:
    """Wait until our SuperLink says that all nodes are online."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        found = superlink.flwr("supernode", "ls", "own").get("nodes", [])
        if sum(node["status"] == "online" for node in found) >= nodes:
            return
        time.sleep(0.5)
    raise TimeoutError(f"{nodes} SuperNodes were not online after {START_SECONDS} s")


def run(superlink: SuperLink, app: Path, config: str, seconds: float) -> None:
    """Submit an app and wait until it has completed."""
    run_id = superlink.submit(app, config)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status, details = superlink.status(run_id)
        if status.startswith("finished"):
            if status != "finished:completed":
                raise RuntimeError(f"{status}: {details}\n{superlink.log_of(run_id)[-3000:]}")
            return
        time.sleep(2)
    raise TimeoutError(f"the run had not finished after {seconds} s")
