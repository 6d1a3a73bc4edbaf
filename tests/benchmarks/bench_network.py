"""What a message of 300 tensors costs on the network, ours against stock: objects, requests, seconds, bytes.

Two SuperNodes reach their SuperLink over links of their own (`tests.e2e.proxy`). A round's seconds are told from those
of a round with one value, which starts the same processes and waits for the same polls.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from flowerpress import PressGrid
from flowerpress.deployment.local import Federation
from flowerpress.deployment.superlink import SuperLink
from tests.benchmarks import rounds
from tests.benchmarks.timing import claim, console, table
from tests.e2e.deployment import run
from tests.e2e.proxy import Link, links
from tests.federation.local_grid import LocalGrid

NODES, DELAY = 2, 0.05
STOCK, LOSSLESS = "", "zstd"
LOSSY = "delta | budget(bits=0.1)"  # the better of this and low rank takes as many bytes, and 5 s of SVD at each end

PYPROJECT = """
[project]
name = "rounds"
version = "1.0.0"
[tool.flwr.app]
publisher = "flowerpress"
[tool.flwr.app.components]
serverapp = "rounds:server"
clientapp = "rounds:client"
[tool.flwr.app.config]
codec = ""      # "" runs stock Flower
empty = false   # a model of one value
output = ""     # a file for what was measured
"""


@dataclass(frozen=True)
class Race:
    """Ours against stock on one kind of link."""

    mbit: int
    codec: str
    least: float  # times faster


@dataclass(frozen=True)
class Run:
    """What one run took, of both nodes; links and ``flwr ls`` count the warming round, too, as ``exchanges`` do.

    ``flwr ls`` counts the objects that the Fleet API took in or gave out, and its calls that push and pull messages;
    not the envelopes and HTTP heads of objects, nor polls, heartbeats and the app. A reply's object that the SuperLink
    has already is neither sent nor counted.
    """

    seconds: list[float]
    exchanges: list[dict[str, Any]]
    requests: Counter[str]
    carried: dict[str, int]  # up and down, by the links
    listed: dict[str, int]  # the same, by flwr ls

    @property
    def pressed(self) -> dict[str, int]:
        """Bytes up and down that PressGrid reports."""
        return {way: sum(exchange[f"{way}-bytes"] for exchange in self.exchanges) for way in ("up", "down")}


Runs = Mapping[tuple[str, bool], Run]  # by codec, and whether the model was empty

RACES = (Race(100, LOSSLESS, 5.0), Race(10, LOSSY, 10.0))
MESSAGES = NODES * (rounds.ROUNDS + 1)  # in each direction, in each run


# ---- measuring ----


def raced(race: Race, folder: Path) -> Runs:
    """Return the four runs of a race, in one federation."""
    with (
        links(race.mbit * 1e6 / 8, DELAY) as (made, through),
        Federation(NODES, folder=folder / "nodes", through=through) as f,
    ):
        return {
            (codec, empty): measured(f.superlink, made, folder, codec, empty=empty)
            for codec in (race.codec, STOCK)
            for empty in (True, False)
        }


def measured(superlink: SuperLink, made: list[Link], folder: Path, codec: str, *, empty: bool) -> Run:
    """Run the app once; one value is sent losslessly, for it has room for no budget."""
    output = folder / "output.json"
    requests, carried = counted(made)
    config = f"codec='{LOSSLESS if codec and empty else codec}' empty={str(empty).lower()} output='{output}'"
    run_id = run(superlink, folder / "rounds", config, 1200)
    requests_after, carried_after = counted(made)
    traffic = superlink.flwr("ls", "own", "--run-id", str(run_id))["runs"][0]["network-traffic"]
    return Run(
        **json.loads(output.read_text()),
        requests=requests_after - requests,
        carried={way: carried_after[way] - carried[way] for way in carried},
        listed={"up": traffic["inbound-bytes"], "down": traffic["outbound-bytes"]},
    )


def counted(made: list[Link]) -> tuple[Counter[str], dict[str, int]]:
    """Return how many requests of each kind all links have carried, and how many bytes each way."""
    requests = sum((link.requests for link in made), Counter[str]())
    return requests, {"up": sum(link.up.nbytes for link in made), "down": sum(link.down.nbytes for link in made)}


def app_in(folder: Path) -> None:
    """Make a folder that ``flwr run`` takes."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    shutil.copy(rounds.__file__, folder)


# ---- objects and requests ----


