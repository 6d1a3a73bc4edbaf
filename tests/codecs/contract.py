"""What every codec must do: one test class, run for each pipeline under test by `test_contract`."""

from typing import Any

import numpy as np
import pytest
import torch

from flowerpress.codecs import dtypes
from flowerpress.codecs.base import Pipeline, Spec
from flowerpress.codecs.text import parse
from flowerpress.errors import ChunkError, ConfigError
from tests.samples import awkward, of_dtype, special_floats

SHAPES = [(), (0,), (3, 0, 2), (1,), (5,), (8, 3), (2, 3, 4, 5, 2), (4097, 1, 1, 1), (70001,)]
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8, "float8_e4m3fn": 2**-4, "float8_e5m2": 2**-3}
BITS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def there_and_back(pipeline: Pipeline, x: Any, spec: Spec) -> np.ndarray:
    return pipeline.decode(bytes(pipeline.encode(x, spec)), spec)


class Contract:
    """Subclass it with ``text``, the pipeline; ``bound``, the largest error it may make, if it is lossy; and
    ``reference`` if it needs one."""

    text: str
    bound: float = 0.0
    reference: bool = False

    def spec(self, x: Any) -> Spec:
        """Return the spec of ``x``, with a reference that is near it if the pipeline needs one."""
        if not self.reference:
            return Spec.of(x, "x")
        host = dtypes.to_host(x)
        with np.errstate(all="ignore"):
            base = (host * np.asarray(0.75).astype(host.dtype)).astype(host.dtype) if host.dtype != bool else host
        return Spec.of(x, "x", np.asarray(base))

    @pytest.fixture
    def pipeline(self) -> Pipeline:
        return parse(self.text)

    def check(self, pipeline: Pipeline, x: np.ndarray) -> None:
        if reason := pipeline.refuses(self.spec(x)):
            with pytest.raises(ConfigError, match="cannot take it"):
                pipeline.encode(x, self.spec(x))
            assert reason
            return
        y = there_and_back(pipeline, x, self.spec(x))
        assert (y.dtype, y.shape) == (x.dtype.newbyteorder("="), x.shape)
        assert y.flags.writeable
        assert not np.shares_memory(x, y)
        if not self.bound:
            assert y.tobytes() == np.ascontiguousarray(x).astype(y.dtype).tobytes()
        elif x.size:
            error = np.abs(y.astype(np.float64) - x.astype(np.float64)).max()
            assert error <= self.bound + np.abs(x.astype(np.float64)).max() * ROUNDING.get(x.dtype.name, 0)

    @pytest.mark.parametrize("dtype", BITS + FLOATS)
    def test_dtypes_and_shapes(self, pipeline: Pipeline, dtype: str) -> None:
        for shape in SHAPES:
            self.check(pipeline, of_dtype(dtype, shape))

    def test_awkward_layouts(self, pipeline: Pipeline) -> None:
        for x in awkward().values():
            self.check(pipeline, x)

    def test_special_values_stay_exact(self, pipeline: Pipeline) -> None:
        x = special_floats()
        if self.bound and "zfp" not in str(pipeline.stages[0]):
            with pytest.raises(ConfigError, match="finite"):
                pipeline.encode(x, self.spec(x))
        else:
            assert there_and_back(pipeline, x, self.spec(x)).tobytes() == x.tobytes()

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int64", "bool"])
    def test_tensors_give_the_bytes_of_arrays(self, pipeline: Pipeline, dtype: str) -> None:
        x = of_dtype(dtype, (33, 4))
        spec, tensor = self.spec(x), dtypes.to_tensor(x)
        assert self.spec(tensor) == spec
        if not pipeline.refuses(spec):
            assert bytes(pipeline.encode(tensor, spec)) == bytes(pipeline.encode(x, spec))
            assert bytes(pipeline.encode(tensor.t(), self.spec(tensor.t()))) == bytes(
                pipeline.encode(np.ascontiguousarray(x.T), self.spec(x.T))
            )

    def test_tensors_that_need_grad_or_repeat(self, pipeline: Pipeline) -> None:
        x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        assert there_and_back(pipeline, x, self.spec(x)).tolist() == pytest.approx([1, 2, 3], abs=self.bound)
        assert there_and_back(pipeline, (repeated := torch.arange(3.0).expand(4, 3)), self.spec(repeated))[
            3
        ].tolist() == pytest.approx([0, 1, 2], abs=self.bound)

    def test_it_is_a_value(self, pipeline: Pipeline) -> None:
        assert parse(str(pipeline)) == pipeline
        assert hash(parse(str(pipeline))) == hash(pipeline)
        names = {type(s).__name__: type(s) for s in pipeline.stages}
        assert eval(repr(pipeline), {"Pipeline": Pipeline, **names}) == pipeline
        assert pipeline.config()["stages"]

    def test_equal_input_gives_equal_bytes(self, pipeline: Pipeline) -> None:
        x = of_dtype("float32", (300, 11))
        assert bytes(pipeline.encode(x, self.spec(x))) == bytes(pipeline.encode(x.copy(), self.spec(x)))

    def test_input_is_not_changed(self, pipeline: Pipeline) -> None:
        x = of_dtype("float32", (300, 11))
        before = x.tobytes()
        pipeline.encode(x, self.spec(x))
        assert x.tobytes() == before

    def test_noise_does_not_grow(self, pipeline: Pipeline) -> None:
        if pipeline.stages[-1].name != "zstd" or pipeline.refuses(self.spec(np.zeros(1, np.uint8))):
            pytest.skip("only entropy coders fall back to storing")
        for size in (1, 64, 70_001, 1 << 20):
            noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
            assert len(pipeline.encode(noise, self.spec(noise))) <= size + 64

    def test_array_and_spec_must_agree(self, pipeline: Pipeline) -> None:
        with pytest.raises(ConfigError, match=r"expected float32\[3\], found float32\[4\]"):
            pipeline.encode(np.zeros(4, np.float32), Spec("x", "float32", (3,)))

    def test_bytes_of_another_array_are_refused(self, pipeline: Pipeline) -> None:
        x = of_dtype("float32", (40, 4))
        y = bytes(pipeline.encode(x, self.spec(x)))
        others = [np.zeros((40, 5), np.float32), np.zeros(4, np.float32)]
        same = ("quantize", "entropy", "bitpack", "cast")  # integers are integers, and halves are halves
        if not any(stage.name in same for stage in pipeline.stages):
            others.append(np.zeros((40, 4)))
        for other in others:
            wrong = self.spec(other)
            with pytest.raises(ChunkError):
                pipeline.decode(y, wrong)

    @pytest.mark.parametrize("damage", [b"", b"\0", b"zfp\x05", bytes(100), b"\x28\xb5\x2f\xfd"])
    def test_bytes_of_nothing_are_refused(self, pipeline: Pipeline, damage: bytes) -> None:
        with pytest.raises(ChunkError):
            pipeline.decode(damage, self.spec(np.zeros((40, 4), np.float32)))

    def test_what_is_no_dense_array_is_refused(self, pipeline: Pipeline) -> None:
        spec = Spec("x", "float32", (2, 2))
        for x in (torch.eye(2).to_sparse(), torch.empty(2, 2, device="meta")):
            with pytest.raises(ConfigError, match="expected a dense tensor"):
                pipeline.encode(x, spec)
