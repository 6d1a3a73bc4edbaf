"""Whole training runs: accuracy and bytes of ours, of stock Flower, and of the methods of others, on the same seeds.

Bytes are those of every deflated Flower object, both ways, names and ids included; the ratio is float32 arrays over
that. Accuracy is that of the last round, and the gap is to stock Flower on the same seed. Parameters were chosen with
seeds 1 to 3; the seeds here were not looked at before.

    bench_federation.py [A|B|C|D …]     all tasks by default; runs that were made before are read from .bench-data

Delete ``.bench-data/federation`` after a change of anything that a run depends on.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

from flowerpress.apps import contrast, inprocess
from flowerpress.apps.compare import Comparison, simulated
from flowerpress.apps.outcome import Outcome
from flowerpress.apps.runconfig import defaults

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".bench-data" / "federation"
RESULTS = Path(__file__).parent / "results"
SEEDS = range(101, 111)
FEW = range(101, 104)  # for what has no bar: our other pipelines, and the methods of others
STOCK, DEFINED = "stock Flower, float32", ", first model at 4 bits"
TOP_K = "*running_* = intdelta | zstd; * = delta | sparse(keep=0.01) | nonzero"  # without exact statistics 30% on A
FOUR_BITS = "budget(bits=4)"
PLAIN = {"first": "whole", "error-feedback": False}
CONTENDERS: dict[str, dict[str, Any]] = {
    STOCK: {"codec": ""},
    "lossless": {"codec": "lossless"},
    "safe": {"codec": "safe"},
    "partial": {"codec": "partial"},
    f"partial{DEFINED}": {"codec": "partial", "first": FOUR_BITS},
    "small": {"codec": "small"},
    f"small{DEFINED}": {"codec": "small", "first": FOUR_BITS},
    "tiny": {"codec": "tiny"},
    "half precision": {"codec": "cast | raw", **PLAIN},
    "8-bit blocks (as NVFLARE)": {"codec": "quantize(bits=8, block=4096) | bitpack", **PLAIN},
    "4-bit blocks (as NVFLARE)": {"codec": "quantize(bits=4, block=64) | bitpack", **PLAIN},
    "bound 1e-2 (as FedSZ)": {"codec": "quantize(relative=0.01) | entropy", **PLAIN},
    "top-k 1% and feedback (as DGC)": {"codec": TOP_K, "first": "whole"},
}
EXTRACTION = (
    *("task", "encoder", "encoder-model", "images", "image-partition", "latents", "reply-bytes", "latent-codec"),
    *("codec-model", "distortion-weight", "head-weight"),
)
COLUMNS = ("pipeline", "accuracy %", "gap in points (95%)", "MB down", "MB up", "ratio", "coding s")
OTHERS = tuple(name for name in CONTENDERS if name != STOCK and not name.endswith(DEFINED))


@dataclass(frozen=True)
class Task:
    """A data set, a model and who takes part; bars are the least ratios of our pipelines."""

    title: str
    clients: int
    config: Mapping[str, Any]
    bars: Mapping[str, float]
    seeds: range = SEEDS
    few: range = FEW

    @property
    def runs(self) -> Iterator[tuple[str, range]]:
        """Return who runs, on which seeds."""
        yield from ((contender, self.seeds) for contender in (STOCK, *self.bars))
        yield from ((contender, self.few) for contender in OTHERS if contender not in self.bars)


TASKS = {
    "A": Task(
        "digits, CNN of 0.2 M parameters, 10 clients, all take part, 40 rounds",
        10,
        {"model": "cnn", "num-server-rounds": 40, "learning-rate": 0.1},
        {"small": 300, f"small{DEFINED}": 200},
    ),
    "B": Task(
        "digits, MLP of 1.3 M parameters, 10 clients, all take part, 30 rounds",
        10,
        {"model": "mlp", "num-server-rounds": 30, "learning-rate": 0.1},
        {"small": 250, f"small{DEFINED}": 130},
    ),
    "C": Task(
        "digits, CNN of 0.2 M parameters, 100 clients, 10 of them a round, 100 rounds",
        100,
        {"model": "cnn", "num-server-rounds": 100, "learning-rate": 0.1, "fraction-train": 0.1},
        {"partial": 150, f"partial{DEFINED}": 75},
        few=range(101, 102),
    ),
    "D": Task(
        "digits at 32x32, ResNet-18 of 11 M parameters, 4 clients, all take part, 20 rounds",
        4,
        {"model": "resnet18", "image-size": 32, "num-server-rounds": 20, "learning-rate": 0.05},
        {"small": 200},
        seeds=range(101, 102),
        few=range(0),
    ),
}


def main() -> None:
    """Run what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("tasks", nargs="*", help=f"among {', '.join(TASKS)}; all by default")
    names = parser.parse_args().tasks or list(TASKS)
    if unknown := set(names) - set(TASKS):
        parser.error(f"expected tasks among {', '.join(TASKS)}, found {', '.join(unknown)}")
    jobs = [(name, contender, seed) for name in names for contender, seeds in TASKS[name].runs for seed in seeds]
    with ProcessPoolExecutor(max_workers=os.cpu_count(), max_tasks_per_child=1) as pool:
        for name, contender, seed in pool.map(outcome_of, jobs):
            print(f"{name}: seed {seed}, {contender}", file=sys.stderr)
    for name in names:
        report(name)
        through_the_engine(name)


