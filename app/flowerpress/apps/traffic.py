"""Where a run's bytes went: what each client was sent and what it replied, round by round."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from flowerpress.apps.results import read_rounds

_WAYS = {"down-bytes": "sent to clients", "up-bytes": "replied"}


def traffic(rounds: list[dict[str, Any]]) -> dict[str, dict[str, dict[int, int]]]:
    """Return bytes by way (``down-bytes``, ``up-bytes``), client and round; clients by number, or node id without one.

    A reply that was lost or refused counts with the bytes that came.
    """
    found: dict[str, dict[str, dict[int, int]]] = {way: defaultdict(lambda: defaultdict(int)) for way in _WAYS}
    for row, node in _nodes(rounds):
        for way in _WAYS:
            found[way][_name(node)][row["round"]] += node[way]
    return found


def draw(folder: Path) -> Path | None:
    """Draw bytes per client and round, with a cross where a client failed; return the path of the PNG.

    None for a run whose messages nobody counted by client, such as one of stock Flower.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    rounds = read_rounds(folder)
    found = traffic(rounds)
    names = sorted(found["up-bytes"], key=lambda name: (len(name), name))
    numbers = sorted({row["round"] for row, _ in _nodes(rounds)})
    if not names:
        return None
    grids = {way: np.array([[found[way][name][n] for n in numbers] for name in names]) / 1e3 for way in _WAYS}
    positive = np.concatenate([grid[grid > 0] for grid in grids.values()])
    norm = LogNorm(positive.min(), max(positive.max(), 1.01 * positive.min())) if positive.size else None
    figure = Figure(figsize=(11, min(9, 2 + 0.25 * len(names))), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (way, title) in zip(axes, _WAYS.items(), strict=True):
        image = axis.imshow(np.ma.masked_equal(grids[way], 0), norm=norm, aspect="auto", interpolation="nearest")
        axis.set(title=title, xlabel="round")
        axis.set_xticks(*_ticks([str(n) for n in numbers]))
    axes[0].set_yticks(*_ticks(names))
    axes[0].set_ylabel("client")
    failed = {(_name(node), row["round"]) for row, node in _nodes(rounds) if node["error"]}
    places = [(numbers.index(n), names.index(name)) for name, n in failed]
    if places:
        axes[1].plot(*zip(*places, strict=True), "rx")
    scale = figure.colorbar(image, ax=list(axes), label="kB").ax.yaxis
    scale.set_major_formatter("{x:g}")
    scale.set_minor_formatter("{x:g}")
    path = folder / "traffic.png"
    figure.savefig(path, dpi=120)
    return path


def _nodes(rounds: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each round with each node's part in each of its exchanges."""
    return [(row, node) for row in rounds for exchange in row["exchanges"] for node in exchange["nodes"]]


def _name(node: dict[str, Any]) -> str:
    return str(node["partition"] if node["partition"] >= 0 else node["node"])


def _ticks(labels: list[str], most: int = 20) -> tuple[range, list[str]]:
    """Return where labels stand on an axis, and which: at most so many."""
    places = range(0, len(labels), -(-len(labels) // most))
    return places, [labels[i] for i in places]
