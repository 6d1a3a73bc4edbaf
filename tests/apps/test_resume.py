"""Runs of the app that were stopped, and runs that are to have more rounds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowerpress import Bundle, ConfigError
from flowerpress.apps import inprocess
from flowerpress.apps.results import read_rounds
from tests.apps.test_config import DEFAULTS

CONFIG: dict[str, Any] = {**DEFAULTS, "dataset": "wine", "model": "mlp-small", "codec": "lossless", "torch-threads": 1}


def run(folder: Path, rounds: int, **options: Any) -> dict[str, np.ndarray]:
    config = {**CONFIG, "num-server-rounds": rounds, "checkpoints": str(folder / "checkpoints"), **options}
    inprocess.run(config, clients=3, folder=folder)
    return dict(Bundle.open(folder / "model.fpb"))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(a[key].tobytes() == b[key].tobytes() for key in a)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam"])
@pytest.mark.parametrize("codec", ["lossless", ""])
def test_a_run_that_goes_on_ends_like_one_that_was_not_stopped(strategy: str, codec: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "a", 5, strategy=strategy, codec=codec)
    run(tmp_path / "b", 2, strategy=strategy, codec=codec)
    assert same(run(tmp_path / "b", 5, strategy=strategy, codec=codec, resume=True), whole)
    for key in ("round", "accuracy", "loss"):
        assert [r[key] for r in read_rounds(tmp_path / "b")] == [r[key] for r in read_rounds(tmp_path / "a")]
    seconds = [r["seconds"] for r in read_rounds(tmp_path / "b")]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("codec", ["safe", "small"])
def test_a_lossy_run_that_goes_on_is_as_good(codec: str, tmp_path: Path) -> None:
    options = {"codec": codec, "dataset": "breast-cancer", "dirichlet-alpha": 5.0}
    run(tmp_path / "a", 10, **options)
    run(tmp_path / "b", 5, **options)
    run(tmp_path / "b", 10, resume=True, **options)
    ends = [np.mean([row["accuracy"] for row in read_rounds(tmp_path / name)][-3:]) for name in "ab"]
    assert abs(ends[0] - ends[1]) < 0.02  # two of 114 rows


def test_rounds_without_a_checkpoint_are_run_again(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", 4)
    run(tmp_path / "b", 3)
    (tmp_path / "b" / "checkpoints" / "rounds" / "000003.json").unlink()
    (tmp_path / "b" / "checkpoints" / "rounds" / "000002.json").write_bytes(b"{")
    assert same(run(tmp_path / "b", 4, resume=True), whole)
    assert [row["round"] for row in read_rounds(tmp_path / "b")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("left", [0, -1])
def test_a_run_that_was_stopped_in_its_first_round(left: int, tmp_path: Path) -> None:
    """Round 0 was kept and 1 was not, or not even round 0; the results of both were written before."""
    whole = run(tmp_path / "a", 2)
    run(tmp_path / "b", 1)
    for manifest in (tmp_path / "b" / "checkpoints" / "rounds").glob("*.json"):
        if int(manifest.stem) > left:
            manifest.unlink()
    (tmp_path / "b" / "checkpoints" / "LATEST").unlink()
    assert same(run(tmp_path / "b", 2, resume=True), whole)
    assert [row["round"] for row in read_rounds(tmp_path / "b")] == [0, 1, 2]


def test_a_defined_first_model(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", 3, first="budget(bits=8)")
    run(tmp_path / "b", 1, first="budget(bits=8)")
    assert same(run(tmp_path / "b", 3, first="budget(bits=8)", resume=True), whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": True, "checkpoints": ""}, "expected checkpoints beside resume=true"),
        ({"checkpoints": "here"}, "expected checkpoints to be an absolute path, found 'here'"),
    ],
)
def test_what_a_configuration_cannot_say(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, 1, **options)


def test_a_run_does_not_overwrite_another(tmp_path: Path) -> None:
    run(tmp_path, 1)
    with pytest.raises(ConfigError, match="has rounds of another run"):
        run(tmp_path, 1)


def test_a_place_without_the_rounds_of_the_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 2)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"has rounds up to 2, found nothing in .*elsewhere"):
        run(tmp_path, 3, checkpoints=str(tmp_path / "elsewhere"), resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_that_was_stopped_before_its_first_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "b", 1)
    metrics = tmp_path / "b" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    run(tmp_path / "b", 1, checkpoints=str(tmp_path / "nothing"), resume=True)
    assert [row["round"] for row in read_rounds(tmp_path / "b")] == [0, 1]
