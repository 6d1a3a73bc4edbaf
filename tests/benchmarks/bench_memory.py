"""Peak anonymous memory of the server app, 40 MB model: many clients against four, ours beside stock Flower.

First on a grid whose clients live in another process, where every reply is ready when it is asked for; then on a
loopback SuperLink. Every server app runs in a fresh process, and its peak is of the whole process, Python included.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeAlias

from flowerpress.deployment.local import Federation
from tests.benchmarks.apart import ApartGrid
from tests.benchmarks.app.noisy.server import measure
from tests.benchmarks.noisy import CONFIGURATIONS, STOCK, scratch, served, settings
from tests.benchmarks.timing import claim, console, table

MEGABYTES, ROUNDS = 40, 2  # from the second round on, Flower holds the replies of the round before as well
BAR = 1.2
Measured: TypeAlias = dict[str, dict[str, Any]]  # by configuration


def main() -> None:
    compare("in-process grid", in_process, few=4, many=64)
    compare("loopback SuperLink", loopback, few=4, many=16)


def compare(where: str, measure_all: Callable[[int], Measured], *, few: int, many: int) -> None:
    small, large = measure_all(few), measure_all(many)
    columns = ("floor", f"{few} clients", f"{many} clients", "ratio", "a client more", "s/round")
    shown = table(f"{where}, {MEGABYTES} MB model: peak RssAnon of the server, MB", "", *columns)
    ratios = {}
    for label in CONFIGURATIONS:
        low, high = small[label]["peak"] / 1e6, large[label]["peak"] / 1e6
        ratios[label] = high / low
        floor, seconds = large[label]["floor"] / 1e6, large[label]["rounds"][-1]["seconds"]
        memory = (f"{value:,.0f}" for value in (floor, low, high))
        shown.add_row(label, *memory, f"{high / low:.2f}", f"{(high - low) / (many - few):.1f}", f"{seconds:.1f}")
    console.print(shown)
    for label, ratio in ratios.items():
        if label != STOCK:
            claim(f"{where}: memory, {many} against {few} clients, {label}", ratio, most=BAR)


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
    with scratch() as folder, Federation(nodes, folder=folder) as federation:
        return {
            label: served(federation.superlink, settings(label, nodes=nodes, rounds=ROUNDS, megabytes=MEGABYTES))
            for label in CONFIGURATIONS
        }


if __name__ == "__main__":
    main()
