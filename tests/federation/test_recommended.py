"""Recommended pipelines in a federation: by name on the wire, each way its own."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from flowerpress import Bundle, ConfigError, PressGrid
from flowerpress.apps.config import Config
from flowerpress.codecs import recommended
from flowerpress.codecs.recommended import RECOMMENDED, Recommended
from flowerpress.federation.protocol import Offer
from flowerpress.wire import KEY
from tests.apps.test_config import DEFAULTS
from tests.federation.apps import initial, trained
from tests.federation.faults import NODES, Watched, assert_in_step, assert_same_model, grid_of, stock


@pytest.fixture
def each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name ``small`` stands for one pipeline up and another down."""
    monkeypatch.setitem(recommended.RECOMMENDED, "small", Recommended("raw", "zstd(level=9)"))


def pipelines(record: ArrayRecord) -> set[str]:
    return {str(pipeline) for pipeline in Bundle(record[KEY].data).layout.pipelines}


@pytest.mark.parametrize("name", list(RECOMMENDED))
def test_runs(name: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path)
    grid, strategy = PressGrid(inner, name), Watched()
    result = strategy.run(grid)
    assert strategy.valid == {number: list(NODES) for number in (1, 2, 3)}
    assert_in_step(grid, inner)
    if name == "lossless":
        assert_same_model(result.arrays, stock())
    offers = [Offer.find(message.content) for message in inner.sent]
    assert {offer.codec for offer in offers if offer} == {name}


@pytest.mark.parametrize("name", list(RECOMMENDED))
def test_integers_are_exact(name: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path)
    grid = PressGrid(inner, name)
    for _ in range(2):
        content = RecordDict({"arrays": initial(), "config": ConfigRecord({"server-round": 1})})
        for partition, reply in enumerate(grid.send_and_receive([Message(content, n, "train") for n in NODES])):
            expected = trained([array.numpy() for array in initial().values()], partition)
            assert reply.content["arrays"]["count"].numpy() == expected[2]


@pytest.mark.parametrize(
    ("options", "sent", "answered"),
    [
        ({"codec": "small"}, "planes | zstd(level=9)", "raw"),
        ({"codec": "* = small"}, "planes | zstd(level=9)", "raw"),
        ({"codec": "small", "down": "planes | zstd(level=3)"}, "planes | zstd(level=3)", "raw"),
        ({"codec": "planes | zstd(level=3)", "down": "small"}, "planes | zstd(level=9)", "planes | zstd(level=3)"),
        (
            {"codec": "planes | zstd(level=3)", "down": "w = small; * = raw"},
            "planes | zstd(level=9)",
            "planes | zstd(level=3)",
        ),
    ],
)
@pytest.mark.usefixtures("each_way")
def test_each_way_has_its_own(options: dict[str, Any], sent: str, answered: str, tmp_path: Path) -> None:
    bundles: list[ArrayRecord] = []

    def keep(node: int, reply: Message) -> Message:
        bundles.append(reply.content["arrays"])  # type: ignore[arg-type]
        return reply

    inner = grid_of(tmp_path, damage=keep)
    content = RecordDict({"arrays": initial(), "config": ConfigRecord({"server-round": 1})})
    PressGrid(inner, **options).send_and_receive([Message(content, node, "train") for node in NODES])
    assert sent in pipelines(inner.sent[0].content["arrays"])  # type: ignore[arg-type]
    assert pipelines(bundles[0]) >= {answered}


def test_names_in_a_run_configuration() -> None:
    for name in RECOMMENDED:
        assert Config.read({**DEFAULTS, "codec": name, "codec-down": name, "first": "budget(bits=4)"}).codec == name
    for key in ("codec", "codec-down", "first"):
        with pytest.raises(ConfigError, match=f"or alone one of {', '.join(RECOMMENDED)}"):
            Config.read({**DEFAULTS, key: "smal"})


def test_a_grid_does_not_take_what_is_unknown(tmp_path: Path) -> None:
    for options in ({"codec": "smal"}, {"codec": "zstd", "down": "smal"}):
        with pytest.raises(ConfigError, match="no codec is called 'smal'"):
            PressGrid(grid_of(tmp_path), **options)  # type: ignore[arg-type]
