"""A SuperNode is killed in the middle of a run, and comes back as another, with nothing."""

import time
from pathlib import Path

from flowerpress.apps.report import summary_of
from flowerpress.apps.results import read_rounds
from flowerpress.apps.superlink import SuperLink
from tests.e2e.deployment import start_node, stop, wait

ROOT = Path(__file__).parents[2]
ROUNDS, SECONDS = 5, 420  # Flower takes a minute to give up a node


def rounds_of(folder: Path) -> int:
    return len(read_rounds(folder)) if (folder / "metrics.jsonl").is_file() else 0


def test_a_node_is_killed_and_another_takes_its_place(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with SuperLink(simulation=False, log=tmp_path / "superlink.log") as superlink:

        def started(partition: int, name: str) -> tuple:
            return start_node(superlink, superlink.address, tmp_path / name, partition, 2)

        nodes = [started(0, "first"), started(1, "second")]
        try:
            wait(superlink, 2)
            codec = "intdelta | zstd"
            run_id = superlink.submit(ROOT, f"codec='{codec}' num-server-rounds={ROUNDS} output-dir='{results}'")
            end = time.monotonic() + SECONDS
            while not superlink.status(run_id)[0].startswith("finished") and time.monotonic() < end:
                if len(nodes) == 2 and rounds_of(results) > 2:
                    stop(nodes[1:], kill=True)
                    nodes.append(started(1, "third"))
                time.sleep(1)
            status = superlink.status(run_id)
        finally:
            stop([node for node in nodes if node[0].poll() is None])
    assert status[0] == "finished:completed", status
    assert summary_of(results)["failures"] <= 1
    trained = [row["exchanges"][0] for row in read_rounds(results)[1:]]
    seen = [{node["node"] for node in exchange["nodes"] if not node["error"]} for exchange in trained]
    assert len(seen[0] | seen[-1]) == 3
    assert len(seen[-1]) == 2
    (new,) = seen[-1] - seen[0]
    first = next(i for i, exchange in enumerate(trained) if new in seen[i])
    down = [{node["node"]: node["down-bytes"] for node in exchange["nodes"]} for exchange in trained]
    (old,) = seen[0] & seen[-1]
    assert down[first][new] > 1.1 * down[first][old]  # whole, while the other got a difference
