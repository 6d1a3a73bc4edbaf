"""Checkpoints under a thousand damages, and on disks that are full."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flowerpress import RunError
from flowerpress.arrays.store import Checkpoints
from tests.arrays.damage import model, tamper


def test_a_thousand_damages(tmp_path: Path) -> None:
    used = tamper(tmp_path, 1000, seed=2)
    print(used)
    assert set(used) <= {"round 2", "round 3"}


@contextmanager
def disk(where: Path, nbytes: int) -> Iterator[None]:
    """Mount a small file system in memory."""
    where.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(where)], capture_output=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    """Twenty sizes: from one that takes a round, and nothing of the next, to one that takes both."""
    Checkpoints(tmp_path / "one").save(1, model(1))
    needed = sum(path.stat().st_size for path in (tmp_path / "one").rglob("*") if path.is_file())
    shutil.rmtree(tmp_path / "one")
    outcomes = set()
    for i in range(20):
        with disk(tmp_path / "disk", int(needed * (1.15 + 0.06 * i))):
            checkpoints = Checkpoints(tmp_path / "disk" / "run")
            checkpoints.save(1, model(1))
            try:
                checkpoints.save(2, model(2))
                expected = 2
            except RunError as error:
                assert "round 2 could not be written" in str(error)  # noqa: PT017
                expected = 1
            outcomes.add(expected)
            found = checkpoints.load()
            assert found
            assert (found.round, found.passed_over) == (expected, {})
            assert all(np.array_equal(found.model[key], x) for key, x in model(expected).items())
            rounds = tmp_path / "disk" / "run" / "rounds"
            left = [path for path in rounds.glob("000002.*/**/*") if path.is_file()]
            assert bool(left) == (expected == 2)  # what was half written takes no room
    assert outcomes == {1, 2}