def objects_of(codec: str) -> tuple[int, int]:
    """Return how many Flower objects a message to a client consists of, and the reply."""
    replies: list[Message] = []

    def see(_: int, reply: Message) -> Message:
        replies.append(reply)
        return reply

    grid = LocalGrid({1: rounds.client}, damage=see)
    content = RecordDict({"arrays": rounds.model(), "config": ConfigRecord({"server-round": 1})})  # as FedAvg sends it
    (PressGrid(grid, codec) if codec else grid).push_messages([Message(content, 1, "train")])
    return len(get_all_nested_objects(grid.sent[0])), len(get_all_nested_objects(replies[0]))


def show_objects(runs: Runs) -> None:
    objects = {codec: objects_of(codec) for codec in (LOSSLESS, STOCK)}
    shown = table(f"A message of {rounds.TENSORS} tensors, and the reply to it", "", "flowerpress", "stock Flower")
    for i, name in enumerate(("objects of the message", "objects of the reply")):
        shown.add_row(name, *(str(found[i]) for found in objects.values()))
    sent = {codec: runs[codec, False].requests for codec in objects}
    for kind in ("pull-object", "push-object"):
        shown.add_row(f"requests: {kind}", *(f"{n[kind] / MESSAGES:.1f}" for n in sent.values()))
    others = (n.total() - n["pull-object"] - n["push-object"] for n in sent.values())
    shown.add_row("requests: the messages, polls, heartbeats, the app", *(f"{n / MESSAGES:.1f}" for n in others))
    console.print(shown)
    claim("objects of a pressed message or reply", max(objects[LOSSLESS]), most=10)
    claim("times fewer requests", sent[STOCK].total() / sent[LOSSLESS].total(), least=20.0)


# ---- seconds ----


def show_seconds(race: Race, runs: Runs) -> None:
    console.print(f"\n{race.mbit} Mbit/s, {1000 * DELAY:.0f} ms each way; {race.codec}", markup=False)
    columns = ("empty round", "least", "most", "round", "least", "most", "difference")
    shown = table("seconds per round, 10 MB in 300 tensors, 2 SuperNodes", "", *columns)
    spent = {}
    for label, codec in (("stock Flower", STOCK), ("flowerpress", race.codec)):
        empty, full = runs[codec, True].seconds, runs[codec, False].seconds
        spent[label] = median(full) - median(empty)
        figures = (f(seconds) for seconds in (empty, full) for f in (median, min, max))
        shown.add_row(label, *(f"{value:.2f}" for value in (*figures, spent[label])))
    console.print(shown)
    noise = max(runs[race.codec, True].seconds) - min(runs[race.codec, True].seconds)
    ours = max(spent["flowerpress"], noise)  # a difference below the spread of the empty rounds is not known better
    claim("times faster, without the empty round", spent["stock Flower"] / ours, least=race.least)


# ---- bytes ----


def show_bytes(race: Race, found: Run) -> None:
    columns = ("PressGrid", "flwr ls", "links", "flwr ls more, per message", "links more, per message")
    shown = table(f"Bytes of a run, {race.mbit} Mbit/s", "", *columns)
    for way in ("up", "down"):
        said, listed, carried = found.pressed[way], found.listed[way], found.carried[way]
        beyond = (f"{(n - said) / MESSAGES:,.0f}" for n in (listed, carried))
        shown.add_row(way, *(f"{n:,}" for n in (said, listed, carried)), *beyond)
    console.print(shown)


def worst(found: Mapping[str, int], said: Mapping[str, int]) -> float:
    """Return the larger of the two ratios, whichever way they err."""
    return max(max(found[way] / said[way], said[way] / found[way]) for way in said)


def main() -> None:
    found: dict[Race, Runs] = {}
    with tempfile.TemporaryDirectory() as name:
        app_in(Path(name) / "rounds")
        for race in RACES:
            found[race] = raced(race, Path(name))
            show_seconds(race, found[race])
    lossless = found[RACES[0]]
    show_objects(lossless)
    for race, runs in found.items():
        show_bytes(race, runs[race.codec, False])
    exact = lossless[LOSSLESS, False]
    claim("bytes that flwr ls and PressGrid report, larger over smaller", worst(exact.listed, exact.pressed), most=1.01)
    claim("bytes that links and PressGrid report, larger over smaller", worst(exact.carried, exact.pressed), most=1.01)


if __name__ == "__main__":
    main()
