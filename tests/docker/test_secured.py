"""The federation of compose.tls.yml: a run, what nodes can reach, and who is admitted."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowerpress.deployment.credentials import Credentials
from tests.docker.compose import CONFIG, ROOT, Compose, said, same_model

# Requests as they are, which no library has tidied up: the status of each, or how it failed.
PROBE = """
import http.client, json, ssl, sys
host, port, *paths = sys.argv[1:]
trust, found = ssl.create_default_context(cafile="/ca.crt"), []
trust.check_hostname = False
for path in paths:
    try:
        asked = http.client.HTTPSConnection(host, int(port), timeout=10, context=trust)
        asked.request("POST", path, b"", {"Content-Type": "application/x-protobuf"})
        found.append(asked.getresponse().status)
    except OSError as error:
        found.append(type(error).__name__)
print(json.dumps(found))
"""
CLOSED = [
    "/",
    "/health",
    "/docs",
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/runtime/acquire-task",
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/control/list-runs/../../fleet/register-node",
    "/v1/fleet%2f..%2fcontrol%2flist-runs",
    "//v1/control/list-runs",
    "/v1/control/list-runs?/v1/fleet/register-node",
]


@pytest.fixture(scope="module")
def secured(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    with Compose(tmp_path_factory.mktemp("secured"), "flowerpress-secured", "compose.tls.yml") as compose:
        said([str(ROOT / "docker" / "secrets.sh"), "fleet.example.org"], 300, compose.env)
        compose("up", "--detach", "--wait", seconds=300)
        yield compose


def beside_nodes(compose: Compose, mounts: dict[Path, str], *command: str) -> list[str]:
    volumes = [f"--volume={path}:{inside}:ro" for path, inside in mounts.items()]
    return ["docker", "run", "--rm", f"--network={compose.name}_fleet", *volumes, "flowerpress:latest", *command]


def probe(compose: Compose, host: str, port: int, *paths: str) -> list[int | str]:
    command = beside_nodes(compose, {compose.secrets / "ca.crt": "/ca.crt"}, "python", "-c", PROBE, host, str(port))
    found: list[int | str] = json.loads(said([*command, *paths]).splitlines()[-1])
    return found


def test_a_run_ends_as_in_the_simulation_engine(secured: Compose, simulated: Path) -> None:
    assert same_model(secured.train(CONFIG), simulated)


def test_nodes_reach_the_fleet_api_alone(secured: Compose) -> None:
    (status,) = probe(secured, "proxy", 8443, "/v1/fleet/pull-messages")
    assert status == 415  # the SuperLink's own word: this is no message
    assert probe(secured, "proxy", 8443, *CLOSED) == [404] * len(CLOSED)


def test_nodes_do_not_reach_the_superlink(secured: Compose) -> None:
    networks = json.loads(said(["docker", "inspect", secured.container("superlink")]))[0]["NetworkSettings"]["Networks"]
    assert list(networks) == [f"{secured.name}_core"]
    address = networks[f"{secured.name}_core"]["IPAddress"]
    assert probe(secured, "superlink", 8000, "/health") == ["gaierror"]
    assert set(probe(secured, address, 8000, "/health")) <= {"TimeoutError", "OSError"}


def test_the_proxy_alone_is_published(secured: Compose) -> None:
    listed = [json.loads(line) for line in secured("ps", "--format=json").splitlines()]
    published = {one["Service"] for one in listed if any(port["PublishedPort"] for port in one["Publishers"])}
    assert published == {"proxy"}


def test_a_node_whose_key_is_not_registered(secured: Compose, tmp_path: Path) -> None:
    stranger = Credentials.make(tmp_path, ["localhost"], 1).key(0)
    stranger.chmod(0o644)
    command = ["flower-supernode", "--superlink=proxy:8443", "--root-certificates=/ca.crt", "--isolation=process"]
    command += ["--auth-supernode-private-key=/key"]
    with pytest.raises(RuntimeError, match="code: 2004"):
        said(beside_nodes(secured, {secured.secrets / "ca.crt": "/ca.crt", stranger: "/key"}, *command))


def test_keys_are_registered_once(secured: Compose) -> None:
    assert secured("run", "--rm", "--no-TTY", "register").count("is registered") == 3


def test_secrets_are_where_they_are_needed(secured: Compose) -> None:
    for service, wanted in {
        "superlink": {"ca.crt", "server.crt", "server.key", "superexec.secret"},
        "serverapp": {"ca.crt", "superexec.secret"},
        "supernode-0": {"ca.crt", "node.key", "node.secret"},
        "clientapp-0": {"node.secret"},
    }.items():
        assert set(secured("exec", "--no-TTY", service, "ls", "/run/secrets").split()) == wanted, service
