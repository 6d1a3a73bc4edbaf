"""The initial model of a run: clients make it from the seed, are sent it, or get what a codec leaves of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Context, RecordDict

from flowerpress import ConfigError
from flowerpress.apps import inprocess
from flowerpress.apps.client_app import initial
from flowerpress.apps.config import Config
from flowerpress.apps.data import test_images as held_out
from flowerpress.apps.models import model_for
from flowerpress.apps.results import read_rounds
from flowerpress.chunks.content import digest_of
from flowerpress.wire import values_of
from tests.apps.test_config import DEFAULTS

QUICK = {**DEFAULTS, "dataset": "wine", "model": "mlp", "num-server-rounds": 2, "learning-rate": 0.02}
CLIENTS = 3


def ran(folder: Path, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the summary of a run, and its rounds."""
    inprocess.run({**QUICK, **changes}, clients=CLIENTS, folder=folder)
    return dict(json.loads((folder / "summary.json").read_text())), read_rounds(folder)


@pytest.mark.parametrize(("dataset", "model"), [("digits", "cnn"), ("digits", "mlp"), ("wine", "mlp")])
@pytest.mark.parametrize("seed", [1, 7])
def test_clients_make_the_model_of_the_server(dataset: str, model: str, seed: int) -> None:
    config = {**DEFAULTS, "dataset": dataset, "model": model, "seed": seed}
    server = ArrayRecord(model_for(model, held_out(dataset, seed, 0), seed).state_dict())
    for partition in range(CLIENTS):
        place: dict[str, Any] = {"partition-id": partition, "num-partitions": CLIENTS}
        made = initial(Context(1, partition + 1, place, RecordDict(), config))
        assert digest_of(values_of(made)) == digest_of(values_of(server))


def test_ways_to_begin(tmp_path: Path) -> None:
    """None but a definition changes what is learnt; in bytes down of the first round they are far apart."""
    runs = {first: ran(tmp_path / first[:5], first=first) for first in ("seed", "whole", "budget(bits=4)", "zstd")}
    raw = runs["seed"][0]["down-raw-bytes"] / 2  # in each of two rounds
    down = {first: rounds[1]["down-bytes"] for first, (_, rounds) in runs.items()}
    assert runs["seed"][0]["loss"] == runs["whole"][0]["loss"] == runs["zstd"][0]["loss"]
    assert runs["seed"][0]["loss"] != runs["budget(bits=4)"][0]["loss"]
    assert down["seed"] < 0.01 * raw
    assert down["whole"] > 0.7 * raw
    assert down["seed"] < down["budget(bits=4)"] < down["seed"] + 0.14 * raw
    assert down["zstd"] == pytest.approx(down["whole"], rel=0.01)


@pytest.mark.parametrize("first", ["nothing", "", "seeds", "budget(bits=4"])
def test_mistakes(first: str) -> None:
    with pytest.raises(ConfigError):
        Config.read({**DEFAULTS, "first": first})


def test_stock_flower_begins_as_ever(tmp_path: Path) -> None:
    stock, _ = ran(tmp_path / "stock", codec="", first="budget(bits=4)")
    whole, _ = ran(tmp_path / "whole", codec="", first="whole")
    assert stock["loss"] == whole["loss"]
