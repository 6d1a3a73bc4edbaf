"""What docs/deployment.md says of machines of one's own, done as it is written there: all of them are this one.

Hosts, ports and paths are replaced, and nothing else. Where nginx is installed, SuperNodes go through the proxy.
"""

import os
import re
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import h5py

from flowerpress.apps.config import Config
from flowerpress.apps.data import Partitioning, client_images
from flowerpress.apps.report import summary_of
from flowerpress.apps.runconfig import defaults
from flowerpress.deployment.programs import environment, free_port
from tests.e2e.conftest import Outcome

ROOT, NODES = Path(__file__).parents[2], 2
PROXIED = shutil.which("nginx") is not None
PATHS = ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/fleet/../control/list-runs", "/health", "/docs")


def blocks(title: str) -> list[str]:
    """Return the code blocks of a section."""
    section = (ROOT / "docs" / "deployment.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


def written(text: str, instead: Mapping[str, str]) -> str:
    for old, new in instead.items():
        text = text.replace(old, new)
    return text


@contextmanager
def running(script: str, env: Mapping[str, str], folder: Path, name: str) -> Iterator[Path]:
    """Run a block whose programs stay, and end them; yield their log."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        shell = ["bash", "-euc", f"{script}\nwait"]
        process = subprocess.Popen(shell, env=env, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    try:
        yield log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            time.sleep(2)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def until(log: Path, words: str) -> None:
    end = time.monotonic() + 60
    while words not in log.read_text(errors="replace"):
        assert time.monotonic() < end, log.read_text(errors="replace")[-2000:]
        time.sleep(0.2)


def proxy(folder: Path, superlink: str, port: int) -> str:
    """Return the configuration of the proxy, with the lines that are for others to change changed."""
    text = (ROOT / "docker" / "fleet-proxy.conf").read_text()
    assert text.count("# HOST") == 6
    text = re.sub(r"resolver .*# HOST.*", "", text).replace("superlink:8000;", f"{superlink};")
    text = text.replace("proxy_ssl_name superlink;", "proxy_ssl_name fl.example.org;")
    return text.replace("/tmp/", f"{folder}/").replace("/run/secrets/", f"{folder}/secrets/").replace("8443", str(port))


def site(folder: Path, node: int) -> Path:
    """Write a node's own images to a file."""
    images = client_images(Partitioning.of(Config.read(defaults(ROOT)), NODES), node)
    with h5py.File(folder / f"site-{node}.h5", "w") as file:
        file["train"], file["train-labels"] = images.pixels, images.labels
        file["train-labels"].attrs["classes"] = images.classes
    return folder / f"site-{node}.h5"


def test_machines_of_ones_own(tmp_path: Path, outcome: Outcome) -> None:
    _, keys, server, config, register, client = blocks("Between machines")
    (tmp_path / "home").mkdir()
    env, port = environment(tmp_path / "home"), free_port()
    address, reached = f"127.0.0.1:{port}", f"127.0.0.1:{free_port() if PROXIED else port}"
    instead = {"127.0.0.1:8000": address, "--port 8000": f"--port {port}", "/abs/secrets": f"{tmp_path}/secrets"}
    with ExitStack() as stack:
        subprocess.run(["bash", "-euc", keys], env=env, cwd=tmp_path, check=True)
        log = stack.enter_context(running(written(server, instead), env, tmp_path, "server"))
        until(log, "Uvicorn running on https")
        (tmp_path / "home" / "config.toml").write_text(written(config, instead))
        subprocess.run(["bash", "-euc", register], env=env, cwd=tmp_path, check=True)
        if PROXIED:
            (tmp_path / "proxy.conf").write_text(proxy(tmp_path, address, int(reached.split(":")[1])))
            stack.enter_context(running("nginx -g 'daemon off;' -c $PWD/proxy.conf &", env, tmp_path, "proxy"))
        for node in range(NODES):
            here = tmp_path / f"machine-{node}"
            here.mkdir()
            for name in ("ca.crt", f"node-{node}", f"node-{node}.secret"):
                shutil.copy(tmp_path / "secrets" / name, here)
            theirs = {
                "fl.example.org:8443": reached,
                "node-0": f"node-{node}",
                "partition-id=0": f"partition-id={node}",
                "9094": str(free_port()),
                "/data/site.h5": str(site(here, node)),
            }
            machine = environment(here, FLOWERPRESS_CACHE=str(here / "cache"))
            node_log = stack.enter_context(running(written(client, theirs), machine, here, "client"))
            until(node_log, "SuperNode ID")
        command = ["flowerpress", "run", str(ROOT), "--connection", "production", "--runs", str(tmp_path / "runs")]
        command += ["-c", "num-server-rounds=2"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        closed = [status(f"https://{reached}{path}") for path in PATHS] if PROXIED else []
    (folder,) = (tmp_path / "runs").iterdir()
    summary = summary_of(folder)
    assert summary["failures"] == 0
    assert summary["accuracy"] > 0.5
    assert closed == ([404] * len(PATHS) if PROXIED else [])
    words = f"2 rounds on the nodes' own HDF5 files, {summary['accuracy']:.2%}"
    words += "; all but /v1/fleet/ answers 404" if PROXIED else ""
    outcome(22, f"the documented commands{', behind nginx' if PROXIED else ''}", words)


def status(url: str) -> int:
    """Return the status of an answer to a POST, of whoever answers."""
    question, anyone = urllib.request.Request(url, b"", method="POST"), ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(question, context=anyone, timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
