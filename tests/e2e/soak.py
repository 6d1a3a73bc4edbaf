"""Half an hour of churn on a loopback SuperLink: SuperNodes leave, are killed, come back, and new ones come.

``python tests/e2e/soak.py [minutes]`` runs the app in `tests/e2e/faulty` with rounds without end, and then holds it to:

- no round that is stuck: none takes longer than giving up a killed node does, twice;
- memory that does not grow: a line through the server app's RssAnon over the second half of the time;
- the right model: what the last checkpoint has is, by bits, what stock Flower makes of the same replies.
"""

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Error, Message
from flwr.serverapp.strategy import FedAvg

from flowerpress.apps.runconfig import as_text
from flowerpress.arrays.store import Checkpoints
from flowerpress.deployment.local import Federation
from flowerpress.deployment.programs import descendants
from tests.benchmarks.timing import claim, console, table
from tests.e2e.faulty.faulty.client import app as client
from tests.e2e.faulty.faulty.model import initial
from tests.federation.local_grid import LocalGrid

APP, NODES, LEAST = Path(__file__).parent / "faulty", 6, 2
EVERY, STUCK, GROWTH = 20.0, 150.0, 0.5  # seconds between changes; of a round; MB a minute
Exchange = dict[str, Any]


def churn(federation: Federation, rng: random.Random) -> str:
    """Let a SuperNode go, with or without a word, or come."""
    here, away = list(federation.supernodes), [n for n in range(NODES) if n not in federation.supernodes]
    if away and (len(here) <= LEAST or rng.random() < 0.5):
        node = rng.choice(away)
        federation.start(node)
        return f"{node} comes"
    node, kill = rng.choice(here), rng.random() < 0.5
    federation.stop(node, kill=kill)
    return f"{node} {'is killed' if kill else 'leaves'}"


def server_memory() -> float:
    """Return RssAnon of the server app, in MB; 0 if it is not there."""
    for pid in descendants(os.getpid()):
        try:
            if b"serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()[0]) / 1e3
        except (OSError, IndexError):
            continue
    return 0.0


def soak(folder: Path, minutes: float) -> tuple[list[tuple[float, float]], list[float]]:
    """Run, with churn; return (seconds, MB) of the server app, and when each round ended."""
    log, rng, memory, ends = folder / "log.jsonl", random.Random(1), list[tuple[float, float]](), [0.0]
    values = {"log": str(log), "checkpoints": str(folder / "checkpoints"), "rounds": 1_000_000, "faults": ""}
    with Federation(NODES, folder=folder / "federation") as federation:
        run_id = federation.superlink.submit(APP, as_text(values))
        started = changed = time.monotonic()
        while (now := time.monotonic()) - started < 60 * minutes:
            done = len(exchanges(log))
            ends += [now - started] * (done - len(ends) + 1)
            if now - changed > EVERY and done > 1:
                changed = now
                console.print(f"{now - started:5.0f} s, round {done}: {churn(federation, rng)}")
                memory.append((now - started, server_memory()))
            time.sleep(0.5)
        federation.superlink.flwr("stop", str(run_id), federation.superlink.name)
    return memory, ends


def exchanges(log: Path) -> list[Exchange]:
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.is_file() else []


def replayed(rounds: list[Exchange]) -> dict[str, np.ndarray]:
    """Return the model of stock Flower when the same clients reply in each round."""
    replied = [{node["partition"] for node in one["nodes"] if not node["error"]} for one in rounds]
    count = dict.fromkeys(range(NODES), 0)

    def lose(node: int, reply: Message) -> Message:
        count[node] += 1
        return reply if node in replied[count[node] - 1] else Message(Error(2, "away"), reply_to=reply)

    grid = LocalGrid(dict.fromkeys(range(NODES), client), damage=lose, run_config={"faults": ""})
    result = FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=initial(), num_rounds=len(rounds))
    return {key: array.numpy() for key, array in result.arrays.items()}


def judge(folder: Path, memory: list[tuple[float, float]], ends: list[float]) -> None:
    rounds, saved = exchanges(folder / "log.jsonl"), Checkpoints(folder / "checkpoints").load()
    assert saved is not None
    errors = sum(bool(node["error"]) for one in rounds for node in one["nodes"])
    seconds, used = np.array(memory[len(memory) // 2 :]).T
    shown = table("soak", "rounds", "replies lost", "median s", "longest s", "MB at first", "at last")
    shown.add_row(
        str(len(rounds)),
        str(errors),
        f"{np.median(np.diff(ends)):.1f}",
        f"{max(np.diff(ends)):.0f}",
        f"{memory[0][1]:.0f}",
        f"{memory[-1][1]:.0f}",
    )
    console.print(shown)
    claim("the longest round, seconds", float(max(np.diff(ends))), most=STUCK)
    claim("growth of the server app, MB a minute", 60 * float(np.polyfit(seconds, used, 1)[0]), most=GROWTH)
    right = replayed(rounds[: saved.round])
    same = [np.asarray(saved.model[key]).tobytes() == right[key].tobytes() for key in right if key != "count"]
    claim(f"arrays of round {saved.round} that are stock Flower's, by bits", sum(same), least=len(same))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        judge(folder, *soak(folder, float(sys.argv[1]) if len(sys.argv) > 1 else 30.0))


if __name__ == "__main__":
    main()
