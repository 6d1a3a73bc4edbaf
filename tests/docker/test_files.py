"""The Dockerfile and the compose files as text."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docker.compose import ROOT, Compose, said

OVERLAYS = [(), ("compose.tls.yml",), ("compose.gpu.yml",), ("compose.tls.yml", "compose.gpu.yml")]


def test_hadolint_has_nothing_to_say() -> None:
    lint = Path(sys.executable).with_name("hadolint")
    assert said([str(lint), "--no-color", str(ROOT / "docker" / "Dockerfile")]) == ""


@pytest.mark.parametrize("overlays", OVERLAYS, ids=str)
def test_compose_accepts_the_files(overlays: tuple[str, ...], engine: None, tmp_path: Path) -> None:
    compose = Compose(tmp_path, "flowerpress-files", *overlays)
    assert compose("--profile=train", "config", "--quiet") == ""
    assert "ca.key" not in compose("--profile=train", "config")


def test_secrets_stay_out_of_git_and_of_images() -> None:
    ignored = ["git", "check-ignore", "--quiet", "docker/secrets/node-0"]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
