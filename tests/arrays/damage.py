"""Checkpoints that somebody tampers with: files flipped, cut, removed, exchanged, and metadata changed."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from flowerpress.arrays.store import Checkpoints
from flowerpress.errors import ChunkError

ROUNDS = (1, 2, 3)


def model(number: int) -> dict[str, np.ndarray]:
    """Return a model that tells its round, in arrays of one and of several chunks."""
    rng = np.random.default_rng(number)
    return {
        "w": rng.standard_normal((1300, 1000)).astype(np.float32),
        "b": rng.standard_normal(7),
        "zeros": np.zeros((5, 4), np.float32),
        "n": np.array(number),
    }


def tamper(folder: Path, times: int, seed: int) -> dict[str, int]:
    """Damage copies of checkpoints in one place each; return how often which round was used.

    What is used is always right: the round's own model, or an error if none is good.
    """
    rng, used = random.Random(seed), dict[str, int]()
    checkpoints, models = Checkpoints(folder / "whole"), {number: model(number) for number in ROUNDS}
    for number in ROUNDS:
        checkpoints.save(number, models[number], groups={"strategy": {"m": models[number]["b"]}}, notes={"n": number})
    damaged = folder / "damaged"
    for _ in range(times):
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(folder / "whole", damaged)
        files = sorted(path for path in damaged.rglob("*") if path.is_file())
        rng.choice(DAMAGES)(rng.choice(files), rng)
        try:
            found = Checkpoints(damaged).load()
            assert found
            wanted = models[found.round]
            assert list(found.model) == list(wanted)
            assert all(found.model[key].tobytes() == x.tobytes() for key, x in wanted.items())
            assert found.groups["strategy"]["m"].tobytes() == wanted["b"].tobytes()
            assert found.notes == {"n": found.round}
            outcome = f"round {found.round}"
        except ChunkError:
            outcome = "an error"
        used[outcome] = used.get(outcome, 0) + 1
    return used


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def _remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def _exchange(path: Path, rng: random.Random) -> None:
    """Put another file of the same name in its place: that of another round, or array."""
    others = [other for other in path.parents[3].rglob(path.name) if other.is_file()]
    path.write_bytes(rng.choice(others).read_bytes())


def _lie(path: Path, rng: random.Random) -> None:
    """Change a value in metadata; in a chunk, write zeros."""
    data = path.read_bytes()
    if path.suffix != ".json":
        path.write_bytes(bytes(len(data)))
        return
    head, _, rest = data.partition(b"\n") if b"folder" in data else (data, b"", b"")
    found = json.loads(head)
    key = rng.choice(sorted(found))
    found[key] = rng.choice([None, -1, 10**30, "x", [], {}, [[]], 1.5])
    path.write_bytes(json.dumps(found).encode() + (b"\n" + rest if rest else b""))


DAMAGES: list[Callable[[Path, random.Random], None]] = [_flip, _cut, _remove, _exchange, _lie]
