"""Bytes by client and round."""

import json
from pathlib import Path
from typing import Any

from flowerpress.apps.traffic import draw, traffic


def row(number: int, *nodes: tuple[int, int, int, str]) -> dict[str, Any]:
    parts = [
        {"node": 1000 + i, "partition": partition, "down-bytes": down, "up-bytes": up, "error": error}
        for i, (partition, down, up, error) in enumerate(nodes)
    ]
    return {"round": number, "exchanges": [{"nodes": parts[:1]}, {"nodes": parts[1:]}] if parts else []}


ROUNDS = [row(0), row(1, (0, 100, 50, ""), (1, 100, 60, ""), (0, 7, 1, "")), row(2, (-1, 30, 0, "lost"))]


def test_bytes_are_added_up_by_client_and_round() -> None:
    assert traffic(ROUNDS) == {
        "down-bytes": {"0": {1: 107}, "1": {1: 100}, "1000": {2: 30}},
        "up-bytes": {"0": {1: 51}, "1": {1: 60}, "1000": {2: 0}},
    }


def test_a_picture_of_them(tmp_path: Path) -> None:
    def written(rounds: list[dict[str, Any]]) -> Path:
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rounds))
        return tmp_path

    path = draw(written(ROUNDS))
    assert path == tmp_path / "traffic.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert draw(written([row(1, *((client, 10, 10, "") for client in range(300)))]))
    assert draw(written([row(1, (0, 0, 0, "lost"))]))
    assert draw(written([row(0)])) is None
