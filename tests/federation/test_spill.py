"""Replies on disk: one file for all of them, which goes with the last one."""

import os
import resource
from pathlib import Path

import numpy as np

from flowerpress import Bundle, pack
from flowerpress.chunks.bundle import Memory
from flowerpress.federation.spill import LARGE, Spill


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_parts_are_what_was_put(tmp_path: Path) -> None:
    before, spill = descriptors(), Spill(tmp_path / "folder")
    records = [np.random.default_rng(i).standard_normal(LARGE // 4 + i) for i in range(5)]
    bundles = [Bundle(spill.put(pack({"x": x}))) for x in records]
    assert not isinstance(bundles[0].source, Memory)
    assert descriptors() == before + 1
    assert list((tmp_path / "folder").iterdir()) == []
    del spill
    for x, bundle in reversed(list(zip(records, bundles, strict=True))):
        bundle.verify()
        assert np.array_equal(bundle["x"], x)
        assert np.array_equal(bundle.read_all()["x"], x)
    bundles.clear()
    del bundle
    assert descriptors() == before


def test_small_ones_stay_in_memory(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    assert bytes(spill.put(b"abc").read(1, 3)) == b"bc"
    assert isinstance(spill.put(bytes(LARGE - 1)), Memory)


def test_without_room_they_stay_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert bytes(Spill(tmp_path / "file").put(bytes(LARGE)).read(0, LARGE)) == bytes(LARGE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    spill = Spill(tmp_path)
    first = spill.put(b"1" * LARGE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE + 10, hard))
        second = spill.put(b"2" * LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    third = spill.put(b"3" * LARGE)
    assert [bytes(s.read(0, LARGE)) for s in (first, second, third)] == [c * LARGE for c in (b"1", b"2", b"3")]
