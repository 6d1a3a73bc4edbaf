"""The results of a run for a person: a table, and plots of accuracy and bytes."""

from pathlib import Path
from typing import Any

from rich.table import Table

from flowerpress.apps import traffic
from flowerpress.apps.results import read_rounds, with_nan
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.jsons import loads

_PLOTTED = {
    "accuracy": ("accuracy on held-out images (%)", 100.0),
    "loss": ("rate and weighted error of held-out features", 1.0),
}


def summary_of(folder: Path) -> dict[str, Any]:
    """Return a finished run's summary; ConfigError if there is none, ChunkError if it is damaged."""
    path = folder / "summary.json"
    if not path.is_file():
        raise ConfigError(f"expected the results of a finished run in {folder}, found no summary.json")
    return with_nan(loads(path))


def table(folder: Path) -> Table:
    """Return a table with a row per round and the sums; it fits into 80 columns."""
    summary = summary_of(folder)
    result = Table(title=f"{summary['codec']}, {summary['strategy']}, {summary['seconds']:.0f} s in all")
    for name in ("round", outcome(summary)[0], "raw MB", "sent MB", "down", "up", "encode s", "decode s"):
        result.add_column(name, justify="right")
    for row in read_rounds(folder):
        result.add_row(str(row["round"]), *_cells(row))
    result.add_section()
    result.add_row("all", *_cells(summary), style="bold")
    return result


def line(row: dict[str, Any]) -> str:
    """Return a round as one line."""
    result, raw, sent, down, up, *_ = _cells(row)
    failures = f", {row['failures']} failures: {reasons(row)}" if row["failures"] else ""
    traffic = f", sent {sent} MB for {raw} MB (down {down}, up {up})" if row["down-bytes"] else ""
    name = outcome(row)[0]
    figures = f"latents of {result} images" if name == "images" else f"{name} {result}, loss {row['loss']:.4f}"
    return f"round {row['round']}: {figures}{traffic}{failures}"


def pictures(folder: Path) -> list[Path]:
    """Draw all pictures that there are of a run; return the paths of the PNGs."""
    drawn = plot(folder), traffic.draw(folder)
    return [path for path in drawn if path]


def plot(folder: Path) -> Path:
    """Draw accuracy against rounds and against bytes sent so far, or what was gathered; return the path of the PNG."""
    from matplotlib.figure import Figure

    from flowerpress.apps import picture

    if picture.is_for(folder):
        return picture.draw(folder)
    rounds = read_rounds(folder)
    if not rounds:
        raise ChunkError(f"expected the rounds of a run in {folder}, found an empty metrics.jsonl; run it again")
    name = "accuracy" if "accuracy" in rounds[-1] else "loss"
    title, unit = _PLOTTED[name]
    found = [unit * row[name] for row in rounds]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot([row["round"] for row in rounds], found, marker="o", color="C0")
    left.set(xlabel="round", ylabel=title)
    for label, kind, style in (("as sent", "", "-"), ("uncompressed", "raw-", "--")):
        sent = _running([row[f"down-{kind}bytes"] + row[f"up-{kind}bytes"] for row in rounds])
        right.plot([n / 1e6 for n in sent], found, style, marker="o", label=label)
    right.set(xlabel="MB of arrays exchanged")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.suptitle(f"{summary_of(folder)['codec']}, {summary_of(folder)['strategy']}")
    path = folder / "plot.png"
    figure.savefig(path, dpi=120)
    return path


def reasons(row: dict[str, Any]) -> str:
    """Return which clients failed in a round, and why."""
    nodes = [node for exchange in row["exchanges"] for node in exchange["nodes"] if node["error"]]
    return "; ".join(f"client {node['partition']}, node {node['node']}: {node['error']}" for node in nodes)


def outcome(row: dict[str, Any]) -> tuple[str, str]:
    """Return the name and the text of what a round, or a run, came to."""
    if "images" in row:
        return "images", f"{row['images']:,}/{row['of']:,}"
    return ("bits/value", f"{row['rate']:.4f}") if "rate" in row else ("accuracy", f"{row['accuracy']:.2%}")


def _running(values: list[int]) -> list[int]:
    return [sum(values[: i + 1]) for i in range(len(values))]


def _cells(row: dict[str, Any]) -> list[str]:
    down, down_raw, up, up_raw = (row[n] for n in ("down-bytes", "down-raw-bytes", "up-bytes", "up-raw-bytes"))
    return [
        outcome(row)[1],
        f"{(down_raw + up_raw) / 1e6:.2f}",
        f"{(down + up) / 1e6:.2f}",
        f"{down_raw / down:.2f}x" if down else "-",
        f"{up_raw / up:.2f}x" if up else "-",
        f"{row['encode-seconds']:.2f}",
        f"{row['decode-seconds']:.2f}",
    ]
