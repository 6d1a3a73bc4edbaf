"""Everything here needs a Docker engine: ``make docker-test``. Without one it is skipped."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowerpress.apps import launch
from tests.docker.compose import CONFIG, ROOT, Compose


@pytest.fixture(scope="session")
def engine() -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], check=False, capture_output=True).returncode:
        pytest.skip("there is no Docker engine here")


@pytest.fixture(scope="session")
def images(engine: None, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The images, of this checkout."""
    with Compose(tmp_path_factory.mktemp("images"), "flowerpress-images", "compose.tls.yml") as compose:
        compose("build", seconds=1200)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the same run in the simulation engine."""
    folder = tmp_path_factory.mktemp("simulated") / "results"
    launch.simulate(ROOT, folder, clients=3, run_config=CONFIG, on_round=lambda row: None)
    return folder


@pytest.fixture(scope="session")
def plain(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The federation without TLS."""
    with Compose(tmp_path_factory.mktemp("plain"), "flowerpress-plain") as compose:
        compose("up", "--detach", "--wait", seconds=300)
        yield compose
