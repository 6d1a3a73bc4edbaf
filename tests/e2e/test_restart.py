"""A SuperNode is killed in the middle of a run, and comes back as another, with nothing."""

import shutil
import time
from pathlib import Path

from flowerpress.apps.report import summary_of
from flowerpress.apps.results import read_rounds
from flowerpress.deployment.local import Federation

ROOT = Path(__file__).parents[2]
ROUNDS, SECONDS = 5, 420  # Flower takes a minute to give up a node


def rounds_of(folder: Path) -> int:
    return len(read_rounds(folder)) if (folder / "metrics.jsonl").is_file() else 0


def test_a_node_is_killed_and_another_takes_its_place(tmp_path: Path) -> None:
    results, replaced = tmp_path / "results", False
    with Federation(2, folder=tmp_path / "federation") as federation:
        superlink, codec = federation.superlink, "intdelta | zstd"
        run_id = superlink.submit(ROOT, f"codec='{codec}' num-server-rounds={ROUNDS} output-dir='{results}'")
        end = time.monotonic() + SECONDS
        while not superlink.status(run_id)[0].startswith("finished") and time.monotonic() < end:
            if not replaced and rounds_of(results) > 2:
                federation.stop(1, kill=True)
                shutil.rmtree(federation.folder / "supernode-1")
                federation.start(1)
                replaced = True
            time.sleep(1)
        status = superlink.status(run_id)
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
