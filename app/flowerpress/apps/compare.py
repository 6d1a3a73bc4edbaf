"""The same training under several pipelines: same seeds, model, data and participation, run after run.

A contender is the text of a pipeline or policy for both directions, two of them as ``"UP // DOWN"``, or ``"stock"`` for
Flower without our hooks. Its runs are paired with those of the others by seed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from flowerpress.apps import inprocess, launch
from flowerpress.apps.config import CLASSIFY, Config
from flowerpress.apps.outcome import Outcome
from flowerpress.apps.runconfig import as_text
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.jsons import dumps, loads

STOCK, BETWEEN, FILE = "stock", "//", "compare.json"
Engine = Callable[[dict[str, Any], Path], None]  # runs a configuration and leaves the results in a folder


@dataclass
class Comparison:
    """What was compared, and what came of it: ``outcomes[contender]`` has a run per seed, in the order of ``seeds``."""

    contenders: list[str]
    seeds: list[int]
    clients: int
    engine: str
    config: dict[str, Any]
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it to a folder, as JSON."""
        (folder / FILE).write_text(dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read it from a folder; ConfigError if none is there, ChunkError if it is damaged."""
        if not (folder / FILE).is_file():
            raise ConfigError(f"expected a comparison in {folder}, found no {FILE}")
        values = loads(folder / FILE)
        try:
            outcomes = {name: [Outcome.read(run) for run in runs] for name, runs in values.pop("outcomes").items()}
            found = cls(**values, outcomes=outcomes)
        except (AttributeError, KeyError, TypeError) as error:
            raise ChunkError(f"{folder / FILE}: expected a comparison, found another object: {error!r}") from error
        if not outcomes or not all(run.accuracy for runs in outcomes.values() for run in runs):
            raise ChunkError(f"{folder / FILE}: expected runs with accuracies, found none; compare task='{CLASSIFY}'")
        return found


def compare(
    comparison: Comparison, folder: Path, engine: Engine, on_outcome: Callable[[str, int, Outcome], None]
) -> None:
    """Make all runs of a comparison, seed by seed, and save it after each.

    Parameters
    ----------
    comparison : Comparison
        Without outcomes; they are added.
    folder : Path
        For ``compare.json``, and a folder for each run, ``seed-1/0`` for the first contender, and so on.
    engine : callable
        `simulated` or `in_process`.
    on_outcome : callable
        Called with contender, seed and outcome after each run.

    Raises
    ------
    ConfigError
        Before the first run, if a contender is no pipeline, or for a configuration that `check` refuses.
    RunError
        If a run fails; those before it are saved.
    """
    configs = {name: codecs_of(name) for name in comparison.contenders}
    if len(configs) != len(comparison.contenders):
        raise ConfigError(f"compare: expected different pipelines, found {', '.join(comparison.contenders)}")
    for codecs in configs.values():
        check({**comparison.config, **codecs})
    folder.mkdir(parents=True, exist_ok=True)
    for seed in comparison.seeds:
        for i, (name, codecs) in enumerate(configs.items()):
            where = folder / f"seed-{seed}" / str(i)
            engine({**comparison.config, **codecs, "seed": seed}, where)
            outcome = Outcome.of(where)
            comparison.outcomes.setdefault(name, []).append(outcome)
            comparison.save(folder)
            on_outcome(name, seed, outcome)


def check(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a configuration that is not one of our app's, or whose runs have no accuracy to compare."""
    if (task := Config.read(config).task) != CLASSIFY:
        wanted = f"compare: expected task='{CLASSIFY}', whose runs have an accuracy"
        raise ConfigError(f"{wanted}, found {task!r}; try each pipeline with flowerpress run")


def codecs_of(contender: str) -> dict[str, str]:
    """Return what a contender means for the run configuration.

    >>> codecs_of("zstd")
    {'codec': 'zstd', 'codec-down': ''}
    >>> codecs_of("delta | budget(bits=0.1) // intdelta | zstd")
    {'codec': 'delta | budget(bits=0.1)', 'codec-down': 'intdelta | zstd'}
    >>> codecs_of("stock")
    {'codec': '', 'codec-down': ''}
    """
    if contender == STOCK:
        return {"codec": "", "codec-down": ""}
    up, *down = [part.strip() for part in contender.split(BETWEEN)]
    if not up or len(down) > 1 or down == [""]:
        raise ConfigError(f"compare: expected a pipeline, 'UP {BETWEEN} DOWN' or {STOCK!r}, found {contender!r}")
    return {"codec": up, "codec-down": "".join(down)}


def simulated(app: Path, known: Mapping[str, Any], clients: int) -> Engine:
    """Return what runs a configuration in Flower's simulation engine; ``known`` is the app's own configuration."""

    def engine(config: dict[str, Any], folder: Path) -> None:
        changed = {key: value for key, value in config.items() if value != known[key] and key != "output-dir"}
        launch.simulate(app, folder, clients=clients, run_config=as_text(changed), on_round=lambda _: None)

    return engine


def in_process(clients: int) -> Engine:
    """Return what runs a configuration of our app in this process."""

    def engine(config: dict[str, Any], folder: Path) -> None:
        inprocess.run(config, clients=clients, folder=folder)

    return engine


def seeds_from(first: int, count: int) -> Sequence[int]:
    """Return so many seeds, one after the other."""
    return range(first, first + count)
