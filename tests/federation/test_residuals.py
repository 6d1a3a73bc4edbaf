"""Residuals on disk: each node's own, few, and none that anybody believes without looking."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from flowerpress.federation.residuals import Residuals
from flowerpress.federation.store import STALE, Store

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float64([1.5])}


def residuals(folder: Path, most_bytes: int = 1 << 20) -> Residuals:
    return Residuals(Store(folder, most_bytes))


def names(found: Residuals) -> list[str]:
    return sorted(path.name for path in found.folder.iterdir())


def test_what_was_put_is_there(tmp_path: Path) -> None:
    found = residuals(tmp_path)
    bundle = found.get("1-5", found.put("1-5", ARRAYS))
    assert bundle is not None
    assert {key: x.tobytes() for key, x in bundle.items()} == {key: x.tobytes() for key, x in ARRAYS.items()}
    assert list(Store(tmp_path)) == []


def test_owners_do_not_see_each_other(tmp_path: Path) -> None:
    found = residuals(tmp_path)
    digests = {owner: found.put(owner, ARRAYS) for owner in ("1-5", "1-55", "11-5", "2-5")}
    assert len(set(digests.values())) == 1
    found.keep("1-5", ())
    assert found.get("1-5", digests["1-5"]) is None
    assert all(found.get(owner, digests[owner]) for owner in ("1-55", "11-5", "2-5"))


def test_only_what_is_kept_stays(tmp_path: Path) -> None:
    found = residuals(tmp_path)
    digests = [found.put("1-5", {"w": np.full(3, float(i))}) for i in range(4)]
    found.keep("1-5", digests[2:])
    assert names(found) == sorted(f"1-5-{digest}" for digest in digests[2:])


def test_old_ones_go_and_the_oldest_where_there_is_no_room(tmp_path: Path) -> None:
    found = residuals(tmp_path)
    for node in range(4):
        found.put(f"1-{node}", ARRAYS)
    paths = sorted(found.folder.iterdir())
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (time.time() - age, time.time() - age))
    os.utime(paths[3], (0, time.time() - STALE - 60))
    found.keep("2-1", ())
    assert sorted(found.folder.iterdir()) == paths[:3]
    residuals(tmp_path, 2 * paths[0].stat().st_size).keep("2-1", ())
    assert sorted(found.folder.iterdir()) == paths[1:3]


@pytest.mark.parametrize("data", [b"", b"?", b"FPB\x01" + bytes(40)])
def test_damaged_ones_are_missing(data: bytes, tmp_path: Path) -> None:
    found = residuals(tmp_path)
    digest = found.put("1-5", ARRAYS)
    (found.folder / f"1-5-{digest}").write_bytes(data)
    assert found.get("1-5", digest) is None
    assert found.get("1-5", "") is None
    assert found.get("1-5", "../../record") is None
    assert found.put("1-5", ARRAYS) == digest
    assert found.get("1-5", digest) is not None


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "residuals").write_text("in the way")
    found = residuals(tmp_path)
    digest = found.put("1-5", ARRAYS)
    assert found.get("1-5", digest) is None
    found.keep("1-5", [digest])
    assert found.clear() == 0


def test_clearing(tmp_path: Path) -> None:
    found = residuals(tmp_path)
    assert found.clear() == 0
    found.put("1-5", ARRAYS)
    nbytes = sum(path.stat().st_size for path in found.folder.iterdir())
    assert found.clear() == nbytes > 0
    assert names(found) == []
