"""Peak anonymous memory of the server app, 40 MB model: many clients against four, ours beside stock Flower.

First on a grid whose clients live in another process, where every reply is ready when it is asked for; then on a
loopback SuperLink, which keeps messages in memory: 16 SuperNodes that send 40 MB at once are too much for its database
on two cores (`database is locked`, with stock Flower as well). Every server app runs in a fresh process, and its peak
is of the whole process, Python included.
"""

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flowerpress.deployment.local import Federation
from tests.benchmarks.apart import ApartGrid
from tests.benchmarks.app.noisy.server import measure
from tests.benchmarks.noisy import CONFIGURATIONS, STOCK, scratch, served, settings
from tests.benchmarks.timing import claim, console, table

MEGABYTES, ROUNDS = 40, 2  # from the second round on, Flower holds the replies of the round before as well
BAR = 1.2
PICTURE = Path(__file__).parent / "results" / "memory.png"
Measured: TypeAlias = dict[str, dict[str, Any]]  # by configuration


def main() -> None:
    found = {}
    for where, measured, numbers in (
        ("in-process grid", in_process, (4, 16, 64)),
        ("loopback SuperLink", loopback, (4, 16)),
    ):
        found[where] = {clients: measured(clients) for clients in numbers}
        compare(where, found[where])
    draw(found)


def compare(where: str, found: dict[int, Measured]) -> None:
    few, many = min(found), max(found)
    columns = ("floor", *(f"{clients} clients" for clients in found), "ratio", "a client more", "s/round")
    shown = table(f"{where}, {MEGABYTES} MB model: peak RssAnon of the server, MB", "", *columns)
    ratios = {}
    for label in CONFIGURATIONS:
        peaks = {clients: measured[label]["peak"] / 1e6 for clients, measured in found.items()}
        ratios[label] = peaks[many] / peaks[few]
        floor, seconds = found[many][label]["floor"] / 1e6, found[many][label]["rounds"][-1]["seconds"]
        memory = (f"{value:,.0f}" for value in (floor, *peaks.values()))
        more = (peaks[many] - peaks[few]) / (many - few)
        shown.add_row(label, *memory, f"{ratios[label]:.2f}", f"{more:.1f}", f"{seconds:.1f}")
    console.print(shown)
    for label, ratio in ratios.items():
        if label != STOCK:
            claim(f"{where}: memory, {many} against {few} clients, {label}", ratio, most=BAR)


def draw(found: dict[str, dict[int, Measured]]) -> None:
    """Draw memory against clients."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axis, (where, by_clients) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        for label in CONFIGURATIONS:
            peaks = [measured[label]["peak"] / 1e6 for measured in by_clients.values()]
            axis.plot(list(by_clients), peaks, marker="o", label=label)
        axis.set(title=where, xlabel="clients", ylabel=f"peak memory of the server, MB ({MEGABYTES} MB model)")
        axis.set(xscale="log", yscale="log", xticks=list(by_clients))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:,g}")
        axis.yaxis.set_minor_formatter("{x:,g}")
        axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize="small")
    figure.savefig(PICTURE, dpi=120)
    console.print(f"drawn in {PICTURE.name}")


def in_process(nodes: int) -> Measured:
    measured = {}
    for label in CONFIGURATIONS:
        with scratch(), ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            measured[label] = fresh.submit(alone, label, nodes).result()
    return measured


def alone(label: str, nodes: int) -> dict[str, Any]:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    return measure(ApartGrid(nodes), settings(label, nodes=nodes, rounds=ROUNDS, megabytes=MEGABYTES))


def loopback(nodes: int) -> Measured:
    with scratch() as folder, Federation(nodes, folder=folder, durable=False) as federation:
        return {
            label: served(federation.superlink, settings(label, nodes=nodes, rounds=ROUNDS, megabytes=MEGABYTES))
            for label in CONFIGURATIONS
        }


if __name__ == "__main__":
    main()
