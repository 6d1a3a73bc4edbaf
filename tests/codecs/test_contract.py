import numpy as np
import pytest

from flowerpress import ConfigError
from flowerpress.codecs import dtypes
from flowerpress.codecs.base import ArrayToBytes, Pipeline, Spec
from flowerpress.codecs.bitpack import BitPack
from flowerpress.codecs.entropy import Entropy
from flowerpress.codecs.nonzero import Nonzero
from flowerpress.codecs.planes import Planes
from flowerpress.codecs.raw import Raw
from tests.codecs.contract import Contract
from tests.samples import of_dtype


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


class TestCast(Contract):
    text = "cast | raw"
    bound = 0.07  # half a step of float16 up to 128


class TestCastBrain(Contract):
    text = "cast(dtype='bfloat16') | zstd"
    bound = 0.51


class TestDelta(Contract):
    text = "delta | zstd"
    bound = 1e-4
    reference = True


class TestDeltaPositive(Contract):
    text = "delta(positive=true) | zstd"
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


class TestQuantizeBitPack(Contract):
    text = "quantize(bits=12, block=16) | bitpack"
    bound = 0.1


class TestIntDeltaBitPack(Contract):
    text = "intdelta | bitpack | zstd"
    reference = True


class TestDeltaQuantize(Contract):
    text = "delta | quantize(step=0.01) | entropy"
    bound = 0.0055
    reference = True


class TestDeltaPositiveQuantize(Contract):
    text = "delta(positive=true) | quantize(step=0.01) | entropy"
    bound = 0.4  # one percent of an array that is positive throughout
    reference = True


class TestIntDeltaEntropy(Contract):
    text = "intdelta | entropy"
    reference = True


class TestNonzero(Contract):
    text = "nonzero"


class TestSparseKeepsAll(Contract):
    text = "sparse(keep=1.0) | nonzero | zstd"
    bound = 1e-12


class TestSparseAbove(Contract):
    text = "delta | sparse(above=0.01) | nonzero"
    bound = 0.0101
    reference = True


class TestLowRank(Contract):
    text = "lowrank(rank=2, step=0.01) | entropy"
    bound = 80.0  # of values with a standard deviation of 20: random matrices have no low rank


@pytest.mark.parametrize("codec", [BitPack(), Entropy(), Nonzero()], ids=str)
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_integers_on_tensors_as_on_a_device(codec: ArrayToBytes, dtype: str) -> None:
    q = np.random.default_rng(0).integers(-60, 60, (33, 70)).astype(dtype)
    spec = Spec("q", dtype, (2310,), members=((10,), (23, 100)))
    coded = bytes(codec.encode(dtypes.to_tensor(q.reshape(-1)), spec))
    assert coded == bytes(codec.encode(q.reshape(-1), spec))
    assert np.array_equal(codec.decode(coded, spec), q.reshape(-1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int16", "bool", "float8_e5m2", "complex64"])
def test_planes_on_tensors_as_on_a_device(dtype: str) -> None:
    """A pipeline hands CPU tensors on as arrays; a tensor handed to the codec itself goes the way of a GPU's."""
    x = of_dtype(dtype, (33, 7))
    for codec in (Planes(), Raw()):
        assert bytes(codec.encode(dtypes.to_tensor(x), Spec.of(x))) == bytes(codec.encode(x, Spec.of(x)))
    assert np.array_equal(Planes().decode(Planes().encode(dtypes.to_tensor(x), Spec.of(x)), Spec.of(x)), x)
