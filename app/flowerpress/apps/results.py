"""What a run leaves behind: a line per round, a summary, and the final model.

``metrics.jsonl`` has one object per round: accuracy and loss of the global model, the bytes of all Flower objects
(``down-object-bytes``, ``up-object-bytes``), and the exchanges of that round, with bytes of array data and seconds per
node; stock Flower has none, and its array data is counted on its grid. ``summary.json`` has the sums, ``model.fpb`` the
final model as a bundle. A figure that is not finite is null in both files, and NaN where it is read.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from flowerpress.apps.config import EXTRACT, Config
from flowerpress.chunks.pack import save
from flowerpress.errors import ConfigError
from flowerpress.federation.metrics import Exchange
from flowerpress.jsons import dumps, parsed
from flowerpress.wire import KEY, press

_FIGURES = ("accuracy", "loss", "rate", "distortion", "images", "of")
_SUMS = ("down-bytes", "down-raw-bytes", "up-bytes", "up-raw-bytes", "encode-seconds", "decode-seconds", "failures")


class Results:
    """Writes a run's results as they come; with an empty ``output-dir`` it writes nothing.

    Parameters
    ----------
    config : Config
        Of the run.
    exchanges : sequence of Exchange
        What `PressGrid` notes; empty for stock Flower.
    counts : Counter
        What `CountingGrid` counts in its place.
    done : int
        The round behind which a run goes on that is resumed, -1 for none: what there is of later ones is forgotten.

    Attributes
    ----------
    last : int
        The last round that a run which goes on had, -1 if there is none.
    """

    def __init__(self, config: Config, exchanges: Sequence[Exchange], counts: Counter[str], done: int = -1) -> None:
        self._folder = Path(config.output_dir) if config.output_dir else None
        if self._folder and not self._folder.is_absolute():
            raise ConfigError(f"run config: expected output-dir to be an absolute path, found {config.output_dir!r}")
        self._config = config
        self._exchanges = exchanges
        self._counts = counts
        self._seen, self._counted = 0, Counter[str]()
        self._started = time.monotonic()
        self.last = -1
        if self._folder and config.resume and (self._folder / "metrics.jsonl").is_file():
            self._go_on(self._folder, done)

    def add_round(self, server_round: int, **figures: float) -> None:
        """Add a round, of which 0 is the initial model, and what it came to, such as loss and accuracy."""
        rows = [exchange.row() for exchange in self._exchanges[self._seen :]]
        self._seen = len(self._exchanges)
        row = {"round": server_round, **figures, "seconds": self._seconds()}
        self._append({**row, **totals(rows), **self._counted_now(), "exchanges": rows})

    def finish(self, model: ArrayRecord | None = None) -> None:
        """Write the model, if there is one, and the summary, with the figures of the last round."""
        if self._folder is None:
            return
        if model is not None:
            save(self._folder / "model.fpb", press(model)[KEY].data)
        rounds = read_rounds(self._folder)
        summary = {
            **self._described(),
            **{name: rounds[-1][name] for name in _FIGURES if name in rounds[-1]},
            "seconds": self._seconds(),
            **totals(rounds),
            "config": vars(self._config),
        }
        (self._folder / "summary.json").write_text(dumps(summary, indent=2) + "\n")

    def _described(self) -> dict[str, Any]:
        """Return what was run."""
        config = self._config
        if config.task == EXTRACT:
            return {"task": EXTRACT, "codec": config.latent_codec, "strategy": f"latents of {config.encoder_model}"}
        rounds = {"strategy": config.strategy, "rounds": config.num_server_rounds}
        return {"task": config.task, "codec": config.codec or "none (stock Flower)", **rounds}

    def _go_on(self, folder: Path, done: int) -> None:
        rows = [row for row in read_rounds(folder) if row["round"] <= done]
        (folder / "metrics.jsonl").write_text("".join(dumps(row) + "\n" for row in rows))
        if rows:
            self.last, self._started = rows[-1]["round"], self._started - rows[-1]["seconds"]

    def _counted_now(self) -> dict[str, int]:
        """Return what was counted since the last round; nothing where exchanges say it."""
        new = self._counts - self._counted
        self._counted = Counter(self._counts)
        return dict(new)

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _append(self, row: dict[str, Any]) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "metrics.jsonl").open("a") as file:
                file.write(dumps(row) + "\n")


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Add up the bytes, seconds and failures of exchanges, or of rounds."""
    return {name: sum(row[name] for row in rows) for name in _SUMS}


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run that were written so far.

    ConfigError if the folder has no ``metrics.jsonl``; ChunkError for a line of it that is damaged.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ConfigError(f"expected the results of a run in {folder}, found no metrics.jsonl")
    lines = path.read_bytes().split(b"\n")[:-1]  # a last line without its end is still being written
    return [with_nan(parsed(line, f"{path}, line {number}")) for number, line in enumerate(lines, start=1)]


def last_round(folder: Path) -> int:
    """Return the last round that was written so far, -1 if there is none."""
    rounds = read_rounds(folder) if (folder / "metrics.jsonl").is_file() else []
    return int(rounds[-1]["round"]) if rounds else -1


def with_nan(row: dict[str, Any]) -> dict[str, Any]:
    """Return a round, or a summary, in which the figures that are null are NaN.

    >>> with_nan({"round": 1, "loss": None})
    {'round': 1, 'loss': nan}
    """
    return {name: math.nan if value is None and name in _FIGURES else value for name, value in row.items()}
