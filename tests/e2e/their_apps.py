"""Apps of people who have never heard of flowerpress, and what they change when they do: a diff beside each.

A copy of an app can be pinned (see `tests.e2e.pinned`), so that two runs can be compared, and run in this process.
"""

import importlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from flwr.app import Context, RecordDict

from flowerpress.apps.inprocess import InProcessGrid, undisturbed
from tests.e2e import pinned

APPS = Path(__file__).parent / "apps"
NAMES = sorted(path.parent.name for path in APPS.glob("*/pyproject.toml"))
PRESSED = "pressed.diff"
STOCK = {"lora": "exchange-dtype='float32'"}  # what an app cannot do without being pressed: Flower has no bfloat16
NODES = 4


def copied(name: str, to: Path, *, pressed: bool = False) -> Path:
    """Copy an app, pressed by the diff that lies beside it or not, and return the folder of the copy."""
    shutil.copytree(APPS / name, to, ignore=shutil.ignore_patterns(PRESSED, "__pycache__"))
    if pressed:
        subprocess.run(["git", "apply", APPS / name / PRESSED], cwd=to, check=True)
    return to


def pin(app: Path, results: Path, codec: str = "") -> None:
    """Put `pinned` in the place of the apps in a copy; what the server app saves goes to ``results``.

    ``codec`` is what a pressed app's PressGrid gets, in the place of its default.
    """
    results.mkdir(parents=True)
    shutil.copy(pinned.__file__, app)
    described = (app / "pyproject.toml").read_text()
    described = re.sub(r"(server|client)app = .*", r'\1app = "pinned:\1"', described)
    (app / "pyproject.toml").write_text(f"{described}{pinned.FOLDER} = '{results}'\n")
    if codec:
        (server,) = app.glob("*/server_app.py")
        server.write_text(server.read_text().replace("PressGrid(grid", f"PressGrid(grid, {codec!r}"))


def run_here(app: Path, config: Mapping[str, Any]) -> None:
    """Run a pinned copy in this process, with its configuration changed."""
    values = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"] | config
    loaded = set(sys.modules)
    sys.path.insert(0, str(app))
    try:
        with undisturbed():
            torch.set_num_threads(1)
            both = importlib.import_module("pinned")
            grid = InProcessGrid([both.client] * NODES, values)
            both.server(grid, Context(1, 1, {}, RecordDict(), dict(values)))
    finally:
        sys.path.remove(str(app))
        for name in set(sys.modules) - loaded:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(f"{app}/"):
                del sys.modules[name]


def counted(results: Path) -> int:
    """Return the bytes of all of Flower's objects, both ways."""
    counts = json.loads((results / pinned.COUNTS).read_text())
    return int(counts["down-bytes"] + counts["up-bytes"])


def saved(results: Path) -> dict[str, np.ndarray]:
    """Return all arrays that a server app saved, whichever way it did."""
    found = {}
    for path in sorted(results.glob("*.p*")):
        loaded = torch.load(path) if path.suffix == ".pt" else joblib.load(path)
        state = loaded if isinstance(loaded, dict) else vars(loaded)
        found |= {f"{path.name}/{key}": x for key, x in _arrays(state)}
    return found


def metrics(said: str) -> list[str]:
    """Return the metrics that Flower logged, of all rounds."""
    return re.findall(r"MetricRecord: (\{.*\})", said)


def accuracy(said: str) -> float:
    """Return the accuracy that was logged last."""
    return float(re.findall(r"accuracy': ([\d.]+)", said)[-1])


def assert_equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    """Compare float arrays by bits, and integers by value."""
    assert one.keys() == other.keys()
    for key, x in one.items():
        y = other[key]
        assert (x.dtype, x.shape) == (y.dtype, y.shape), key
        assert x.tobytes() == y.tobytes(), key


def _arrays(state: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for key, x in state.items():
        if isinstance(x, Mapping):
            yield from ((f"{key}/{inner}", y) for inner, y in _arrays(x))
        elif isinstance(x, np.ndarray | torch.Tensor):
            yield key, np.asarray(x)
