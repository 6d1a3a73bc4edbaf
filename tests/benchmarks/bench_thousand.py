"""A thousand clients in Flower's simulation engine, ten of them a round: what a round costs, and whether memory grows.

The server shares a process with Flower's engine; the clients are processes of Ray.
"""

from statistics import median

from flowerpress.deployment.superlink import SuperLink
from tests.benchmarks.noisy import CONFIGURATIONS, LOSSLESS, scratch, served, settings
from tests.benchmarks.timing import claim, console, table

CLIENTS, EACH, ROUNDS, MEGABYTES = 1000, 10, 20, 2
RESOURCES = f"num-supernodes={CLIENTS} client-resources-num-cpus=1 client-resources-num-gpus=0.0"


def main() -> None:
    with scratch() as folder, SuperLink(simulation=True, log=folder / "superlink.log") as superlink:
        size = {"nodes": EACH, "rounds": ROUNDS, "megabytes": MEGABYTES, "fraction": EACH / CLIENTS}
        measured = {label: served(superlink, settings(label, **size), RESOURCES) for label in CONFIGURATIONS}
    title = f"{CLIENTS} clients, {EACH} a round, {MEGABYTES} MB model; memory is the server's RssAnon in MB"
    shown = table(title, "", "s/round", "MB down", "MB up", "round 2", f"round {ROUNDS}", "growth", "peak")
    for label, found in measured.items():
        rounds = found["rounds"]
        seconds, down, up = (median(r[name] for r in rounds) for name in ("seconds", "down", "up"))
        second, last = rounds[1]["peak"] / 1e6, rounds[-1]["peak"] / 1e6
        memory = (second, last, last - second, found["peak"] / 1e6)
        shown.add_row(
            label, *(f"{value:.2f}" for value in (seconds, down / 1e6, up / 1e6)), *(f"{value:.0f}" for value in memory)
        )
    console.print(shown)
    rounds = measured[LOSSLESS]["rounds"]
    claim("rounds in which all replied", sum(r["replies"] == EACH for r in rounds), least=ROUNDS)
    claim(f"memory, round {ROUNDS} against round 2", rounds[-1]["peak"] / rounds[1]["peak"], most=1.2)


if __name__ == "__main__":
    main()
