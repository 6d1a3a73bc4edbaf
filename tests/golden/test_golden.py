"""What earlier versions wrote decodes for ever; `make` wrote it."""

import json
from pathlib import Path

import numpy as np
import pytest

from flowerpress import Bundle, LatentChunks
from tests.golden.make import BUNDLES, HERE, arrays, bases


@pytest.mark.parametrize("path", sorted(HERE.glob("*.fpb")), ids=lambda path: path.stem)
def test_bundles(path: Path) -> None:
    bundle, expected = Bundle.open(path, bases=bases()), arrays()
    assert list(bundle) == list(expected)
    for key, x in expected.items():
        y = bundle[key]
        assert (y.dtype, y.shape) == (x.dtype, x.shape)
        if "tolerance" in path.stem and key in ("layer.weight", "layer.bias", "half.weight", "brain", "double", "copy"):
            assert np.abs(y.astype(np.float64) - x.astype(np.float64)).max() <= 0.01
        else:
            assert y.tobytes() == x.tobytes(), key


@pytest.mark.parametrize("name", ["latn-f16", "latn-f32"])
def test_latents(name: str) -> None:
    (record,) = json.loads((HERE / f"{name}.json").read_text())
    (load,) = LatentChunks().iter_lazy_latents(str(HERE / f"{name}.bin"), [record])
    expected = arrays()["layer.weight"].reshape(1, 4, 10, 15)
    assert load().tobytes() == expected.astype(load().dtype).tobytes()


def test_every_pipeline_has_one() -> None:
    assert {path.stem for path in HERE.glob("*.fpb")} >= set(BUNDLES)
