"""The app on a real SuperLink with real SuperNodes; and where flowerpress is not installed."""

import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from flowerpress import Bundle
from flowerpress.apps.report import summary_of
from flowerpress.deployment import programs
from flowerpress.deployment.local import Federation
from flowerpress.deployment.superlink import SuperLink
from tests.e2e.deployment import run

ROOT = Path(__file__).parents[2]


def test_two_supernodes(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    with Federation(2, folder=tmp_path) as federation:
        run(federation.superlink, ROOT, f"num-server-rounds=2 fraction-evaluate=1.0 output-dir='{folder}'", 300)
    summary = summary_of(folder)
    assert summary["failures"] == 0
    assert summary["up-raw-bytes"] > 1.1 * summary["up-bytes"] > 0
    assert summary["accuracy"] > 0.2
    assert len(Bundle.open(folder / "model.fpb")) == 18


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A Python that has everything but flowerpress: editable installs are not followed from a .pth line."""
    home = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    library = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (library / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for script in Path(sys.executable).parent.glob("fl*w*r*"):
        copied = home / "bin" / script.name
        copied.write_text(script.read_text().replace(sys.executable, str(home / "bin" / "python"), 1))
        shutil.copymode(script, copied)
    assert subprocess.run(
        [home / "bin/python", "-c", "import flowerpress"], check=False, capture_output=True
    ).returncode
    return home / "bin" / "python"


def test_nodes_where_flowerpress_is_not_installed(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`flwr run .` carries our code in the app bundle."""
    monkeypatch.setattr(programs.sys, "executable", str(bare))
    with SuperLink(simulation=True, log=tmp_path / "log") as superlink:
        resources = "num-supernodes=2 client-resources-num-cpus=1"
        run_id = superlink.submit(ROOT, f"num-server-rounds=1 output-dir='{tmp_path / 'results'}'", resources)
        end = time.monotonic() + 180
        while not (status := superlink.status(run_id))[0].startswith("finished") and time.monotonic() < end:
            time.sleep(2)
    assert status[0] == "finished:completed", status
    assert summary_of(tmp_path / "results")["up-bytes"] > 0


def test_the_code_that_is_shipped_wins(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SuperNodes, and at the SuperLink, where another version of flowerpress is installed."""
    (library,) = bare.parents[1].glob("lib/*/site-packages")
    (library / "flowerpress").mkdir()
    (library / "flowerpress" / "__init__.py").write_text("raise ImportError('another version')\n")
    done = subprocess.run([bare, "-c", "import flowerpress"], check=False, capture_output=True, text=True)
    assert "another version" in done.stderr
    monkeypatch.setattr(programs.sys, "executable", str(bare))
    with Federation(2, folder=tmp_path / "federation") as federation:
        run(federation.superlink, ROOT, f"num-server-rounds=1 output-dir='{tmp_path / 'results'}'", 300)
    assert summary_of(tmp_path / "results")["failures"] == 0
