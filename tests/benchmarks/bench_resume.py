"""A run that is stopped half-way and goes on, beside one that nobody stopped: accuracy on the same seeds.

The clients of the run that goes on are new ones, as after the end of an engine: what they had kept of their last
updates is lost. With a lossless pipeline both runs have to end with the same bits.
"""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from flowerpress import Bundle
from flowerpress.apps import inprocess
from flowerpress.apps.runconfig import defaults
from tests.benchmarks.timing import claim, console

ROOT = Path(__file__).resolve().parents[2]
CODECS = ("lossless", "safe", "small")
CLIENTS, ROUNDS, SEEDS = 10, 20, range(101, 105)


def main() -> None:
    """Make all runs; print both accuracies, and whether they lie close enough."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for codec in CODECS:
            found = list(pool.map(partial(ends, codec), SEEDS))
            whole, resumed, same = (mean(values) for values in zip(*found, strict=True))
            shown = f"{codec}: {whole:.2%}, stopped after round {ROUNDS // 2} {resumed:.2%}"
            console.print(f"\n{shown}; equal bits in {same:.0%} of {len(SEEDS)} runs", highlight=False)
            claim("points between them, in the mean", 100 * abs(whole - resumed), most=0.5)
            if codec == "lossless":
                claim("share of runs with equal bits", same, least=1)


def ends(codec: str, seed: int) -> tuple[float, float, bool]:
    """Return the accuracy of a whole run, of one that was stopped, and whether their models are equal by bits."""
    config = {**defaults(ROOT), "codec": codec, "seed": seed, "learning-rate": 0.1, "num-server-rounds": ROUNDS}
    with tempfile.TemporaryDirectory() as folder:
        whole = run(config, Path(folder, "a"))
        run({**config, "num-server-rounds": ROUNDS // 2}, Path(folder, "b"))
        resumed = run({**config, "resume": True}, Path(folder, "b"))
        a, b = (Bundle.open(Path(folder, name, "model.fpb")) for name in "ab")
        return whole, resumed, all(a[key].tobytes() == b[key].tobytes() for key in a)


def run(config: dict[str, Any], folder: Path) -> float:
    """Make a run that keeps its rounds, and return its accuracy at the end."""
    kept = {**config, "checkpoints": str(folder / "checkpoints")}
    return inprocess.run(kept, clients=CLIENTS, folder=folder).accuracy[-1]


if __name__ == "__main__":
    main()