def through_the_engine(name: str) -> None:
    """Make the first run of ours again in Flower's simulation engine: it has to take as many bytes."""
    task, folder = TASKS[name], KEPT / f"engine-{name}"
    config = config_of(name, next(iter(task.bars)), task.seeds[0])
    if not (folder / "summary.json").exists():
        simulated(ROOT, defaults(ROOT), task.clients)({**config, "torch-threads": 1}, folder)  # as in process
    there, here = Outcome.of(folder), kept(config, task.clients)
    sent, expected = (run.down[-1] + run.up[-1] for run in (there, here))
    print(
        f"\nin Flower's simulation engine, seed {task.seeds[0]}: accuracy {there.accuracy[-1]:.2%} (in process "
        f"{here.accuracy[-1]:.2%}), {sent:,} bytes ({expected:,}; ids and times differ in length)"
    )


def outcome_of(job: tuple[str, str, int]) -> tuple[str, str, int]:
    """Make a run, unless it was made before, and keep what came of it."""
    name, contender, seed = job
    config = config_of(name, contender, seed)
    if not (path := path_of(config, TASKS[name].clients)).exists():
        outcome = inprocess.run(config, clients=TASKS[name].clients)
        KEPT.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({"config": config, "outcome": asdict(outcome)}))
        unfinished.replace(path)
    return job


def config_of(name: str, contender: str, seed: int) -> dict[str, Any]:
    """Return the run configuration of one run."""
    return {**defaults(ROOT), **TASKS[name].config, **CONTENDERS[contender], "seed": seed}


def path_of(config: Mapping[str, Any], clients: int) -> Path:
    """Return where the outcome of a configuration is kept."""
    kept = {key: value for key, value in config.items() if key not in EXTRACTION}
    text = json.dumps([clients, kept], sort_keys=True)
    return KEPT / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def kept(config: Mapping[str, Any], clients: int) -> Outcome:
    """Return what came of a run that was made."""
    return Outcome(**json.loads(path_of(config, clients).read_text())["outcome"])


def report(name: str) -> None:
    """Print a task's table and whether its bars are met; draw its plot."""
    task = TASKS[name]
    outcomes = {
        contender: [kept(config_of(name, contender, seed), task.clients) for seed in seeds]
        for contender, seeds in task.runs
        if seeds
    }
    config = {**defaults(ROOT), **task.config}
    comparison = Comparison(list(outcomes), list(task.seeds), task.clients, "in process", config, outcomes)
    found = {row["pipeline"]: row for row in contrast.rows(comparison)}
    print(f"\n{name}: {task.title}; {len(task.seeds)} seeds, methods without a bar {len(task.few)}\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for contender, row in found.items():
        print(
            f"| {contender} | {100 * row['accuracy']:.2f} | {gap(row)} | {row['down-bytes'] / 1e6:.3g} "
            f"| {row['up-bytes'] / 1e6:.3g} | {row['ratio']:.3g}x | {row['coding-seconds']:.0f} |"
        )
    for contender, bar in task.bars.items():
        check(contender, found[contender], bar)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"federation-{name}.json").write_text(json.dumps(list(found.values()), indent=1) + "\n")
    contrast.plot(comparison, RESULTS).replace(RESULTS / f"federation-{name}.png")


def gap(row: Mapping[str, Any]) -> str:
    """Return the difference to stock Flower in points, with its interval."""
    interval = "" if row["low"] is None else f" ({100 * row['low']:+.2f} to {100 * row['high']:+.2f})"
    return f"{100 * row['difference']:+.2f}{interval}"


def check(contender: str, row: Mapping[str, Any], bar: float) -> None:
    """Print whether a contender takes few enough bytes, and, over several seeds, loses at most half a point."""
    several = row["low"] is not None
    met = row["ratio"] >= bar and (row["difference"] >= -0.005 or not several)
    points = f"{gap(row)} points ({'bar -0.5' if several else 'one seed'})"
    print(f"\n{'ok  ' if met else 'MISS'} {contender}: {row['ratio']:.0f}x (bar {bar:g}x), {points}")


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
