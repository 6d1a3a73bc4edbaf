"""Ready converters: what tensors are in Zarr, and what comes back."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import zarr
from tests.samples import of_dtype
from zarr.storage import MemoryStore

from flowerpress.arrays.converters import PlainConverter, TorchConverter
from flowerpress.arrays.lazy import LazyChunkSequence, NumpyConverter
from flowerpress.errors import ConfigError

PLAIN = PlainConverter()


def stored(chunks: list[Any], converter: NumpyConverter[Any] = PLAIN) -> Any:
    array = LazyChunkSequence(lambda: (x for x in chunks)).to_zarr(MemoryStore(), converter, return_stored=True)
    assert isinstance(array, zarr.Array)
    return array


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array(["2020-02-29"], "datetime64[D]"), None),
        (np.array([object()]), "Zarr has no object"),
        (np.zeros(2, ml_dtypes.int4), "Zarr has no int4"),
    ],
)
def test_other_types_are_not_converted(x: np.ndarray, words: str | None) -> None:
    if words is None:
        found = stored([x])[:]
        assert (found.dtype, found.tolist()) == (x.dtype, x.tolist())
    else:
        with pytest.raises(ConfigError, match=words):
            stored([x])


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.float16, torch.float8_e5m2]
)
def test_torch(dtype: torch.dtype) -> None:
    chunks = [torch.randn(3, 2).to(dtype), torch.randn(1, 2).to(dtype)]
    converter = TorchConverter(dtype=dtype)
    array = stored(chunks, converter)
    found = converter.from_numpy(array[:])
    assert found.dtype == dtype
    assert torch.equal(found.float(), torch.cat(chunks).float())  # torch compares no float8
    assert str(found.device) == "cpu"


def test_torch_tensors_that_need_a_gradient_or_lie_across() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    assert np.array_equal(TorchConverter().to_numpy(x.T), x.detach().numpy().T)
    y = np.arange(3.0)
    z = TorchConverter().from_numpy(y)
    y[0] = 9
    assert z.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_floats_are_stored_exactly(dtype: str) -> None:
    x = of_dtype(dtype, (5, 2))
    array = stored([x])
    assert array.dtype == np.float32
    assert np.array_equal(PLAIN.from_numpy(array[:]).astype(getattr(ml_dtypes, dtype)), x)
