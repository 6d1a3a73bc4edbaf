"""What came of a run, in the few figures that runs are compared by."""

import math
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from flowerpress.apps.results import read_rounds
from flowerpress.jsons import loads


@dataclass(frozen=True)
class Outcome:
    """One run's figures; lists have an element per round, the first for the initial model.

    Attributes
    ----------
    accuracy, loss : list of float
        Of the global model on the server's images, after each round; none of a run that extracts.
    down, up : list of int
        Bytes of all Flower objects sent up to then, to the clients and from them.
    raw : list of int
        Bytes of the arrays exchanged up to then, both ways, as they lie in memory.
    seconds, coding_seconds : float
        Of the server app, which in an engine waits for the processes of clients to start; of all encoding and decoding,
        on both ends.
    failures : int
        Replies that were lost or refused.
    """

    accuracy: list[float]
    loss: list[float]
    down: list[int]
    up: list[int]
    raw: list[int]
    seconds: float
    coding_seconds: float
    failures: int

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read what a finished run left in its folder; ConfigError if there is none, ChunkError if it is damaged."""
        rounds = read_rounds(folder)
        summary = loads(folder / "summary.json")
        return cls(
            accuracy=[row["accuracy"] for row in rounds if "accuracy" in row],
            loss=[row["loss"] for row in rounds if "loss" in row],
            down=list(accumulate(row["down-bytes"] for row in rounds)),
            up=list(accumulate(row["up-bytes"] for row in rounds)),
            raw=list(accumulate(row["down-raw-bytes"] + row["up-raw-bytes"] for row in rounds)),
            seconds=summary["seconds"],
            coding_seconds=summary["encode-seconds"] + summary["decode-seconds"],
            failures=summary["failures"],
        )

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """Return what was written as JSON, where a figure that is not finite is null: it is NaN here."""
        lists = {name: [math.nan if x is None else x for x in values[name]] for name in ("accuracy", "loss")}
        return cls(**{**values, **lists})
