"""Bytes on the wire, counted outside Flower, beside those that runs report: stock, and pressed, of a 10 MB model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowerpress.apps.results import read_rounds
from flowerpress.apps.runconfig import as_text
from flowerpress.deployment.local import Federation
from tests.e2e.conftest import Outcome
from tests.e2e.deployment import run
from tests.e2e.proxy import Link, links

ROOT, NODES = Path(__file__).parents[2], 2
FAST = 1e9  # bytes per second: the links only count
MODEL: dict[str, Any] = {"model": "mlp", "image-size": 32, "first": "whole", "num-server-rounds": 2}  # 2.35 M values


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, list[Link]]]:
    with (
        links(FAST, 0.0) as (made, through),
        Federation(NODES, folder=tmp_path_factory.mktemp("federation"), through=through) as running,
    ):
        yield running, made


def measured(linked: tuple[Federation, list[Link]], folder: Path, codec: str) -> tuple[int, float]:
    """Return the bytes that the links carried for a run, both ways, and those that it reports."""
    federation, made = linked
    before = sum(link.up.nbytes + link.down.nbytes for link in made)
    run(federation.superlink, ROOT, as_text({**MODEL, "codec": codec, "output-dir": str(folder)}), 600)
    carried = sum(link.up.nbytes + link.down.nbytes for link in made) - before
    return carried, sum(row["down-bytes"] + row["up-bytes"] for row in read_rounds(folder))


def test_the_wire_agrees_with_the_metrics(
    linked: tuple[Federation, list[Link]], tmp_path: Path, outcome: Outcome
) -> None:
    stock = measured(linked, tmp_path / "stock", "")
    assert stock[1] > NODES * 2 * 2 * 9.4e6
    pressed = measured(linked, tmp_path / "pressed", "lossless")
    ratios = [found / ours for found, ours in zip(stock, pressed, strict=True)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.03)
    assert ratios[0] > 1.2
    for found in (stock, pressed):
        assert found[1] < found[0] < 1.05 * found[1]  # polls, heartbeats, and the app's code come on top
    words = f"stock {stock[0]:,} bytes, lossless {pressed[0]:,}: {ratios[0]:.3f}x; by their metrics {ratios[1]:.3f}x"
    outcome(0, "bytes through a counting proxy", words)
