"""What a run leaves behind."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flowerpress import Bundle, ChunkError, ConfigError
from flowerpress.apps import report
from flowerpress.apps.config import Config
from flowerpress.apps.results import Results, read_rounds
from flowerpress.federation.metrics import Exchange, NodeMetrics
from flowerpress.federation.protocol import Mark
from tests.apps.test_config import DEFAULTS


def config(folder: Path | str) -> Config:
    return Config.read({**DEFAULTS, "output-dir": str(folder)})


def exchange(error: str = "") -> Exchange:
    node = NodeMetrics(
        7,
        Mark(0, raw_bytes=4000, encode_seconds=0.5, decode_seconds=0.25),
        down_bytes=1000,
        down_raw_bytes=4000,
        up_bytes=0 if error else 500,
        error=error,
    )
    return Exchange("train", 1, [node], encode_seconds=0.5)


def test_a_run_is_written_round_by_round(tmp_path: Path) -> None:
    folder, exchanges = tmp_path / "run", list[Exchange]()
    results = Results(config(folder), exchanges, Counter())
    results.add_round(0, loss=2.3, accuracy=0.1)
    exchanges.append(exchange())
    results.add_round(1, loss=1.5, accuracy=0.7)
    model = ArrayRecord()
    model["w"] = Array(np.ones(5, np.float32))
    results.finish(model)
    rows = read_rounds(folder)
    assert [row["accuracy"] for row in rows] == [0.1, 0.7]
    assert [row["down-bytes"] for row in rows] == [0, 1000]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["accuracy"], summary["up-bytes"], summary["encode-seconds"]) == (0.7, 500, 1.0)
    assert Bundle.open(folder / "model.fpb")["w"].sum() == 5
    assert report.line(rows[1]) == (
        "round 1: accuracy 70.00%, loss 1.5000, sent 0.00 MB for 0.01 MB (down 4.00x, up 8.00x)"
    )
    assert report.plot(folder).read_bytes().startswith(b"\x89PNG")
    assert report.table(folder).row_count == 3


def test_stock_flower_has_no_exchanges_but_its_messages_are_counted(tmp_path: Path) -> None:
    counts = Counter[str]()
    results = Results(config(tmp_path), [], counts)
    for server_round in (1, 2):
        counts.update({"up-bytes": 1300, "up-raw-bytes": 1000})
        results.add_round(server_round, loss=1.0, accuracy=0.5)
    for row in read_rounds(tmp_path):
        assert (row["up-bytes"], row["up-raw-bytes"]) == (1300, 1000)
        assert (row["down-bytes"], row["down-raw-bytes"], row["exchanges"]) == (0, 0, [])


def test_a_half_written_line_is_left_for_later(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n{"rou')
    assert read_rounds(tmp_path) == [{"round": 0}]


def test_failures_are_counted(tmp_path: Path) -> None:
    results = Results(config(tmp_path), [exchange("out of memory"), exchange()], Counter())
    results.add_round(1, loss=1.0, accuracy=0.1)
    (row,) = read_rounds(tmp_path)
    assert row["failures"] == 1
    assert "1 failures: client 0, node 7: out of memory" in report.line(row)


def test_figures_that_are_not_finite_are_null(tmp_path: Path) -> None:
    results = Results(config(tmp_path), [exchange()], Counter())
    results.add_round(0, loss=math.inf, accuracy=0.5)
    results.add_round(1, loss=math.nan, accuracy=math.nan)
    results.finish()
    for name in ("metrics.jsonl", "summary.json"):
        text = (tmp_path / name).read_text()
        assert '"loss": null' in text
        assert "NaN" not in text
        assert "Infinity" not in text
    assert all(math.isnan(row["loss"]) for row in read_rounds(tmp_path))
    assert report.line(read_rounds(tmp_path)[1]).startswith("round 1: accuracy nan%, loss nan")
    assert report.plot(tmp_path).is_file()
    assert report.table(tmp_path).row_count == 3


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("summary.json", b'{"task": "cl'),
        ("summary.json", b"null"),
        ("metrics.jsonl", b'{"round": 0}\n\xff\x00garbage\n'),
        ("metrics.jsonl", b""),
    ],
)
def test_damaged_files(name: str, damage: bytes, tmp_path: Path) -> None:
    results = Results(config(tmp_path), [], Counter())
    results.add_round(0, loss=1.0, accuracy=0.5)
    results.finish()
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(ChunkError, match=f"{name}"):
        report.plot(tmp_path)


def test_folders_that_are_none(tmp_path: Path) -> None:
    for read in (read_rounds, report.summary_of, report.plot, report.table):
        with pytest.raises(ConfigError, match="expected the results of a"):
            read(tmp_path)
    with pytest.raises(ConfigError, match="absolute path"):
        Results(config("relative"), [], Counter())
