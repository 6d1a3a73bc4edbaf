"""What is published: built from a clean tree, installed into an empty environment, and used from there."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
QUIET = ["--quiet", "--disable-pip-version-check"]
STRICT = ["-W", "error", "-W", "ignore:'click:DeprecationWarning"]  # typer, which Flower pins, with a newer click
NAMES = "import flowerpress; [getattr(flowerpress, name) for name in flowerpress.__all__]; print(flowerpress.__file__)"


def done(*command: str | Path, cwd: Path) -> str:
    ran = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


def environment(folder: Path) -> Path:
    """Make an empty environment, and return its programs."""
    done(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    tools = environment(folder / "tools")
    done(tools / "pip", "install", *QUIET, "build", cwd=folder)
    done("git", "clone", "--quiet", ROOT, folder / "clean", cwd=folder)
    done(tools / "python", "-m", "build", "--outdir", folder, folder / "clean", cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def test_what_is_in_them(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    tracked = done("git", "ls-files", "app/flowerpress", cwd=ROOT).split()
    with ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert names == {name.removeprefix("app/") for name in tracked}
    with tarfile.open(sdist) as file:
        kept = {name.partition("/")[2] for name in file.getnames()}
    assert {*tracked, "app/server.py", "pyproject.toml", "README.md", "LICENSE", "tests/test_cli.py"} <= kept


def test_an_empty_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    """The wheel, with nothing but what it declares, imports, presses, and trains in the simulation engine."""
    sdist, wheel = built
    empty = environment(tmp_path / "empty")
    done(empty / "pip", "install", *QUIET, "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    done(empty / "pip", "check", cwd=tmp_path)
    assert str(empty.parent) in done(empty / "python", *STRICT, "-c", NAMES, cwd=tmp_path)
    make = "import numpy; numpy.savez('model.npz', w=numpy.ones((100, 100), 'float32'))"
    done(empty / "python", "-c", make, cwd=tmp_path)
    said = json.loads(done(empty / "flowerpress", "press", "model.npz", "m.fpb", "--format", "json", cwd=tmp_path))
    assert said["raw-bytes"] > 10 * said["bytes"]
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    (app,) = tmp_path.glob("flowerpress-*")
    run = ["run", app, "--clients", "2", "-c", "num-server-rounds=1", "--format", "json"]
    assert json.loads(done(empty / "flowerpress", *run, cwd=tmp_path))["up-bytes"] > 0
