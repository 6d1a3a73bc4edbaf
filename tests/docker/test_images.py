"""What the images are made of."""

import json

import pytest

from tests.docker.compose import said

IMAGES = ("flowerpress:latest", "flowerpress-proxy:latest")
pytestmark = pytest.mark.usefixtures("images")


def inside(image: str, script: str) -> str:
    return said(["docker", "run", "--rm", "--network=none", image, "bash", "-c", script]).strip()


@pytest.mark.parametrize("image", IMAGES)
def test_size_and_user(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = json.loads(said(["docker", "image", "inspect", image]))
    with capsys.disabled():
        print(f"\n{image}: {found['Size'] / 1e6:.0f} MB")
    assert found["Config"]["User"] == "1000:1000"
    assert inside(image, "id -u") == "1000"
    assert (
        inside(image, "touch /etc/x /opt/x /usr/bin/x 2>/dev/null; ls /etc/x /opt/x /usr/bin/x 2>/dev/null; true") == ""
    )


def test_nothing_is_left_of_the_installation() -> None:
    assert inside("flowerpress:latest", "command -v gcc cc c++ make git curl; true") == ""
    assert (
        inside(
            "flowerpress:latest",
            "find /root /home /tmp /opt /var -path '*cache/pip*' -o -name '*.whl' 2>/dev/null; true",
        )
        == ""
    )
    library = "/opt/flowerpress/lib/python3*/site-packages"
    assert (
        inside("flowerpress:latest", f"ls -d {library}/ray {library}/pip {library}/torch/include 2>/dev/null; true")
        == ""
    )


def test_the_program_and_the_app_are_there() -> None:
    assert "deploy" in inside("flowerpress:latest", "flowerpress --help")
    asked = "import flowerpress, torch, h5py, obstore; print(flowerpress.__file__, torch.ones(2).sum().item())"
    assert "/opt/flowerpress/lib/" in inside("flowerpress:latest", f"python -c '{asked}'")
    assert inside("flowerpress:latest", "ls /app") == "LICENSE\nREADME.md\napp\npyproject.toml"
