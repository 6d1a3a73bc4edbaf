"""A server with checkpoints that is killed at random moments: ``python -m tests.federation.killing FOLDER ROUNDS``."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import strategy

from flowerpress import PressGrid
from flowerpress.arrays.store import Checkpoints
from flowerpress.federation.resume import Checkpointed
from tests.federation.apps import client, initial
from tests.federation.local_grid import LocalGrid

ROOT = Path(__file__).resolve().parents[2]
NODES = (5, 9)
ENDLESS = 1_000_000


def serve(folder: Path, rounds: int) -> ArrayRecord:
    """Run FedAdam up to a round, behind those that are there; each round is noted before it is kept."""

    def note(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        with (folder / "begun").open("a") as file:
            file.write(f"{server_round}\n")
        return MetricRecord({"round": server_round})

    grid = PressGrid(LocalGrid({node: client() for node in NODES}), "lossless")
    kept = Checkpointed(strategy.FedAdam(fraction_evaluate=0), folder / "checkpoints", resume=True)
    return kept.start(grid=grid, initial_arrays=initial(), num_rounds=rounds, evaluate_fn=note).arrays


def kill(folder: Path, times: int, seed: int) -> int:
    """Kill a server so often, each time after it has made a round; check what is there; return its last round."""
    rng, checkpoints, last = random.Random(seed), Checkpoints(folder / "checkpoints"), -1
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.federation.killing", str(folder), str(ENDLESS)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'app'}:{ROOT}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 120
            while begun(folder) <= last + 1:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.2))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = checkpoints.load()
        assert found
        assert not found.passed_over  # no torn round
        assert found.round >= begun(folder) - 1  # at most the one that it was in is lost
        assert found.round > last
        last = found.round
    return last


def end_is_the_same(folder: Path, last: int) -> bool:
    """Tell whether a run that was killed ends, two rounds later, with the bits of one that was not."""
    (folder / "whole").mkdir()
    stopped, whole = serve(folder, last + 2), serve(folder / "whole", last + 2)
    return {k: x.numpy().tobytes() for k, x in stopped.items()} == {k: x.numpy().tobytes() for k, x in whole.items()}


def begun(folder: Path) -> int:
    """Return the last round that a server has noted."""
    path = folder / "begun"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return int(lines[-1]) if lines else -1


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
