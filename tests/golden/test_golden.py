"""What earlier versions wrote decodes for ever; `make` wrote it."""

import json
from pathlib import Path

import numpy as np
import pytest

from flowerpress import Bundle, LatentChunks
from tests.golden.make import BUNDLES, HERE, arrays, arrays_of, bases_of

LOSSY = ("float16", "float32", "float64", "bfloat16")


@pytest.mark.parametrize("path", sorted(HERE.glob("*.fpb")), ids=lambda path: path.stem)
def test_bundles(path: Path) -> None:
    bundle, expected = Bundle.open(path, bases=bases_of(path.stem)), arrays_of(path.stem)
    assert path.read_bytes()[:4] == b"FPB" + bytes([int(path.stem.split("-")[1])])
    assert list(bundle) == list(expected)
    for key, x in expected.items():
        y = bundle[key]
        assert (y.dtype, y.shape) == (x.dtype, x.shape)
        if "tolerance" in path.stem and x.shape and x.size and x.dtype.name in LOSSY and key not in ("special", "tiny"):
            assert np.abs(y.astype(np.float64) - x.astype(np.float64)).max() <= 0.01
        else:
            assert y.tobytes() == x.tobytes(), key


@pytest.mark.parametrize("name", [name for name in BUNDLES if "contexts" in name])
def test_contexts_are_used(name: str) -> None:
    data = (HERE / f"{name}.fpb").read_bytes()
    layout = Bundle(data, bases=bases_of(name)).layout
    assert 3 in [data[4 + start + chunk.header] for start, chunk in zip(layout.offsets, layout.chunks, strict=True)]
    assert len(data) < 4096


@pytest.mark.parametrize("name", ["latn-f16", "latn-f32"])
def test_latents(name: str) -> None:
    (record,) = json.loads((HERE / f"{name}.json").read_text())
    (load,) = LatentChunks().iter_lazy_latents(str(HERE / f"{name}.bin"), [record])
    expected = arrays()["layer.weight"].reshape(1, 4, 10, 15)
    assert load().tobytes() == expected.astype(load().dtype).tobytes()


def test_every_pipeline_has_one() -> None:
    assert {path.stem for path in HERE.glob("*.fpb")} >= set(BUNDLES)
