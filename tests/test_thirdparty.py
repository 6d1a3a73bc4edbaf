"""Codecs in a package of their own: installed by pip, used by name, and held to the contract of ours."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THEIRS = ROOT / "tests" / "thirdparty"
USE = """
import json
import numpy as np
from flowerpress import Bundle, ChunkError, LatentRecord, pack, parse, press, unpress
from flowerpress.codecs.registry import names

rng = np.random.default_rng(0)
base = {"w": rng.standard_normal((300, 40)).astype("float32"), "n": np.arange(5)}
x = {"w": base["w"] + np.float32(0.01) * rng.standard_normal((300, 40)).astype("float32"), "n": np.arange(5) + 1}
exact = pack(x, "xor | zstd", bases=base)
signs = Bundle(pack(x, "*.bias = raw; * = signs(scale=0.8)"))
record = LatentRecord([x["w"]], codec="signs")
back = unpress(press(record, "signs"))
try:
    Bundle(exact.replace(b"xor", b"xar"))
    unknown = ""
except ChunkError as error:
    unknown = str(error)
print(json.dumps({
    "names": names(),
    "exact": all(Bundle(exact, bases=base)[k].tobytes() == x[k].tobytes() for k in x),
    "smaller": len(exact) < len(pack(x, "zstd")),
    "bytes": signs.encoded_bytes("w"),
    "magnitudes": len(np.unique(np.abs(signs["w"]))),
    "integers": signs["n"].tolist(),
    "record": bool((back["0"].numpy() == record["0"].numpy()).all()),
    "text": str(parse("delta | signs(scale=0.5)")),
    "damaged": unknown,
}))
"""
GUIDE = """
import numpy as np, torch
from flowerpress import PressGrid
from tests.federation.local_grid import LocalGrid
base, model, grid = {"w": np.arange(9, dtype="float32")}, torch.nn.Linear(3, 2), LocalGrid({})
moved = {"w": base["w"] + np.float32(1)}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the package beside this environment; return the variables with which a process finds it."""
    folder = tmp_path_factory.mktemp("thirdparty")
    source, target = folder / "source", folder / "target"
    shutil.copytree(THEIRS, source)  # setuptools builds where the source is
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join(map(str, (target, ROOT / "app", ROOT)))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def test_they_are_used_by_name(installed: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", USE]
    done = subprocess.run(command, env=installed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"signs", "xor"} <= set(found["names"])
    assert (found["exact"], found["smaller"], found["record"]) == (True, True, True)
    assert (found["bytes"], found["magnitudes"]) == (21 + 4 + 300 * 40 // 8, 1)  # a header, a magnitude, a bit each
    assert found["integers"] == [1, 2, 3, 4, 5]
    assert found["text"] == "delta | signs(scale=0.5)"
    assert found["damaged"]


def test_the_guide(installed: dict[str, str], tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "codec-authors.md").read_text()
    (block,) = re.findall(r"(?s)<!-- run by tests/test_thirdparty.py -->\n```python\n(.*?)```", guide)
    command = [sys.executable, "-W", "ignore", "-c", f"{GUIDE}\n{block}"]
    done = subprocess.run(command, env=installed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_they_keep_the_contract(installed: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--override-ini", "addopts=", str(THEIRS / "contract_examples.py")]
    done = subprocess.run(command, env=installed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout


@pytest.mark.parametrize("pipeline", ["signs", "xor | zstd"])
def test_they_survive_forged_bytes(installed: dict[str, str], tmp_path: Path, pipeline: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.hostile.driver", "forged", "300", "1", pipeline]
    done = subprocess.run(command, env=installed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["wrong"] == 0, done.stdout
