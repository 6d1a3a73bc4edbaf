"""The noisy app, what it is run with, and how it runs on a SuperLink."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowerpress.chunks.content import FOLDER
from flowerpress.deployment.superlink import SuperLink
from tests.e2e.deployment import run

FEDAVG = "flwr.serverapp.strategy:FedAvg"
STOCK, LOSSLESS, LOSSY = "stock Flower", "zstd", "quantize(bits=4, block=64) | entropy"
CONFIGURATIONS = {  # what is measured, beside each other; a strategy of ours is named as FedAvg is: package:class
    STOCK: {"codec": "", "strategy": FEDAVG},
    LOSSLESS: {"codec": LOSSLESS, "strategy": FEDAVG},
    LOSSY: {"codec": LOSSY, "strategy": FEDAVG},
    "StreamingFedAvg, zstd": {"codec": LOSSLESS, "strategy": "flowerpress.federation.streaming:StreamingFedAvg"},
}
_APP = Path(__file__).parent / "app"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the time of a benchmark; references go there, not to the user's cache."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, f"{name}/references")
        yield Path(name)


def settings(label: str, *, nodes: int, rounds: int, megabytes: float, fraction: float = 1.0) -> dict[str, Any]:
    """Return the run configuration of the app for one of the configurations."""
    return {
        **CONFIGURATIONS[label],
        "nodes": nodes,
        "rounds": rounds,
        "megabytes": float(megabytes),
        "fraction": fraction,
    }


def served(superlink: SuperLink, config: dict[str, Any], resources: str = "") -> dict[str, Any]:
    """Run the app on a SuperLink until it has completed, and return what its server measured."""
    with tempfile.NamedTemporaryFile("r") as output:
        text = " ".join(f"{key}={value!r}" for key, value in {**config, "output": output.name}.items())
        run(superlink, _APP, text, 3600, resources)
        return json.load(output)
