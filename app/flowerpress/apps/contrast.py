"""A comparison for a person: one table, and one plot of accuracy against bytes."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from flowerpress.apps.compare import Comparison
from flowerpress.apps.outcome import Outcome


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the figures of each contender, means over its seeds.

    ``accuracy-deviation`` is the standard deviation over seeds; ``difference`` the mean difference in accuracy to the
    first contender on the same seed, ``low`` to ``high`` its 95% interval (Student's t): None with a single seed.
    ``ratio`` is the raw bytes over all bytes that were sent.
    """
    found = []
    first = next(iter(comparison.outcomes.values()))
    for name, runs in comparison.outcomes.items():
        final = [run.accuracy[-1] for run in runs]
        differences = [mine - run.accuracy[-1] for mine, run in zip(final, first, strict=False)]
        margin = interval(differences)
        sent = sum(run.down[-1] + run.up[-1] for run in runs)
        difference = fmean(differences)
        found.append(
            {
                "pipeline": name,
                "seeds": len(runs),
                "accuracy": fmean(final),
                "accuracy-deviation": None if len(runs) < 2 else deviation(final),
                "difference": difference,
                "low": None if margin is None else difference - margin,
                "high": None if margin is None else difference + margin,
                "down-bytes": fmean(run.down[-1] for run in runs),
                "up-bytes": fmean(run.up[-1] for run in runs),
                "raw-bytes": fmean(run.raw[-1] for run in runs),
                "ratio": sum(run.raw[-1] for run in runs) / sent,
                "seconds": fmean(run.seconds for run in runs),
                "coding-seconds": fmean(run.coding_seconds for run in runs),
                "failures": sum(run.failures for run in runs),
            }
        )
    return found


def interval(values: Sequence[float]) -> float | None:
    """Return half the width of the 95% interval of a mean, after Student's t; None for a single value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    from scipy.stats import t

    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1)) * deviation(values) / math.sqrt(len(values))


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation; NaN if a value is not finite, as of a run that diverged.

    >>> deviation([1.0, 2.0, 3.0]), deviation([1.0, float("nan")])
    (1.0, nan)
    """
    return stdev(values) if all(map(math.isfinite, values)) else math.nan


def table(comparison: Comparison) -> Table:
    """Return a table with a row per contender; it fits into 80 columns, with long pipelines folded.

    Below the accuracy is its standard deviation over seeds, below the difference half its 95% interval.
    """
    found = rows(comparison)
    count = max(row["seeds"] for row in found)
    result = Table(title=f"{count} seed{'s' * (count > 1)}, {comparison.clients} clients, {comparison.engine}")
    result.add_column("pipeline", overflow="fold", ratio=1)
    for name in ("accuracy %", "difference", "MB down", "MB up", "ratio", "seconds"):
        result.add_column(name, justify="right")
    for i, row in enumerate(found):
        spread = row["accuracy-deviation"]
        result.add_row(
            Text(row["pipeline"]),
            f"{100 * row['accuracy']:.2f}" + (f"\n± {100 * spread:.2f}" if spread is not None else ""),
            _difference(row) if i else "-",
            f"{row['down-bytes'] / 1e6:.3g}",
            f"{row['up-bytes'] / 1e6:.3g}",
            f"{row['ratio']:.3g}x",
            f"{row['seconds']:.1f}",
        )
    return result


def line(name: str, seed: int, outcome: Outcome) -> str:
    """Return a run as one line."""
    sent = (outcome.down[-1] + outcome.up[-1]) / 1e6
    failures = f", {outcome.failures} failures" if outcome.failures else ""
    return f"seed {seed}, {name}: accuracy {outcome.accuracy[-1]:.2%}, {sent:.3g} MB, {outcome.seconds:.1f} s{failures}"


def plot(comparison: Comparison, folder: Path) -> Path:
    """Draw accuracy against the bytes sent so far, on a logarithmic scale; return the path of the PNG.

    A line is a contender's mean over its seeds round by round, a point its end, with the standard deviation.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, runs) in enumerate(comparison.outcomes.items()):
        accuracy = [100 * fmean(values) for values in zip(*(run.accuracy for run in runs), strict=True)]
        sent = [fmean(values) / 1e6 for values in zip(*(_sent(run) for run in runs), strict=True)]
        axes.plot(sent[1:], accuracy[1:], color=f"C{i}", alpha=0.4)
        spread = 100 * deviation([run.accuracy[-1] for run in runs]) if len(runs) > 1 else None
        marker, label = "os"[i // 10 % 2], _literal(name)  # there are ten colours
        axes.errorbar(sent[-1:], accuracy[-1:], yerr=spread, fmt=marker, capsize=3, color=f"C{i}", label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    axes.set(xlabel="MB sent, both ways, all of Flower's objects", ylabel="accuracy on held-out data (%)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    path = folder / "plot.png"
    figure.savefig(path, dpi=120)
    return path


def _sent(run: Outcome) -> list[int]:
    return [down + up for down, up in zip(run.down, run.up, strict=True)]


def _literal(name: str) -> str:
    """Return text that matplotlib neither reads as mathematics nor leaves out of a legend."""
    return " " * name.startswith("_") + name.replace("$", r"\$")


def _difference(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return f"{100 * row['difference']:+.2f}"
    return f"{100 * row['difference']:+.2f}\n± {50 * (row['high'] - row['low']):.2f}"
