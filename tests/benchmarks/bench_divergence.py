"""Does a recommended pipeline ever break a training that works without it? Small runs under all sorts of conditions.

Digits, breast cancer and wine; an MLP; Dirichlet 0.1 and 0.5; FedAvg and FedAdam; 1 and 5 local epochs; learning rates
of 0.3 and 3 times the usual one. With FedAdam what loses more than ``safe`` is for the uplink only, as
docs/federation.md says. A pipeline diverges where its loss is not finite, or its accuracy more than 10 points below
that of stock Flower on the same seed; of small test sets one row is one to three points.
"""

import itertools
import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from flowerpress.apps import inprocess
from flowerpress.apps.outcome import Outcome
from flowerpress.apps.runconfig import defaults
from flowerpress.codecs.recommended import RECOMMENDED

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, ROUNDS, RATE, MARGIN = 4, 20, 0.05, 0.10
CONDITIONS = {
    "dataset": ("digits", "breast-cancer", "wine"),
    "dirichlet-alpha": (0.1, 0.5),
    "strategy": ("FedAvg", "FedAdam"),
    "local-epochs": (1, 5),
    "learning-rate": (0.3 * RATE, 3 * RATE),
}
CODECS = ("", *RECOMMENDED)  # stock Flower is the first


def main() -> None:
    """Run all conditions with all codecs; print what diverged, and how far accuracies lie apart."""
    conditions = [dict(zip(CONDITIONS, values, strict=True)) for values in itertools.product(*CONDITIONS.values())]
    jobs = [{**condition, "codec": codec} for condition in conditions for codec in CODECS]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        outcomes = list(pool.map(outcome_of, jobs))
    gaps: dict[str, list[float]] = {codec: [] for codec in RECOMMENDED}
    bad = 0
    for i, condition in enumerate(conditions):
        stock, *others = outcomes[i * len(CODECS) : (i + 1) * len(CODECS)]
        for codec, outcome in zip(RECOMMENDED, others, strict=True):
            gaps[codec].append(outcome.accuracy[-1] - stock.accuracy[-1])
            if not math.isfinite(outcome.loss[-1]) or gaps[codec][-1] < -MARGIN:
                bad += 1
                words = f"accuracy {outcome.accuracy[-1]:.1%}, stock {stock.accuracy[-1]:.1%}"
                print(f"MISS {codec}: loss {outcome.loss[-1]:.3g}, {words}, {condition}")
    for codec, found in gaps.items():
        mean = 100 * sum(found) / len(found)
        print(
            f"{codec:8} {len(found)} conditions, gap {mean:+.2f} points in the mean, {100 * min(found):+.2f} at worst"
        )
    print(f"{'MISS' if bad else 'ok  '} {bad} of {len(conditions) * len(RECOMMENDED)} runs diverged")


def outcome_of(job: dict[str, Any]) -> Outcome:
    """Make a run."""
    down = "safe" if job["strategy"] == "FedAdam" and job["codec"] in ("partial", "small", "tiny") else ""
    config = {**defaults(ROOT), "model": "mlp-small", "num-server-rounds": ROUNDS, "codec-down": down, **job}
    print(job, file=sys.stderr)
    return inprocess.run(config, clients=CLIENTS)


if __name__ == "__main__":
    main()
