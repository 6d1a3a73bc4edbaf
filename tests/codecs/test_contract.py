import numpy as np
import pytest

from flowerpress import ConfigError
from flowerpress.codecs import dtypes
from flowerpress.codecs.base import Pipeline, Spec
from flowerpress.codecs.planes import Planes
from flowerpress.codecs.raw import Raw
from tests.arrays import of_dtype
from tests.codecs.contract import Contract


class TestRaw(Contract):
    text = "raw"


class TestPlanes(Contract):
    text = "planes"


class TestZstd(Contract):
    text = "planes | zstd"


class TestZstdLevel(Contract):
    text = "raw | zstd(level=9)"


class TestZfp(Contract):
    text = "zfp"


class TestZfpTolerance(Contract):
    text = "zfp(tolerance=0.01)"
    bound = 0.01


class TestZfpThenZstd(Contract):
    text = "zfp(tolerance=0.5) | zstd"
    bound = 0.5


class TestIntDelta(Contract):
    text = "intdelta | zstd"
    reference = True


class TestDelta(Contract):
    text = "delta | zstd"
    bound = 1e-4
    reference = True


class TestDeltaZfp(Contract):
    text = "delta | zfp(tolerance=0.01)"
    bound = 0.0101
    reference = True


class TestQuantizeStep(Contract):
    text = "quantize(step=0.01) | entropy"
    bound = 0.0055


class TestQuantizeBound(Contract):
    text = "quantize(bound=0.01) | entropy | zstd"
    bound = 0.01


class TestQuantizeRelative(Contract):
    text = "quantize(relative=0.0001) | planes | zstd"
    bound = 0.05

    def check(self, pipeline: Pipeline, x: np.ndarray) -> None:
        if pipeline.refuses(Spec.of(x)) or x.astype(np.float64).min() < x.astype(np.float64).max():
            return super().check(pipeline, x)
        with pytest.raises(ConfigError, match="cannot hold the bound"):  # a share of a range of 0
            pipeline.encode(x, Spec.of(x))
        return None


class TestQuantizeBits(Contract):
    text = "quantize(bits=12) | entropy"
    bound = 0.1


class TestQuantizeBlocks(Contract):
    text = "quantize(bits=12, block=16) | raw"
    bound = 0.1


class TestDeltaQuantize(Contract):
    text = "delta | quantize(step=0.01) | entropy"
    bound = 0.0055
    reference = True


class TestIntDeltaEntropy(Contract):
    text = "intdelta | entropy"
    reference = True


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int16", "bool", "float8_e5m2", "complex64"])
def test_planes_on_tensors_as_on_a_device(dtype: str) -> None:
    """A pipeline hands CPU tensors on as arrays; a tensor handed to the codec itself goes the way of a GPU's."""
    x = of_dtype(dtype, (33, 7))
    for codec in (Planes(), Raw()):
        assert bytes(codec.encode(dtypes.to_tensor(x), Spec.of(x))) == bytes(codec.encode(x, Spec.of(x)))
    assert np.array_equal(Planes().decode(Planes().encode(dtypes.to_tensor(x), Spec.of(x)), Spec.of(x)), x)
